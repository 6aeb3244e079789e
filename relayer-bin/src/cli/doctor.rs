//! `doctor`: checks that everything needed is present, and that the chain matches the preset.

use std::{io::IsTerminal, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U64, U128, U256, keccak256};
use alloy_sol_types::SolCall;
use clap::Args;
use serde::Deserialize;
use serde_json::json;
use slackwater::{
    AccountKey, ChainSetup, IdentityKey, RpcEndpoint, RpcPool, TokenSetup, TokenStatus,
    internal::{InstanceConfig, SubscriptionError, compare_instances},
};
use slackwater_contracts::{capped_calls, forwarder, multicall3};
use slackwater_core::chain::{
    ChainFamily, ChainSpec, FeeHeader, FinalityRule, LineaPricing, NextBaseFee, OpBaseFeeParams,
};
use slackwater_ledger::{Leases, Ledger, PostgresConfig, PostgresLedger, SqliteConfig, SqliteLedger};

use super::{
    ConfigArgs,
    error::CliError,
    printable::{printable, printable_json},
    watch::instant,
};
use crate::config::{Config, Readers};

/// Blocks whose base fee is computed and compared.
const BLOCKS: u64 = 8;
/// Block times without a new block after which the head is called stale.
const STALE_BLOCKS: u64 = 10;
/// Least age at which the head is called stale: some chains make blocks on demand.
const STALE_FLOOR_S: u64 = 60;

/// An unused account, and code that returns 42: the answer of a node that supports state overrides.
const PROBE: Address = Address::repeat_byte(0x5a);
const PROBE_CODE: &str = "0x602a60005260206000f3";

/// One block of an `eth_simulateV1` result.
#[derive(Debug, Deserialize)]
struct SimulatedBlock {
    calls: Vec<SimulatedCall>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SimulatedCall {
    return_data: Bytes,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, serde::Serialize)]
struct Finding {
    grade: Grade,
    subject: String,
    finding: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, grade: Grade, subject: &str, finding: impl Into<String>, fix: &str) {
        let fix = (grade != Grade::Ok && !fix.is_empty()).then(|| fix.to_owned());
        self.0.push(Finding { grade, subject: subject.to_owned(), finding: finding.into(), fix });
    }

    fn ok(&mut self, subject: &str, finding: impl Into<String>) {
        self.add(Grade::Ok, subject, finding, "");
    }
}

/// A block header, reduced to the fields that are checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    number: U64,
    timestamp: U64,
    gas_used: U64,
    gas_limit: U64,
    #[serde(default)]
    base_fee_per_gas: Option<U128>,
    #[serde(default)]
    blob_gas_used: Option<U64>,
    #[serde(default)]
    excess_blob_gas: Option<U64>,
    #[serde(default)]
    extra_data: Bytes,
}

impl Header {
    fn fees(&self) -> FeeHeader {
        FeeHeader {
            number: self.number.to(),
            timestamp: self.timestamp.to(),
            base_fee_per_gas: self.base_fee_per_gas.map_or(0, |fee| fee.to()),
            gas_used: self.gas_used.to(),
            gas_limit: self.gas_limit.to(),
            blob_gas_used: self.blob_gas_used.map(|gas| gas.to()),
            excess_blob_gas: self.excess_blob_gas.map(|gas| gas.to()),
        }
    }
}

