//! The queue and the batch composer.

mod compose;
mod entry;
mod expiry;
mod limits;
mod line;
mod pick;
mod places;
mod records;
mod requests;
mod signer;
mod signers;
mod state;
mod tenants;
mod unknown;

pub use compose::{Selection, Trigger};
pub use entry::{QueuedRequest, Refusals};
pub use limits::{ComposeLimits, Short};
pub use state::{Callers, Queue};
