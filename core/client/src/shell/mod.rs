//! The client's shell for Rust services (feature `http`): HTTP by `reqwest`, waiting by `tokio`, an outbox in a file.
//! All decisions are made by the other modules of this crate.

mod file;
mod follow;
mod outbox;
mod transport;

pub use file::{FileStorage, StorageError};
pub use follow::{Events, Following};
pub use outbox::{DurableOutbox, DurableOutboxError, Outcomes};
pub use transport::{HttpTransport, RelayerClient};