pub(super) async fn run(args: DoctorArgs) -> Result<(), CliError> {
    let config = args.config.sources().load()?;
    let mut report = Report::default();
    report.ok("configuration", format!("valid, {} values", config.entries.len()));
    check_settings(&mut report, &config);
    check_readers(&mut report, &config);
    match config.resolve() {
        Err(errors) => {
            for error in errors.0 {
                report.add(Grade::Fail, "secrets", error.to_string(), "put the secret where the configuration says");
            }
        }
        Ok(resolved) => {
            report.ok("secrets", "all there");
            match &resolved.postgres {
                Some(postgres) => {
                    let instance = config.shared.as_ref().map_or("", |shared| shared.cluster.instance.as_str());
                    // Without an identity key of its own, the first lane's is used.
                    let first = resolved.chains.iter().flat_map(|chain| &chain.signers).next();
                    let identity = resolved.identity.as_ref().map(IdentityKey::address);
                    let identity = identity.or_else(|| first.map(AccountKey::address)).unwrap_or_default();
                    check_database(&mut report, postgres, instance, &InstanceConfig::new(identity, &resolved.chains))
                        .await;
                }
                None => check_file(&mut report, &config.sqlite).await,
            }
            for chain in &resolved.chains {
                check_chain(&mut report, chain).await;
            }
        }
    }
    print(&report, args.json);
    let failed = report.0.iter().filter(|finding| finding.grade == Grade::Fail).count();
    if failed > 0 {
        return Err(CliError::failed(format!("{failed} checks failed")));
    }
    Ok(())
}

fn print(report: &Report, is_json: bool) {
    if is_json {
        println!("{}", printable_json(json!(report.0)));
        return;
    }
    let colours = std::io::stdout().is_terminal();
    for finding in &report.0 {
        let (name, colour) = match finding.grade {
            Grade::Ok => ("ok  ", "\x1b[32m"),
            Grade::Warn => ("warn", "\x1b[33m"),
            Grade::Fail => ("FAIL", "\x1b[31m"),
        };
        let name = if colours { format!("{colour}{name}\x1b[0m") } else { name.to_owned() };
        println!("{name}  {}: {}", printable(&finding.subject), printable(&finding.finding));
        if let Some(fix) = &finding.fix {
            println!("      → {fix}");
        }
    }
}

/// Files that others may read.
fn check_readers(report: &mut Report, config: &Config) {
    for exposed in config.exposed() {
        let subject = format!("file {}", exposed.path.display());
        let (grade, who) = match exposed.readers {
            Readers::Everybody => (Grade::Fail, "everybody on this machine"),
            Readers::Group => (Grade::Warn, "its group"),
        };
        report.add(grade, &subject, format!("{who} may read {}", exposed.what), "chmod 600, as the relayer's user");
    }
}

/// Settings that are allowed but unwise.
fn check_settings(report: &mut Report, config: &Config) {
    if config.allow_anonymous {
        report.add(
            Grade::Warn,
            "server.allow_anonymous",
            "every program on this machine, and every web page in a browser on this machine that `server.cors_origins` \
             names, can spend the relayer's money",
            "give every tenant an API key",
        );
    }
    if config.identity.is_none() {
        report.add(
            Grade::Warn,
            "identity.key",
            "promises are signed with the first lane's key, which also holds money",
            "make a key of its own with `slackwater keys new`",
        );
    }
    for tenant in &config.tenants {
        let (policy, subject) = (&tenant.policy, format!("tenant {}", tenant.policy.id));
        if policy.budget.is_none() {
            report.add(Grade::Warn, &subject, "has no budget: its spending is unlimited", "set `budget`");
        }
        if policy.targets.is_none() || !policy.others.is_empty() {
            report.add(Grade::Warn, &subject, "may use any contract", "name the contracts in `targets`");
            if !policy.max_value_wei.is_zero() {
                let finding = "may send the relayer's own money to anybody";
                report.add(
                    Grade::Warn,
                    &subject,
                    finding,
                    "name the contracts in `targets`, or leave out `max_value_wei`",
                );
            }
        }
        if policy.rate_per_s.is_none() {
            report.add(Grade::Warn, &subject, "may ask as often as it likes", "set `rate_per_s`");
        }
    }
    for chain in &config.chains {
        if chain.endpoints.len() < 2 && chain.spec.family != ChainFamily::Anvil {
            let subject = format!("chain {}", chain.spec.chain_id);
            report.add(Grade::Warn, &subject, "has one RPC endpoint", "add a second, of another provider");
        }
    }
}

