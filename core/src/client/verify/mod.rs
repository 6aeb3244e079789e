//! Does the relayer tell the truth? Its promise, its claims about the chain and its decision log, checked with what the
//! user has: the request, the relayer's pinned address, a node of the user's own, a head of the log from elsewhere. And is
//! the forwarder that the relayer names one at all?

mod forwarder;
mod inclusion;
mod log;
mod promise;

pub use forwarder::{ForwarderCheck, ForwarderFault};
pub use inclusion::{Binding, InclusionCheck, InclusionClaim, Mismatch, Verdict};
pub use log::{LogFault, LogProof, verify_log, verify_log_page};
pub use promise::{CLOCK_TOLERANCE, ExpectedPromise, PromiseFault, pin_for, verify_accepted, verify_promise};
