//! A gas-aware relayer as a library: it takes signed requests, promises inclusion by a deadline, batches them, and
//! drives every transaction to finality, executing each request at most once.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use slackwater::{ChainSetup, ChainSpec, Forward, LocalSigner, Relay, Submission, WaitFor};
//!
//! # async fn example(forward: Forward, key: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let chain = ChainSetup::new(ChainSpec::preset("anvil")?)
//!     .rpc("http://127.0.0.1:8545")
//!     .signer(LocalSigner::from_hex(key)?)
//!     .forwarder(forward.forwarder);
//! let relay = Relay::builder().chain(chain).database("ledger.db").start().await?;
//!
//! // `forward` is signed by a user's wallet (EIP-712). Durable and promised when this returns; no chain was waited for.
//! let accepted = relay.submit(Submission::forward(31_337, forward).within(Duration::from_secs(30))).await?;
//! let done = accepted.wait(WaitFor::Terminal).await?;
//! println!("{}: {} in {:?}", accepted.id(), done.status, done.tx_hash);
//! relay.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! A complete program is in `examples/embed.rs`.
//!
//! # Where to begin
//! [`Relay::builder`] configures and starts; [`Relay::tenant`] submits, quotes and cancels; [`Relay::history`] reads what
//! the ledger holds; [`Relay::models`] manages forecast models. A program that talks to a relayer over HTTP needs the
//! crate `slackwater-client` instead. The decisions themselves are in `slackwater-core`, the storage in
//! `slackwater-ledger`: this crate exports of them what an embedder needs.
//!
//! # Extension points
//! A key in a KMS or a hardware module: [`Signer`]. A second opinion before each acceptance: [`AdmissionHook`]. Each has
//! a conformance test in [`conformance`]. The ledger is *not* open to other implementations: whether a request runs
//! once depends on details that a trait can't state, so it is SQLite or PostgreSQL.

// Modules of the decisions and the ledger, under the same paths as there.
use slackwater_core::{
    chain, forecast, lane, market, policy, protection, provenance, record, request, schedule, sender, time,
};
use slackwater_ledger as ledger;

mod relay;

pub use relay::{
    Accepted, AccountKey, AdmissionHook, AdmissionRequest, BatchView, BuildError, CancelError, ChainHealth, ChainSetup,
    ChainStatus, ClusterConfig, Denied, EndpointStatus, EventStream, FeeSource, ForecastView, ForwarderSetup, History,
    HookSetup, IdentityKey, LaneStatus, LedgerSetup, LocalSigner, ModelError, ModelInfo, Models, PauseError,
    PolicyError, Quote, Relay, RelayBuilder, RelayConfig, RpcEndpoint, RpcError, RpcPool, SignFault, Signer,
    SignerError, SubmitError, TenantHandle, TokenSetup, TokenStatus, WaitError, WaitFor, WaitQuote,
};
pub use slackwater_core::{
    Timestamp,
    chain::{ChainSpec, Fees, PresetError, SpecError},
    forecast::{Forecast, HorizonForecast},
    market::SourceStatus,
    policy::{
        Budget, BudgetError, BudgetShares, OpenError, OpenLimits, PauseScope, Pauses, PolicyDenial, TargetRule,
        TenantPolicy,
    },
    provenance::Head,
    request::{
        Authorization, BatchId, Call, Deadline, Forward, ForwarderDomain, KindName, Promise, Reason, RequestId,
        RequestKind, Status, Submission, TokenDomain, VerifyError,
    },
};
#[cfg(feature = "postgres")]
pub use slackwater_ledger::PostgresConfig;
pub use slackwater_ledger::{
    AccountRow, AttemptRecord, BatchRecord, DecisionRow, EventFilter, EventRecord, GroupCommitConfig, KeyUse,
    LedgerError, MarginRow, RequestFilter, RequestRecord, SqliteConfig, StorageFault,
};

pub mod conformance;

/// Settings of a chain, in groups.
pub mod tuning {
    pub use slackwater_core::{
        request::Unsimulated,
        sender::tuning::{
            AdmissionTuning, BatchTuning, ChainTuning, FeeTuning, ForecastTuning, HeadTuning, LaneTuning, MarketTuning,
            QueueTuning, RetryTuning, RpcTuning, SimulationTuning, TimingMode, TimingTuning,
        },
    };
}

/// For the programs of this repository; may change in any version.
#[doc(hidden)]
pub mod internal {
    #[cfg(feature = "fuzzing")]
    pub use crate::relay::read_any_reply;
    #[cfg(feature = "simulation")]
    pub use crate::relay::simulated;
    pub use crate::relay::{
        ConfigMismatch, DEFAULT_TRANSFER_GAS, InstanceConfig, RpcReply, RpcTransport, SetupFault, SubscriptionError,
        UrlFault, call_problems, check_http_url, check_token, check_ws_url, compare_instances,
    };
}