/// The shared database: reachable, commits durable, and the instance that drives each chain.
async fn check_database(report: &mut Report, config: &PostgresConfig, instance: &str, told: &InstanceConfig) {
    let subject = format!("ledger {}", config.place());
    if !config.is_private() {
        let finding =
            "the way to the database is not checked: somebody in between could read and change what it stores";
        report.add(Grade::Warn, &subject, finding, "add ?sslmode=verify-full to the URL");
    }
    let ledger = match PostgresLedger::open(config.clone()).await {
        Ok(ledger) => ledger,
        Err(error) => {
            let fix = "check `ledger.url`, that the server runs, and that the user may create the schema";
            report.add(Grade::Fail, &subject, error.to_string(), fix);
            return;
        }
    };
    report.ok(&subject, format!("schema `{}` is up to date, commits are durable", config.schema));
    match Leases::leases(&ledger).await {
        Ok(leases) => {
            for lease in leases {
                let subject = format!("chain {} lease", lease.fence.chain_id);
                match lease.remaining.is_zero() {
                    true => report.add(
                        Grade::Warn,
                        &subject,
                        format!("nobody drives the lanes; `{}` did last", lease.owner),
                        "start an instance that serves this chain",
                    ),
                    false => report.ok(&subject, format!("`{}` drives the lanes", lease.owner)),
                }
            }
        }
        Err(error) => report.add(Grade::Fail, &subject, error.to_string(), "check that the user may read the schema"),
    }
    match compare_instances(&ledger, instance, told).await {
        Ok(discord) => {
            for (key, refusal) in &discord.refusals {
                report.add(Grade::Fail, &subject, refusal, &format!("mend `{key}`: `serve` would refuse to start"));
            }
            for warning in &discord.warnings {
                report.add(Grade::Warn, &subject, warning, "give all instances the same configuration");
            }
            if discord.refusals.is_empty() && discord.warnings.is_empty() {
                report.ok(&subject, "agrees with the other instances and has the keys of all open batches");
            }
        }
        Err(error) => report.add(Grade::Fail, &subject, error.to_string(), "check that the user may read the schema"),
    }
    ledger.close().await;
}

/// The ledger's file, if there is one: a relayer may run on it.
async fn check_file(report: &mut Report, config: &SqliteConfig) {
    let subject = format!("ledger {}", config.path.display());
    if !config.path.exists() {
        return report.ok(&subject, "is not there yet: the first start creates it");
    }
    match SqliteLedger::check_file(&config.path).await {
        Ok(()) => report.ok(&subject, "holds together"),
        Err(error) => report.add(Grade::Fail, &subject, error.to_string(), "see docs/storage.md"),
    }
}

async fn check_chain(report: &mut Report, setup: &ChainSetup) {
    let spec = &setup.spec;
    let subject = format!("chain {} ({})", spec.chain_id, spec.name);
    let mut usable = Vec::new();
    for endpoint in &setup.endpoints {
        let pool = RpcPool::new(vec![endpoint.clone()], setup.tuning.rpc.rpc_timeout.min(Duration::from_secs(15)));
        let subject = format!("{subject} rpc {}", endpoint.name());
        if check_endpoint(report, &subject, &pool, spec).await {
            check_simulation(report, &subject, &pool).await;
            check_final_state(report, &subject, &pool, spec).await;
            usable.push(endpoint.clone());
        }
        check_heads(report, &subject, endpoint, setup).await;
    }
    if usable.is_empty() {
        report.add(Grade::Fail, &subject, "no endpoint can be used", "mend the endpoints first");
        return;
    }
    let pool = RpcPool::new(usable, setup.tuning.rpc.rpc_timeout);
    check_headers(report, &subject, &pool, spec).await;
    check_finality(report, &subject, &pool, spec).await;
    for signer in &setup.signers {
        check_lane(report, &pool, setup, signer.address()).await;
    }
    for forwarder in &setup.forwarders {
        check_forwarder(report, &pool, forwarder.address, forwarder.allow_unknown_code).await;
    }
    if let Some(address) = spec.multicall3 {
        check_multicall(report, &subject, &pool, address).await;
    }
    for token in &setup.tokens {
        check_token(report, &pool, spec.chain_id, token).await;
    }
    if !setup.tokens.is_empty() {
        check_capped_calls(report, &subject, &pool).await;
    }
}

