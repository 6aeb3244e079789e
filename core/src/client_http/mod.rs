//! The client's shell for Rust services: HTTP by `reqwest`, waiting by `tokio`, an outbox on a file (feature
//! `client-http`). Everything that is decided is decided in [`crate::client`].

mod file;
mod follow;
mod outbox;
mod transport;

pub use file::{FileStorage, StorageError};
pub use follow::Following;
pub use outbox::{DurableOutbox, DurableOutboxError, Outcomes};
pub use transport::{HttpTransport, RelayerClient};
