//! A relay in the page: `slackwater_client::local`, driven from JavaScript.

use std::time::Duration;

use alloy_primitives::{Bytes, U256};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use slackwater_client::{
    local::{
        self, Admitted, CallAnswer, ConfigError, LocalAsk, LocalCommand, LocalConfig, LocalError, LocalTiming,
        SessionKey, WithdrawAsk, WithdrawError, Withdrawal,
    },
    read_json,
};
use slackwater_core::{
    chain::ReplacementRule,
    request::{Call, Forward, Status},
};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use crate::{
    interop::{Failure, encoded, read, write},
    node::{Finality, JsUnknown},
    request::{JsDomain, JsForward, bytes, read_forward},
    scalar::{Account, HexBytes, Quantity, instant, number, request_id, whole},
};

#[wasm_bindgen]
extern "C" {
    /// `PageChain` of `types.page.d.ts`.
    #[wasm_bindgen(typescript_type = "PageChain")]
    #[derive(Debug)]
    pub type JsChain;
    /// `PageCall` of `types.page.d.ts`.
    #[wasm_bindgen(typescript_type = "PageCall")]
    #[derive(Debug)]
    pub type JsCall;
    /// `Admitted` of `types.page.d.ts`.
    #[wasm_bindgen(typescript_type = "Admitted")]
    #[derive(Debug)]
    pub type JsAdmitted;
    /// `PageCommand` of `types.page.d.ts`.
    #[wasm_bindgen(typescript_type = "PageCommand | undefined")]
    #[derive(Debug)]
    pub type JsCommand;
    /// `PageRequest` of `types.page.d.ts`.
    #[wasm_bindgen(typescript_type = "PageRequest | undefined")]
    #[derive(Debug)]
    pub type JsRequest;
    /// `PageRequest` of `types.page.d.ts`.
    #[wasm_bindgen(typescript_type = "PageRequest[]")]
    #[derive(Debug)]
    pub type JsRequests;
    /// `PageAccount` of `types.page.d.ts`.
    #[wasm_bindgen(typescript_type = "PageAccount")]
    #[derive(Debug)]
    pub type JsAccount;
    /// `PageReport` of `types.page.d.ts`.
    #[wasm_bindgen(typescript_type = "PageReport")]
    #[derive(Debug)]
    pub type JsReport;
    /// `PageLimits` of `types.page.d.ts`.
    #[wasm_bindgen(typescript_type = "PageLimits")]
    #[derive(Debug)]
    pub type JsLimits;
    /// `PageWithdrawAsk` of `types.page.d.ts`.
    #[wasm_bindgen(typescript_type = "PageWithdrawAsk")]
    #[derive(Debug)]
    pub type JsWithdrawAsk;
    /// `PageWithdrawal` of `types.page.d.ts`.
    #[wasm_bindgen(typescript_type = "PageWithdrawal")]
    #[derive(Debug)]
    pub type JsWithdrawal;
}

/// True for the status of a request that has ended.
#[wasm_bindgen(js_name = isEnd)]
pub fn is_end(status: &str) -> bool {
    Status::from_name(status).is_some_and(Status::is_terminal)
}