/// Checks that the endpoint is usable.
async fn check_endpoint(report: &mut Report, subject: &str, pool: &RpcPool, spec: &ChainSpec) -> bool {
    let started = std::time::Instant::now();
    match pool.call::<U64>("eth_chainId", json!([])).await {
        Err(error) => {
            report.add(Grade::Fail, subject, error.to_string(), "check URL, access key and network");
            return false;
        }
        Ok(id) if id.to::<u64>() != spec.chain_id => {
            let finding = format!("is of chain {id}, configured is {}", spec.chain_id);
            report.add(Grade::Fail, subject, finding, "name the right node, preset or chain_id");
            return false;
        }
        Ok(_) => report.ok(subject, format!("answers in {} ms", started.elapsed().as_millis())),
    }
    let head: Header = match pool.call("eth_getBlockByNumber", json!(["latest", false])).await {
        Ok(head) => head,
        Err(error) => {
            report.add(Grade::Fail, subject, error.to_string(), "the node does not serve blocks");
            return false;
        }
    };
    let now_s = jiff::Timestamp::now().as_second().unsigned_abs();
    let head_s: u64 = head.timestamp.to();
    let age_s = now_s.saturating_sub(head_s);
    let limit_s = (spec.block_time_ms.saturating_mul(STALE_BLOCKS) / 1_000).max(STALE_FLOOR_S);
    let finding =
        format!("head {} of {}, {age_s} s old", head.number, instant(slackwater_core::Timestamp::from_secs(head_s)));
    if head_s > now_s + spec.deadline_skew_s.max(1) {
        let finding = format!("{finding}: the chain's clock is {} s ahead of this machine's", head_s - now_s);
        report.add(Grade::Fail, subject, finding, "set this machine's clock (NTP), or raise spec.deadline_skew_s");
    } else if age_s > limit_s {
        report.add(
            Grade::Fail,
            subject,
            format!("{finding}, limit {limit_s} s"),
            "the node is behind or the chain halts",
        );
    } else {
        report.ok(subject, finding);
    }
    true
}

/// Checks that the endpoint can simulate whole batches, and on overridden state.
async fn check_simulation(report: &mut Report, subject: &str, pool: &RpcPool) {
    let subject = format!("{subject} simulation");
    let overrides = json!({ PROBE.to_string(): { "code": PROBE_CODE } });
    let is_answer = |data: &Bytes| U256::try_from_be_slice(data) == Some(U256::from(42));
    let call = json!({ "to": PROBE });
    let block = json!({ "blockStateCalls": [{ "stateOverrides": overrides, "calls": [call] }] });
    match pool.call::<Vec<SimulatedBlock>>("eth_simulateV1", json!([block, "latest"])).await {
        Ok(blocks) if blocks.iter().flat_map(|block| &block.calls).any(|call| is_answer(&call.return_data)) => {
            return report.ok(&subject, "batches at once, on an assumed state");
        }
        Ok(_) => report.add(
            Grade::Warn,
            &subject,
            "eth_simulateV1 ignores state overrides",
            "the requests of a user go out one block after the other only, and values can't be simulated: use another node",
        ),
        Err(error) => report.add(
            Grade::Warn,
            &subject,
            error.to_string(),
            "each request of a batch is simulated by a call of its own: slower, and what one does to the next is not seen",
        ),
    }
    match pool.call::<Bytes>("eth_call", json!([call, "latest", overrides])).await {
        Ok(data) if is_answer(&data) => report.ok(&subject, "single calls on an assumed state"),
        Ok(_) => {
            let fix = "requests that move value can't be simulated here: use another node";
            report.add(Grade::Warn, &subject, "eth_call ignores state overrides", fix);
        }
        Err(error) => {
            let fix = "requests that move value can't be simulated here: use another node";
            report.add(Grade::Warn, &subject, format!("with state overrides: {error}"), fix);
        }
    }
}

