//! The running relay, [`Relay`]: builder and handle over tasks, RPC pool, signers, broadcaster and watcher.

mod acceptance;
mod admission;
mod api;
mod builder;
mod chain_service;
mod chance;
mod clock;
mod cluster;
mod contracts;
mod culprit;
mod data_fee;
mod error;
mod fees;
mod foresight;
mod health;
mod host;
mod journal;
mod keys;
mod learned;
mod log;
mod market;
mod members;
mod message;
mod model_store;
mod models;
mod notices;
mod pace;
mod pause;
mod pruned;
mod receipts;
#[cfg(feature = "fuzzing")]
mod replies;
mod restore;
mod rpc;
mod setup;
mod shared;
mod signer;
mod simulate;
mod spender;
mod start;
mod status;
mod stranger;
mod tenants;
mod watcher;
mod work;

pub use api::{Relay, WaitFor};
pub use builder::{ChainSetup, ForwarderSetup, LedgerSetup, RelayBuilder, RelayConfig};
#[cfg(feature = "simulation")]
pub use clock::simulated;
pub use cluster::ClusterConfig;
pub use error::{BuildError, CancelError, PolicyError, SubmitError, WaitError};
pub use foresight::{ForecastView, ModelInfo, WaitQuote};
pub use members::{Discord, Told, compare as compare_members};
pub use models::ModelError;
pub use pause::PauseError;
#[cfg(feature = "fuzzing")]
pub use replies::read_any_reply;
pub use rpc::{RpcEndpoint, RpcError, RpcPool, RpcReply, RpcTransport, SubscriptionError};
pub use setup::{SetupFault, UrlFault, call_problems, check_http_url, check_ws_url};
pub use signer::{IdentityKey, LocalSigner, SignerError};
pub use status::{
    Acceptance, BatchView, ChainHealth, ChainStatus, EndpointStatus, FeeSource, LaneStatus, Quote, SubmitItem,
};

pub use crate::sender::tuning::{
    AdmissionTuning, BatchTuning, ChainTuning, FeeTuning, ForecastTuning, HeadTuning, LaneTuning, MarketTuning,
    RetryTuning, RpcTuning, SimulationTuning, TimingMode, TimingTuning,
};