impl From<WithdrawError> for Failure {
    fn from(error: WithdrawError) -> Self {
        Self::new(error.code(), error)
    }
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        Self::new(error.code(), error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::argument(format_args!("chain: {error}"))
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Replacement {
    Bump,
    None,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Timing {
    Immediate,
    Percentile,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Chain {
    chain_id: Quantity<u64>,
    block_time_ms: u64,
    finality: Option<Finality>,
    replacement: Option<Replacement>,
    l1_fee_oracle: Option<Account>,
    timing: Option<Timing>,
    max_fee_per_gas: Option<Quantity<u128>>,
    min_priority_fee_per_gas: Option<Quantity<u128>>,
    cancel_gas: Option<u64>,
    poll_interval_ms: Option<u64>,
    rpc_timeout_ms: Option<u64>,
    max_batch: Option<usize>,
    linger_ms: Option<u64>,
    bump_after_blocks: Option<u64>,
    max_within_ms: Option<u64>,
    max_open: Option<usize>,
    keep_ended_ms: Option<u64>,
    #[serde(default)]
    allow_unknown_forwarder: bool,
}

impl Chain {
    fn config(self) -> Result<LocalConfig, Failure> {
        let mut config = LocalConfig::new(self.chain_id.0, Duration::from_millis(self.block_time_ms.clamp(1, 600_000)));
        config.block_time = Duration::from_millis(self.block_time_ms);
        if let Some(finality) = self.finality {
            config.finality = finality.rule()?;
        }
        if matches!(self.replacement, Some(Replacement::None)) {
            config.replacement = ReplacementRule::NoPool;
        }
        if matches!(self.timing, Some(Timing::Immediate)) {
            config.timing = LocalTiming::Immediate;
        }
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        let ms = |value: Option<u64>| value.map(Duration::from_millis);
        config.l1_fee_oracle = self.l1_fee_oracle.map(|account| account.0);
        set(&mut config.fees.max_fee_ceiling_wei_per_gas, self.max_fee_per_gas.map(|fee| fee.0));
        set(&mut config.min_priority_fee_wei_per_gas, self.min_priority_fee_per_gas.map(|fee| fee.0));
        set(&mut config.lane.cancel_gas, self.cancel_gas);
        set(&mut config.poll_interval, ms(self.poll_interval_ms));
        set(&mut config.rpc_timeout, ms(self.rpc_timeout_ms));
        set(&mut config.batch.max_batch, self.max_batch);
        set(&mut config.batch.linger, ms(self.linger_ms));
        set(&mut config.lane.bump_after_blocks, self.bump_after_blocks);
        set(&mut config.max_within, ms(self.max_within_ms));
        set(&mut config.max_open, self.max_open);
        set(&mut config.keep_ended, ms(self.keep_ended_ms));
        config.allow_unknown_forwarder = self.allow_unknown_forwarder;
        Ok(config)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CallIn {
    to: Account,
    #[serde(default)]
    value: Quantity<U256>,
    gas: Quantity<U256>,
    #[serde(default)]
    data: HexBytes,
    salt: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Limits {
    within_ms: Option<f64>,
    max_cost: Option<Quantity<U256>>,
    open: usize,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WithdrawIn {
    balance: Quantity<U256>,
    leave: Option<Quantity<U256>>,
    base_fee: Option<Quantity<u128>>,
    tip: Option<Quantity<u128>>,
    open: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WithdrawalView {
    value: Quantity<U256>,
    gas: u64,
    max_cost: Quantity<U256>,
}

#[derive(Debug, Serialize)]
struct AdmittedView<'a> {
    id: String,
    key: &'a str,
    record: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum CommandView<'a> {
    Store { key: &'a str, revision: u64, record: &'a str },
    Remove { key: &'a str },
    Call { id: u64, method: &'static str, params: &'a Value },
    Changed { id: String },
    Alert { code: &'static str, detail: &'a str },
}

impl<'a> From<&'a LocalCommand> for CommandView<'a> {
    fn from(command: &'a LocalCommand) -> Self {
        match command {
            LocalCommand::Store { key, revision, record } => Self::Store { key, revision: *revision, record },
            LocalCommand::Remove { key } => Self::Remove { key },
            LocalCommand::Call { call, method, params } => Self::Call { id: *call, method, params },
            LocalCommand::Changed { id } => Self::Changed { id: id.to_string() },
            LocalCommand::Alert { code, detail } => Self::Alert { code, detail },
        }
    }
}

#[derive(Debug, Serialize)]
struct ReportView<'a> {
    open: usize,
    ended: usize,
    damaged: &'a [String],
}

/// Queues, batches and sends requests from a session key through one node. After every call carry out the commands of
/// [`Self::next_command`] until there are none, and call [`Self::timeout`] at [`Self::next_timeout`].
#[wasm_bindgen]
#[derive(Debug)]
pub struct LocalRelay {
    inner: local::LocalRelay,
}

impl LocalRelay {
    fn admit(&self, now: f64, ask: LocalAsk, limits: &JsLimits) -> Result<JsAdmitted, Failure> {
        let Limits { within_ms, max_cost, open } = read("limits", limits)?;
        let within = within_ms.map(|ms| Duration::from_millis(whole(ms)));
        let max_cost = max_cost.map(|cost| cost.0);
        let Admitted { id, key, record } = self.inner.admit(instant(now), ask, within, max_cost, open)?;
        write(&AdmittedView { id: id.to_string(), key: &key, record: &record })
    }
}

#[wasm_bindgen]
impl LocalRelay {
    /// A relay without state; call `load` with the stored records before anything else. `key` is 32 bytes of hex.
    ///
    /// # Errors
    /// `invalid_argument`; the message does not contain the key.
    #[wasm_bindgen(constructor)]
    pub fn new(chain: &JsChain, key: &str) -> Result<Self, Failure> {
        let config = read::<Chain>("chain", chain)?.config()?;
        Ok(Self { inner: local::LocalRelay::new(config, SessionKey::from_hex(key)?)? })
    }

    /// Loads the stored records, a JSON list of pairs of key and record: once, before any other call.
    ///
    /// # Errors
    /// `invalid_argument` if `records` is not such a list; `storage_damaged` if it can't continue safely.
    pub fn load(&mut self, now: f64, records: &str) -> Result<JsReport, Failure> {
        // No limit of size: it is the page's own storage.
        let records: Vec<(String, String)> = read_json(records.as_bytes()).map_err(Failure::argument)?;
        let report = self.inner.load(instant(now), records)?;
        write(&ReportView { open: report.open, ended: report.ended, damaged: &report.damaged })
    }

    /// Checks a user's signed request, and returns the record that makes it durable.
    ///
    /// # Errors
    /// Codes of `VerifyError` and `LocalError`.
    #[wasm_bindgen(js_name = admitForward)]
    pub fn admit_forward(
        &self,
        now: f64,
        domain: &JsDomain,
        request: &JsForward,
        signature: &str,
        limits: &JsLimits,
    ) -> Result<JsAdmitted, Failure> {
        let (domain, forward) = read_forward(domain, request)?;
        let signature: Bytes = bytes("signature", signature)?;
        let ask = LocalAsk::Forward { forward: Forward { signature, ..forward }, domain };
        self.admit(now, ask, limits)
    }

    /// Checks a call of the session key, and returns the record that makes it durable.
    ///
    /// # Errors
    /// Codes of `VerifyError` and `LocalError`.
    #[wasm_bindgen(js_name = admitCall)]
    pub fn admit_call(&self, now: f64, call: &JsCall, limits: &JsLimits) -> Result<JsAdmitted, Failure> {
        let CallIn { to, value, gas, data, salt } = read("call", call)?;
        let call = Call { to: to.0, value: value.0, gas: gas.0, data: data.0, any_sender: false, salt };
        self.admit(now, LocalAsk::Call(call), limits)
    }

    /// The call that sends what the session key owns, but for what the transaction may cost.
    ///
    /// # Errors
    /// `invalid_argument`, `busy`, `nothing_to_withdraw`.
    pub fn withdrawal(&self, ask: &JsWithdrawAsk) -> Result<JsWithdrawal, Failure> {
        let WithdrawIn { balance, leave, base_fee, tip, open } = read("withdrawal", ask)?;
        let Withdrawal { value_wei, gas, max_cost_wei } = self.inner.withdrawal(&WithdrawAsk {
            balance_wei: balance.0,
            leave_wei: leave.map(|wei| wei.0),
            base_fee: base_fee.map_or(0, |fee| fee.0),
            tip: tip.map(|fee| fee.0),
            open,
        })?;
        write(&WithdrawalView { value: Quantity(value_wei), gas, max_cost: Quantity(max_cost_wei) })
    }

    /// Adds a request whose record is durable, and returns its id. Idempotent.
    ///
    /// # Errors
    /// `storage_damaged` for an invalid record.
    pub fn take(&mut self, now: f64, key: &str, record: &str) -> Result<String, Failure> {
        Ok(self.inner.take(instant(now), key, record)?.to_string())
    }

    /// Withdraws a request that is in no transaction.
    ///
    /// # Errors
    /// `invalid_argument`, `not_found`, `too_late`.
    pub fn cancel(&mut self, now: f64, id: &str) -> Result<(), Failure> {
        Ok(self.inner.cancel(instant(now), request_id(id)?)?)
    }

    /// Forgets a request that has ended. False if it has not.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn acknowledge(&mut self, id: &str) -> Result<bool, Failure> {
        Ok(self.inner.acknowledge(request_id(id)?))
    }

    /// The next command; `undefined` if there is none.
    ///
    /// # Errors
    /// `internal` only.
    #[wasm_bindgen(js_name = nextCommand)]
    pub fn next_command(&mut self) -> Result<JsCommand, Failure> {
        match self.inner.next_command() {
            None => Ok(JsCommand::from(JsValue::UNDEFINED)),
            Some(command) => write(&CommandView::from(&command)),
        }
    }

    /// The record of this revision is durable.
    pub fn stored(&mut self, now: f64, key: &str, revision: f64) {
        self.inner.stored(instant(now), key, whole(revision));
    }

    /// The record of this revision could not be stored.
    #[wasm_bindgen(js_name = storeFailed)]
    pub fn store_failed(&mut self, now: f64, key: &str, revision: f64) {
        self.inner.store_failed(instant(now), key, whole(revision));
    }

    /// Passes in the node's `result` of a call.
    pub fn answered(&mut self, now: f64, call: f64, result: &JsUnknown) {
        let answer = encoded(result).map_or(CallAnswer::Lost, CallAnswer::Result);
        self.inner.answered(instant(now), whole(call), answer);
    }

    /// Passes in the node's `error` of a call.
    #[expect(clippy::cast_possible_truncation, reason = "saturates; JSON-RPC codes are small")]
    pub fn refused(&mut self, now: f64, call: f64, code: f64, message: String) {
        let code = code as i64;
        self.inner.answered(instant(now), whole(call), CallAnswer::Error { code, message });
    }

    /// No answer came: the node may have received the call all the same.
    pub fn lost(&mut self, now: f64, call: f64) {
        self.inner.answered(instant(now), whole(call), CallAnswer::Lost);
    }

    /// Time at which to call [`Self::timeout`], Unix ms; `undefined` if there is none.
    #[wasm_bindgen(js_name = nextTimeout)]
    pub fn next_timeout(&self) -> Option<f64> {
        self.inner.next_timeout().map(number)
    }

    /// Handles the passing of time; see [`Self::next_timeout`].
    pub fn timeout(&mut self, now: f64) {
        self.inner.timeout(instant(now));
    }

    /// A request; `undefined` if it is unknown or was forgotten.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn request(&self, id: &str) -> Result<JsRequest, Failure> {
        match self.inner.request(request_id(id)?) {
            None => Ok(JsRequest::from(JsValue::UNDEFINED)),
            Some(view) => write(&view),
        }
    }

    /// All known requests, in order of arrival.
    ///
    /// # Errors
    /// `internal` only.
    pub fn requests(&self) -> Result<JsRequests, Failure> {
        write(&self.inner.requests())
    }

    /// The account that pays.
    ///
    /// # Errors
    /// `internal` only.
    pub fn account(&self) -> Result<JsAccount, Failure> {
        write(&self.inner.account())
    }
}