/// Checks that the endpoint still has the state of the newest final block.
async fn check_final_state(report: &mut Report, subject: &str, pool: &RpcPool, spec: &ChainSpec) {
    let subject = format!("{subject} final state");
    let head = |tag: &'static str| pool.call::<Option<Header>>("eth_getBlockByNumber", json!([tag, false]));
    let tagged = match spec.finality.tag() {
        Some(tag) => head(tag).await.ok().flatten().map(|header| header.number.to::<u64>()),
        None => None,
    };
    let depth = match spec.finality {
        FinalityRule::Depth { blocks } | FinalityRule::FinalizedTag { fallback_depth: blocks } => blocks,
        _ => 0,
    };
    let last = match tagged {
        Some(number) => number,
        None => {
            let Ok(Some(header)) = head("latest").await else { return };
            header.number.to::<u64>().saturating_sub(depth)
        }
    };
    match pool.call::<U64>("eth_getTransactionCount", json!([PROBE, U64::from(last)])).await {
        Ok(_) => report.ok(&subject, format!("is kept of block {last}")),
        Err(error) => report.add(
            Grade::Warn,
            &subject,
            format!("of block {last}: {error}"),
            "cancelled and failed transactions are settled as much later as that block is old: use a node that keeps more states",
        ),
    }
}

/// Checks the subscription to heads, if the endpoint has one.
async fn check_heads(report: &mut Report, subject: &str, endpoint: &RpcEndpoint, setup: &ChainSetup) {
    let subject = format!("{subject} heads");
    let timeout = setup.tuning.rpc.rpc_timeout.min(Duration::from_secs(15));
    match endpoint.try_heads(setup.spec.chain_id, timeout).await {
        None => {}
        Some(Ok(())) => report.ok(&subject, "told by subscription"),
        Some(Err(error @ SubscriptionError::WrongChain { .. })) => {
            report.add(Grade::Fail, &subject, error.to_string(), "name this node's own WebSocket in ws_url");
        }
        // Heads are polled then: later, but none is lost.
        Some(Err(error)) => {
            let fix = "check ws_url, access key and whether the node has eth_subscribe; until then heads are polled";
            report.add(Grade::Warn, &subject, error.to_string(), fix);
        }
    }
}

/// Checks the base-fee rule and the extra data against the last blocks.
async fn check_headers(report: &mut Report, subject: &str, pool: &RpcPool, spec: &ChainSpec) {
    let subject = format!("{subject} base fee");
    let head: u64 = match pool.call::<U64>("eth_blockNumber", json!([])).await {
        Ok(head) => head.to(),
        Err(error) => return report.add(Grade::Warn, &subject, error.to_string(), "try again"),
    };
    let mut headers: Vec<Header> = Vec::new();
    for number in head.saturating_sub(BLOCKS)..=head {
        match pool.call::<Option<Header>>("eth_getBlockByNumber", json!([U64::from(number), false])).await {
            Ok(Some(header)) => headers.push(header),
            Ok(None) => {}
            Err(error) => return report.add(Grade::Warn, &subject, error.to_string(), "try again"),
        }
    }
    let (mut exact, mut estimated) = (0, 0);
    for pair in headers.windows(2) {
        let [parent, child] = pair else { continue };
        if child.number != parent.number + U64::from(1) {
            continue;
        }
        let actual: u128 = child.base_fee_per_gas.map_or(0, |fee| fee.to());
        match spec.base_fee.next(&parent.fees(), &parent.extra_data) {
            Ok(NextBaseFee::Exact(computed)) if computed == actual => exact += 1,
            Ok(NextBaseFee::Estimate(_)) => estimated += 1,
            Ok(NextBaseFee::Exact(computed)) => {
                let finding = format!("block {} has {actual} wei per gas, the rule gives {computed}", child.number);
                return report.add(Grade::Fail, &subject, finding, "the chain has changed its rule: set spec.base_fee");
            }
            Err(error) => {
                let finding = format!("block {}: {error}", parent.number);
                return report.add(
                    Grade::Fail,
                    &subject,
                    finding,
                    "the chain has changed its header: set spec.base_fee",
                );
            }
        }
    }
    report.ok(&subject, format!("rule holds for {exact} blocks, is an estimate for {estimated}"));
    let Some(last) = headers.last() else { return };
    let shape = match spec.family {
        ChainFamily::OpStack => Some(OpBaseFeeParams::parse(&last.extra_data).map(|_| ()).map_err(|e| e.to_string())),
        ChainFamily::Linea => Some(LineaPricing::parse(&last.extra_data).map(|_| ()).map_err(|e| e.to_string())),
        _ => None,
    };
    match shape {
        None => {}
        Some(Ok(())) => report.ok(&subject, "extra data is understood"),
        Some(Err(error)) => report.add(
            Grade::Fail,
            &subject,
            format!("extra data of block {}: {error}", last.number),
            "a fork has changed it; a newer version is needed",
        ),
    }
}

