//! Verification of the relayer's statements: its promise, its claims about the chain, its decision log and the
//! forwarder that it names. Checked with the user's own data: the request, the relayer's pinned address, a node of the
//! user's own, a head of the log from another source.

mod forwarder;
mod inclusion;
mod log;
mod promise;

pub use forwarder::{ForwarderCheck, ForwarderFault};
pub use inclusion::{Binding, InclusionCheck, InclusionClaim, Mismatch, Verdict};
pub use log::{LogFault, LogProof, verify_log, verify_log_page};
pub use promise::{CLOCK_TOLERANCE, ExpectedPromise, PromiseFault, pin_for, verify_accepted, verify_promise};
