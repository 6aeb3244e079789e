//! The relayer itself: chains, lanes, forecasts, sources, pauses, probes.

use std::{borrow::Cow, collections::BTreeMap};

use alloy_primitives::B256;

use super::{
    macros::wire,
    number::{Account, Price, Uint},
    open::OpenStatus,
    story::Fees,
};
use crate::time::Timestamp;

wire! {
    /// A forwarder that is served.
    #[derive(Eq)]
    pub struct Forwarder {
        /// The contract.
        pub address: Account,
        /// `name` of its EIP-712 domain, as the relayer says; the version is `1`. A wallet that does not trust it reads
        /// `eip712Domain()` at its own node.
        pub name: String,
    }

    /// A token whose payments are made (kind `authorization`).
    #[derive(Eq)]
    pub struct Token {
        /// The contract.
        pub address: Account,
        /// `name` of its EIP-712 domain, as the relayer says. A wallet that does not trust it asks its own node.
        pub name: String,
        /// `version` of its EIP-712 domain.
        pub version: String,
        /// Gas that one payment may use, without the transaction's own: `gas` of a price question.
        pub transfer_gas: u64,
    }

    /// An RPC endpoint. Operators only.
    #[derive(Eq)]
    pub struct Endpoint {
        /// Configured name.
        pub name: String,
        /// Usable now.
        pub healthy: bool,
        /// Newest block that it told.
        pub head: Option<u64> = required,
        /// Its head against the other endpoints' heads: `with_the_others`, `behind`, `frozen` or `ahead`; in the last three cases
        /// it is asked last.
        pub place: String,
        /// Simulations of it that a receipt contradicted.
        pub false_simulations: u64,
        /// Calls made.
        pub calls: u64,
        /// Calls that failed.
        pub failures: u64,
        /// Moving average of the answer time, ms.
        pub latency_ms: u64,
        /// Last error.
        pub last_error: Option<String> = required,
        /// Its subscription to heads is up; `null` without `ws_url`.
        pub subscribed: Option<bool> = required,
    }

    /// A chain that is served.
    #[derive(Eq)]
    pub struct Chain {
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// Name of the preset, or the configured one.
        pub name: String,
        /// `starting`, `healthy`, `impaired` or `unavailable`.
        pub health: Cow<'static, str>,
        /// The reason why it is not healthy.
        pub detail: Option<String> = required,
        /// Head block number.
        pub head: Option<u64> = required,
        /// Head block timestamp, Unix seconds.
        pub head_timestamp_s: Option<u64> = required,
        /// Newest block that counts as final.
        pub final_block: Option<u64> = required,
        /// Base fee of the next block.
        pub next_base_fee_wei_per_gas: Option<Price> = required,
        /// Offer of a transaction that is sent now.
        pub fees: Option<Fees> = required,
        /// Requests that wait.
        pub queued: u64,
        /// Requests in transactions that are not final.
        pub in_flight: u64,
        /// Shortest deadline that is accepted, ms.
        pub guard_ms: u64,
        /// Time before a deadline at which a request is sent whatever the price, ms: learned from how long transactions take.
        pub guard_time_ms: u64,
        /// Inclusions whose delay was measured; the last 10 000 count.
        pub inclusions_measured: u64,
        /// Forwarders that are served.
        pub forwarders: Vec<Forwarder>,
        /// Tokens whose payments are made.
        #[serde(default)]
        pub tokens: Vec<Token> = required,
        /// Time since which too few endpoints tell what is final, Unix ms: nothing becomes final meanwhile. `null` if enough do.
        pub finality_stalled_since_ms: Option<u64> = required,
        /// Notes on the configuration: the cost of having one or two endpoints, for instance. For operators.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub warnings: Option<Vec<String>>,
        /// RPC endpoints; for operators.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub endpoints: Option<Vec<Endpoint>>,
    }

    /// The chains that are served.
    #[derive(Eq)]
    pub struct Chains {
        /// Address of the identity key that signs promises. Pin it: a promise proves nothing against an address that came
        /// with it.
        pub relayer: Account,
        /// The chains.
        pub chains: Vec<Chain>,
    }

    /// Fees of a chain now.
    #[derive(Eq)]
    pub struct ChainFees {
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// Head block number that the fees follow.
        pub head: Option<u64> = required,
        /// Head block timestamp, Unix seconds.
        pub head_timestamp_s: Option<u64> = required,
        /// Base fee of the next block.
        pub next_base_fee_wei_per_gas: Option<Price> = required,
        /// Offer of a transaction that is sent now.
        #[serde(flatten)]
        pub fees: Option<Fees>,
    }

    /// One sender account on one chain.
    #[derive(Eq)]
    pub struct Lane {
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// The account.
        pub sender: Account,
        /// Nonce of the next batch; `null` before reconciliation.
        pub next_nonce: Option<u64> = required,
        /// Transactions that are not in a block.
        pub in_flight: usize,
        /// Transactions in a block that is not final.
        pub unfinal: usize,
        /// Limit on `inFlight`.
        pub max_in_flight: usize,
        /// Balance, when last read.
        pub balance_wei: Option<Uint> = required,
        /// The reason why it does not send.
        pub paused: Option<String> = required,
    }

    /// The lanes.
    #[derive(Eq)]
    pub struct Lanes {
        /// The lanes.
        pub lanes: Vec<Lane>,
    }

    /// The base fee so many blocks ahead.
    pub struct Horizon {
        /// Blocks ahead; 1 is the next block.
        pub blocks: u32,
        /// Time from now, about, ms.
        pub ahead_ms: u64,
        /// Best single guess.
        pub point_wei_per_gas: Price,
        /// 10 % quantile.
        pub q10_wei_per_gas: Price,
        /// Median.
        pub q50_wei_per_gas: Price,
        /// 90 % quantile.
        pub q90_wei_per_gas: Price,
        /// Weights of the experts behind it; they add up to 1.
        pub experts: BTreeMap<String, f64>,
    }

    /// Treatment of a request that may wait so long.
    pub struct Slack {
        /// Time left, in blocks.
        pub blocks: u32,
        /// Time left, ms.
        pub slack_ms: u64,
        /// It is sent now.
        pub send_now: bool,
        /// Base fee up to which it would be sent now.
        pub reservation_wei_per_gas: Price,
        /// Expected saving by waiting.
        pub expected_saving_wei_per_gas: Price,
        /// The timing policy with the largest weight.
        pub policy: String,
        /// Weights of the timing policies above 1 %.
        pub policies: BTreeMap<String, f64>,
    }

    /// A chain's expected base fee.
    pub struct ChainForecast {
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// The block after which it was made.
        pub head: u64,
        /// Base fee of the next block.
        pub next_base_fee_wei_per_gas: Price,
        /// The protocol fixes `nextBaseFeeWeiPerGas`.
        pub next_is_exact: bool,
        /// Content hash of the models in force.
        #[cfg_attr(feature = "openapi", schema(value_type = super::schema::Hash))]
        pub model: B256,
        /// Content hash of this forecast; decisions that used it name it.
        #[cfg_attr(feature = "openapi", schema(value_type = super::schema::Hash))]
        pub inputs: B256,
        /// By horizon.
        pub horizons: Vec<Horizon>,
        /// By slack.
        pub slacks: Vec<Slack>,
    }

    /// One fitted set of models.
    pub struct Model {
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// Counts up from 1, never given twice.
        pub version: u32,
        /// Content hash.
        #[cfg_attr(feature = "openapi", schema(value_type = super::schema::Hash))]
        pub id: B256,
        /// In force.
        pub is_active: bool,
        /// In force until it is unpinned: later fits wait.
        pub is_pinned: bool,
        /// First block of the training data.
        pub first_block: u64,
        /// Last block of the training data.
        pub last_block: u64,
        /// By horizon in blocks.
        pub scores: BTreeMap<u32, ModelScores>,
    }

    /// Mean absolute errors of log fee on held-back data.
    #[derive(Copy)]
    pub struct ModelScores {
        /// Of the ridge regression.
        pub ridge: f64,
        /// Of the next base fee, taken to stay.
        pub persistence: f64,
    }

    /// The fitted models.
    pub struct Models {
        /// The models.
        pub models: Vec<Model>,
    }

    /// One endpoint as a source of fees.
    #[derive(Eq)]
    pub struct Source {
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// Configured name; for operators.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub endpoint: Option<String>,
        /// `active`: its word counts. `probation`: it is compared with the others and does not count. `benched`: it does not
        /// count.
        pub standing: Cow<'static, str>,
        /// Beginning of its probation, Unix ms.
        pub benched_until_ms: Option<Timestamp> = required,
        /// Share of good blocks among the last, thousandths.
        pub reputation_permille: u32,
        /// Newest block that it reported.
        pub head: Option<u64> = required,
        /// Smoothed time that an answer takes, ms.
        pub latency_ms: u64,
        /// Good blocks.
        pub good: u64,
        /// Times that it did not answer.
        pub errors: u64,
        /// Blocks at which it was too far behind.
        pub lags: u64,
        /// Blocks at which it differed from the others.
        pub deviations: u64,
    }

    /// The fee sources.
    #[derive(Eq)]
    pub struct Sources {
        /// The sources.
        pub sources: Vec<Source>,
    }

    /// Number of requests with a status.
    #[derive(Eq)]
    pub struct CountRow {
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// Status.
        pub status: OpenStatus,
        /// Number of requests.
        pub count: u64,
    }

    /// Numbers of requests by chain and status, of all tenants.
    #[derive(Eq)]
    pub struct Counts {
        /// The numbers.
        pub counts: Vec<CountRow>,
        /// Newest event's sequence number.
        pub last_event_seq: u64,
    }

    /// The newest entry of the decision log.
    #[derive(Copy, Eq)]
    pub struct LogHead {
        /// Its number, from 1 on; 0 before the first.
        pub seq: u64,
        /// Its hash, to which all entries before lead.
        #[cfg_attr(feature = "openapi", schema(value_type = super::schema::Hash))]
        pub hash: B256,
    }

    /// A pause in force.
    #[derive(Eq)]
    pub struct Pause {
        /// Everything is paused.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub all: bool,
        /// This chain is paused.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub chain_id: Option<u64>,
        /// This tenant is paused.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tenant: Option<String>,
        /// The id of the API key that did it.
        pub by: String,
        /// Its beginning, Unix ms.
        pub at_ms: u64,
    }

    /// The pauses in force.
    #[derive(Eq)]
    pub struct Pauses {
        /// The widest first.
        pub pauses: Vec<Pause>,
    }

    /// A configuration value that changed.
    #[derive(Eq)]
    pub struct Change {
        /// The key.
        pub key: String,
        /// Its value before; absent if it had none.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub was: Option<String>,
        /// Its value now; absent if it has none.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub now: Option<String>,
    }

    /// Result of reading the configuration again.
    #[derive(Eq)]
    pub struct Reload {
        /// Values that changed; none if nothing did.
        pub changed: Vec<Change>,
    }

    /// Condition of one chain, for probes.
    #[derive(Eq)]
    pub struct Readiness {
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// `starting`, `healthy`, `impaired` or `unavailable`.
        pub health: Cow<'static, str>,
    }

    /// Answer to a probe.
    #[derive(Eq)]
    pub struct Probe {
        /// `ok`, `not_ready` or `stopped`.
        pub status: Cow<'static, str>,
        /// Version of the relayer.
        pub version: Cow<'static, str>,
        /// The chains; only in `/readyz`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub chains: Vec<Readiness>,
        /// The reason why the storage takes no writes now, so that nothing is accepted: `full`, `read_only`, `busy`, `io_error`,
        /// `unreachable`, `corrupt`, `in_doubt` or `other`; only in `/readyz`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub storage: Option<Cow<'static, str>>,
    }
}