async fn check_finality(report: &mut Report, subject: &str, pool: &RpcPool, spec: &ChainSpec) {
    let subject = format!("{subject} finality");
    let Some(tag) = spec.finality.tag() else {
        return report.ok(&subject, format!("{:?}", spec.finality));
    };
    match pool.call::<Option<Header>>("eth_getBlockByNumber", json!([tag, false])).await {
        Ok(Some(header)) => report.ok(&subject, format!("block {} is `{tag}`", header.number)),
        Ok(None) => report.add(
            Grade::Warn,
            &subject,
            format!("the node serves no block as `{tag}`"),
            "nothing would become final: use another node, or spec.finality = { kind = \"depth\", blocks = N }",
        ),
        Err(error) => report.add(Grade::Warn, &subject, format!("`{tag}`: {error}"), "use a node that serves the tag"),
    }
}

async fn check_lane(report: &mut Report, pool: &RpcPool, setup: &ChainSetup, sender: Address) {
    let subject = format!("chain {} lane {sender}", setup.spec.chain_id);
    let params = json!([sender, "latest"]);
    let balance: U256 = match pool.call("eth_getBalance", params.clone()).await {
        Ok(balance) => balance,
        Err(error) => return report.add(Grade::Fail, &subject, error.to_string(), "try again"),
    };
    let code: Bytes = pool.call("eth_getCode", params.clone()).await.unwrap_or_default();
    if !code.is_empty() {
        let finding = format!("has {} bytes of code (a delegation?)", code.len());
        report.add(Grade::Warn, &subject, finding, "use a plain account: code can spend its balance and nonces");
    }
    let gas_price: U128 = pool.call("eth_gasPrice", json!([])).await.unwrap_or_default();
    let one = U256::from(gas_price.to::<u128>()).saturating_mul(U256::from(setup.tuning.batch.max_batch_gas));
    let finding = format!("{balance} wei, a full batch costs about {one} now");
    if balance.is_zero() {
        report.add(Grade::Fail, &subject, "has no money", "fund it");
    } else if balance < one {
        report.add(Grade::Warn, &subject, finding, "top it up");
    } else {
        report.ok(&subject, finding);
    }
    let pending: Result<U64, _> = pool.call("eth_getTransactionCount", json!([sender, "pending"])).await;
    let latest: Result<U64, _> = pool.call("eth_getTransactionCount", params).await;
    if let (Ok(pending), Ok(latest)) = (pending, latest) {
        let waiting = pending.saturating_sub(latest);
        if waiting.is_zero() {
            report.ok(&subject, format!("nonce {latest}, nothing pending"));
        } else {
            let finding = format!("nonce {latest}, {waiting} pending");
            report.add(Grade::Warn, &subject, finding, "fine if they are ours; no other program may use the key");
        }
    }
}

