//! The running relay, [`Relay`]: what it decides is in `sender`; here is the work.
//!
//! | in this order | answers |
//! |---|---|
//! | `handle` | what does an embedder hold? |
//! | `admission` | how does a submission become a durable, promised request? |
//! | `chain` | who carries out what a chain's sender wants? |
//! | `nodes` | what do the nodes say, and which of it counts? |
//! | `market` | what does the chain look like now, and what will it cost? |
//! | `rpc` | how is a node asked? |
//! | `cluster` | who drives the lanes where several instances share a ledger? |
//! | `start` | how does a configuration become a running relay? |

mod admission;
mod chain;
mod chance;
mod clock;
mod cluster;
mod handle;
mod market;
mod nodes;
#[cfg(feature = "fuzzing")]
mod replies;
mod rpc;
mod signer;
mod start;

pub use admission::hook::{AdmissionHook, AdmissionRequest, Denied, HookSetup};
pub use admission::pause::PauseError;
#[cfg(feature = "simulation")]
pub use clock::simulated;
pub use cluster::instances::{ConfigMismatch, InstanceConfig, compare as compare_instances};
pub use cluster::membership::ClusterConfig;
pub use handle::api::{Relay, WaitFor};
pub use handle::builder::RelayBuilder;
pub use handle::config::{ChainSetup, DEFAULT_TRANSFER_GAS, ForwarderSetup, LedgerSetup, RelayConfig, TokenSetup};
pub use handle::error::{BuildError, CancelError, PolicyError, SubmitError, WaitError};
pub use handle::history::{EventStream, History};
pub use handle::models::ModelError;
pub use handle::registry::Models;
pub use handle::setup::{SetupFault, call_problems};
pub use handle::status::{
    BatchView, ChainHealth, ChainStatus, EndpointStatus, FeeSource, LaneStatus, Quote, TokenStatus,
};
pub use handle::tenant::{Accepted, TenantHandle};
pub use market::forecast::{ForecastView, ModelInfo, WaitQuote};
#[cfg(feature = "fuzzing")]
pub use replies::read_any_reply;
pub use rpc::url::{UrlFault, check_http_url, check_ws_url};
pub use rpc::{RpcEndpoint, RpcError, RpcPool, RpcReply, RpcTransport, SubscriptionError};
pub(crate) use signer::checked;
pub use signer::{AccountKey, IdentityKey, LocalSigner, SignFault, Signer, SignerError};
pub use start::tokens::check_token;
