//! The RPC pool: one long-lived HTTP client per node, classification of every failure, sends to all nodes, hedged reads
//! from the healthiest, quorum where a decision depends on the answer, and subscriptions as hints for poll timing.

pub(in crate::relay) mod backoff;
mod discreet;
mod endpoint;
mod error;
mod feed;
#[cfg(test)]
mod heads_tests;
pub(in crate::relay) mod hedge;
mod node;
mod pool;
mod report;
pub(in crate::relay) mod standing;
mod subscription;
#[cfg(test)]
mod tests;
pub(in crate::relay) mod url;

pub use endpoint::{RpcEndpoint, RpcReply, RpcTransport};
pub use error::RpcError;
pub(in crate::relay) use feed::HeadFeed;
pub(in crate::relay) use pool::Conditions;
pub use pool::RpcPool;
pub use subscription::SubscriptionError;
#[cfg(feature = "fuzzing")]
pub(in crate::relay) use subscription::is_understood;

/// Longest error text kept, bytes.
const MAX_ERROR_BYTES: usize = 300;

/// `text`, truncated to [`MAX_ERROR_BYTES`].
fn bounded(text: impl Into<String>) -> String {
    let mut text: String = text.into();
    if text.len() > MAX_ERROR_BYTES {
        let mut end = MAX_ERROR_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}