async fn check_forwarder(report: &mut Report, pool: &RpcPool, address: Address, allow_unknown: bool) {
    let subject = format!("forwarder {address}");
    let code: Bytes = match pool.call("eth_getCode", json!([address, "latest"])).await {
        Ok(code) => code,
        Err(error) => return report.add(Grade::Fail, &subject, error.to_string(), "try again"),
    };
    if code.is_empty() {
        return report.add(Grade::Fail, &subject, "there is no contract", "correct the address, or the chain");
    }
    let hash = keccak256(&code);
    match forwarder::forwarder_build(&code) {
        Some(build) => report.ok(
            &subject,
            format!("OpenZeppelin {:?}, released in {}, code hash {hash}", build.version, build.releases.join(", ")),
        ),
        None if allow_unknown => report.add(
            Grade::Warn,
            &subject,
            format!("unknown code, hash {hash}, allowed by configuration"),
            "its semantics are yours to check",
        ),
        None => report.add(
            Grade::Fail,
            &subject,
            format!("code hash {hash} is no known version of ERC2771Forwarder"),
            "check the contract, then set allow_unknown_code = true",
        ),
    }
    let data = Bytes::from(forwarder::eip712DomainCall {}.abi_encode());
    match pool.call::<Bytes>("eth_call", json!([{ "to": address, "data": data }, "latest"])).await {
        Ok(answer) => match forwarder::eip712DomainCall::abi_decode_returns(&answer) {
            Ok(domain) if domain.version == forwarder::DOMAIN_VERSION && domain.verifyingContract == address => {
                report.ok(&subject, format!("EIP-712 name {:?}", domain.name));
            }
            Ok(domain) => {
                let finding = format!("EIP-712 domain is version {:?} of {}", domain.version, domain.verifyingContract);
                report.add(Grade::Fail, &subject, finding, "it is not a plain ERC2771Forwarder (a proxy?)");
            }
            Err(_) => {
                report.add(Grade::Fail, &subject, "has no readable eip712Domain()", "it is not an ERC2771Forwarder")
            }
        },
        Err(error) => {
            report.add(Grade::Fail, &subject, format!("eip712Domain(): {error}"), "it is not an ERC2771Forwarder")
        }
    }
}

/// Checks that the token takes authorizations, and that its EIP-712 domain is known.
async fn check_token(report: &mut Report, pool: &RpcPool, chain_id: u64, token: &TokenSetup) {
    let subject = format!("token {}", token.address);
    match slackwater::internal::check_token(pool, token, chain_id).await {
        Ok(TokenStatus { name, version, transfer_gas, .. }) => {
            report.ok(&subject, format!("EIP-3009, domain `{name}` version `{version}`, {transfer_gas} gas a payment"));
        }
        Err(fault) => report.add(Grade::Fail, &subject, fault, "name a token with EIP-3009, with `name` and `version`"),
    }
}

async fn check_capped_calls(report: &mut Report, subject: &str, pool: &RpcPool) {
    let (subject, address) = (format!("{subject} CappedCalls"), capped_calls::ADDRESS);
    match pool.call::<Bytes>("eth_getCode", json!([address, "latest"])).await {
        Err(error) => report.add(Grade::Warn, &subject, error.to_string(), "try again"),
        Ok(code) if keccak256(&code) == capped_calls::RUNTIME_CODE_HASH => {
            report.ok(&subject, format!("known code at {address}: payments share transactions"));
        }
        Ok(_) => {
            let finding = format!("is not deployed at {address}: each payment has a transaction of its own");
            report.add(Grade::Warn, &subject, finding, "deploy it for cheaper payments: docs/authorizations.md");
        }
    }
}

async fn check_multicall(report: &mut Report, subject: &str, pool: &RpcPool, address: Address) {
    let subject = format!("{subject} Multicall3");
    match pool.call::<Bytes>("eth_getCode", json!([address, "latest"])).await {
        Err(error) => report.add(Grade::Warn, &subject, error.to_string(), "try again"),
        Ok(code) if code.is_empty() => {
            let finding = format!("is not deployed at {address}");
            report.add(
                Grade::Warn,
                &subject,
                finding,
                "calls with anySender go alone: deploy it, or unset spec.multicall3",
            );
        }
        Ok(code) => {
            let hash: B256 = keccak256(&code);
            if hash == multicall3::RUNTIME_CODE_HASH {
                report.ok(&subject, format!("known code at {address}"));
            } else {
                let finding = format!("code hash {hash} at {address} is not the usual one");
                report.add(Grade::Warn, &subject, finding, "normal on ZK Stack chains; check it elsewhere");
            }
        }
    }
}
