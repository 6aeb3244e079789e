//! The client's shell for Rust services: HTTP by `reqwest`, waiting by `tokio`, an outbox in a file (feature
//! `client-http`). All decisions are made in [`crate::client`].

mod file;
mod follow;
mod outbox;
mod transport;

pub use file::{FileStorage, StorageError};
pub use follow::{Events, Following};
pub use outbox::{DurableOutbox, DurableOutboxError, Outcomes};
pub use transport::{HttpTransport, RelayerClient};
