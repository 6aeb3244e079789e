//! `audit`: checks that the ledger is unbroken and consistent, and that the chain agrees with it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use alloy_primitives::{B256, U64, U256};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;
use slackwater::RpcPool;
use slackwater_core::{
    provenance::{Acceptance, Decision, Ending, Entry, Head, verify_chain_from},
    request::{Reason, RequestId, Status},
};
use slackwater_ledger::{
    EventFilter, EventRecord, Ledger, LedgerError, PostgresLedger, RequestFilter, RequestRecord, SqliteConfig,
    SqliteLedger,
};

use super::{ConfigArgs, error::CliError, printable::printable};

/// Rows read at a time.
const PAGE: usize = 2_000;
/// Problems listed one by one; beyond that they are only counted.
const MAX_TOLD: usize = 50;

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Check a database: hash chain of the decision log, events without gaps, one end for each request. The relayer
    /// must not run on it: stop it, or check a copy.
    Verify {
        /// The database file; without one, the ledger of the configuration, which may be a shared one.
        database: Option<PathBuf>,
        #[command(flatten)]
        config: ConfigArgs,
        /// Also ask the nodes of the configuration whether every executed request is in the block that the ledger says.
        #[arg(long)]
        chain: bool,
        /// Head of the decision log from another source, `SEQ:HASH`, to find a log that was cut off.
        #[arg(long, value_name = "SEQ:HASH", value_parser = parse_head)]
        head: Option<(u64, B256)>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn parse_head(text: &str) -> Result<(u64, B256), String> {
    let (seq, hash) = text.split_once(':').ok_or("write SEQ:HASH")?;
    Ok((seq.parse().map_err(|_| "SEQ is not a number")?, hash.parse().map_err(|_| "HASH is not 32 bytes of hex")?))
}

/// Result of an audit.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<String>,
    pub(super) count: u64,
}

impl Findings {
    fn add(&mut self, problem: impl Into<String>) {
        self.count += 1;
        if self.problems.len() < MAX_TOLD {
            self.problems.push(problem.into());
        }
    }
}

impl From<LedgerError> for CliError {
    fn from(error: LedgerError) -> Self {
        Self::failed(format!("ledger: {error}"))
    }
}

pub(super) async fn run(args: AuditArgs) -> Result<(), CliError> {
    let What::Verify { database, config, chain, head, json } = args.what;
    // Before the database is opened, so that a wrong configuration is reported at once.
    let pools = if chain { Some(pools(&config)?) } else { None };
    let ledger = open(database, &config).await?;
    let result = verify(ledger.as_ref(), pools.as_ref(), head).await;
    ledger.close().await;
    let (summary, findings) = result?;
    if json {
        let summary: serde_json::Map<_, _> =
            summary.into_iter().map(|(name, value)| (name.to_owned(), serde_json::Value::from(value))).collect();
        println!(
            "{}",
            json!({ "ok": findings.count == 0, "summary": summary, "problems": findings.problems, "problemCount": findings.count })
        );
    } else {
        for (name, value) in &summary {
            println!("{name:<16} {value}");
        }
        for problem in &findings.problems {
            println!("BROKEN: {}", printable(problem));
        }
        if findings.count > findings.problems.len() as u64 {
            println!("… and {} more", findings.count - findings.problems.len() as u64);
        }
    }
    if findings.count > 0 {
        return Err(CliError::failed(format!("{} problems found", findings.count)));
    }
    Ok(())
}

async fn open(database: Option<PathBuf>, config: &ConfigArgs) -> Result<Box<dyn Ledger>, CliError> {
    let database = match database {
        Some(database) => database,
        None => {
            let config = config.sources().load()?;
            if let Some(shared) = &config.shared {
                let postgres = shared.resolve().map_err(|error| CliError::failed(error.to_string()))?;
                return Ok(Box::new(PostgresLedger::open(postgres).await?));
            }
            config.sqlite.path
        }
    };
    if !database.is_file() {
        return Err(CliError::usage(format!("there is no database {}", database.display())));
    }
    Ok(Box::new(SqliteLedger::open(SqliteConfig::new(&database)).await?))
}

fn pools(config: &ConfigArgs) -> Result<BTreeMap<u64, RpcPool>, CliError> {
    let config = config.sources().load()?;
    let resolved = config.resolve()?;
    Ok(resolved
        .chains
        .into_iter()
        .map(|chain| (chain.spec.chain_id, RpcPool::new(chain.endpoints, Duration::from_secs(15))))
        .collect())
}

pub(super) type Summary = Vec<(&'static str, String)>;

/// All checks that need only the ledger.
pub(super) async fn verify(
    ledger: &dyn Ledger,
    pools: Option<&BTreeMap<u64, RpcPool>>,
    expected: Option<(u64, B256)>,
) -> Result<(Summary, Findings), CliError> {
    let mut findings = Findings::default();
    let (head, mut logged) = decisions(ledger, &mut findings).await?;
    if let Some((seq, hash)) = expected
        && (head.seq < seq || (head.seq == seq && head.hash != hash))
    {
        findings.add(format!("the decision log ends at {}:{}, it was at {seq}:{hash} before", head.seq, head.hash));
    }
    let (events, last) = events(ledger, &mut findings).await?;
    let (requests, executed) = requests(ledger, &last, &mut logged, &mut findings).await?;
    let mut summary = vec![
        ("decisions", format!("{} (head {}:{})", head.seq, head.seq, head.hash)),
        ("sent", format!("{} transactions", logged.sent.attempts.len())),
        ("events", events.to_string()),
        ("requests", requests.iter().map(|(_, count)| count).sum::<u64>().to_string()),
    ];
    summary.extend(requests.into_iter().map(|(status, count)| (status.as_str(), count.to_string())));
    if let Some(pools) = pools {
        let checked = on_chain(pools, &executed, &mut findings).await?;
        summary.push(("on chain", format!("{checked} transactions")));
    }
    Ok((summary, findings))
}

/// Requests and transactions according to the decision log.
#[derive(Debug, Default)]
struct Logged {
    accepted: HashMap<B256, Acceptance>,
    ended: HashMap<B256, Ending>,
    sent: Sent,
}

/// Transactions that were sent according to the decision log. Those of a batch are known if the entry after its plan
/// names the first of them; an older version wrote none.
#[derive(Debug, Default)]
struct Sent {
    /// The batch planned by the previous entry.
    planned: Option<B256>,
    /// Batches of which every transaction is known.
    known: HashSet<B256>,
    /// Batches of which some transactions may be missing.
    partly: HashSet<B256>,
    attempts: HashSet<B256>,
}

impl Sent {
    /// Reads the next entry. Returns the problem that it raises, if any.
    fn read(&mut self, decision: &Decision) -> Option<String> {
        let planned = self.planned.take();
        match decision {
            Decision::Sent { batch, attempt } if planned == Some(*batch) => {
                self.known.insert(*batch);
                self.attempts.insert(*attempt);
                return None;
            }
            Decision::Sent { batch, .. } => {
                return Some(format!("batch {batch} was sent without a plan, says the decision log"));
            }
            Decision::Planned { batch, .. } => self.planned = Some(*batch),
            Decision::Bumped { attempt, .. } | Decision::Cancelling { attempt, .. } => {
                self.attempts.insert(*attempt);
            }
            _ => {}
        }
        self.partly.extend(planned);
        match decision {
            Decision::Included { batch, attempt, .. }
                if self.known.contains(batch) && !self.partly.contains(batch) && !self.attempts.contains(attempt) =>
            {
                Some(format!("transaction {attempt} was in a block and never sent, says the decision log"))
            }
            _ => None,
        }
    }
}

impl Logged {
    /// Reads the next entry. Returns the problem that it raises, if any.
    fn read(&mut self, body: &str) -> Option<String> {
        // An entry that only a later version can decode is no fault of this ledger.
        let decision = Decision::decode(body).ok()?;
        let problem = self.sent.read(&decision);
        match decision {
            Decision::Accepted { requests } => {
                self.accepted.extend(requests.into_iter().map(|accepted| (accepted.request, accepted)));
            }
            Decision::Settled { requests } => {
                self.ended.extend(requests.into_iter().map(|ended| (ended.request, ended)));
            }
            _ => {}
        }
        problem
    }

    /// Contradiction between the log and the stored request, if any. Consumes the logged data of the request, so each
    /// is compared once. An older version logged neither acceptances nor ends.
    fn differs(&mut self, record: &RequestRecord) -> Option<String> {
        let id = record.id;
        let (accepted, ended) = (self.accepted.remove(&id.0), self.ended.remove(&id.0));
        let narrow = |wei: U256| u128::try_from(wei).unwrap_or(u128::MAX);
        if let Some(accepted) = &accepted {
            let same = accepted.tenant == record.tenant
                && accepted.key == record.submitted_by
                && accepted.chain_id == record.chain_id
                && accepted.deadline_s == record.deadline.0 / 1_000
                && accepted.reserved_wei == narrow(record.reserved_wei);
            if !same {
                return Some(format!("request {id} was accepted otherwise, says the decision log"));
            }
        }
        match ended {
            Some(ended) if ended.status != record.status.as_str() => {
                Some(format!("request {id} is {}, the decision log says {}", record.status, ended.status))
            }
            Some(ended) if ended.cost_wei != narrow(record.cost_wei.unwrap_or_default()) => {
                Some(format!("request {id} cost {} wei, says the decision log", ended.cost_wei))
            }
            Some(ended)
                if ended.price_wei.unwrap_or(ended.cost_wei) != narrow(record.price_wei().unwrap_or_default()) =>
            {
                let price_wei = ended.price_wei.unwrap_or(ended.cost_wei);
                Some(format!("the price of request {id} is {price_wei} wei, says the decision log"))
            }
            Some(ended) => {
                let same = ended.attempt == record.tx_hash
                    && ended.block_number == record.block_number
                    && ended.reason.as_deref() == record.reason.map(Reason::as_str);
                (!same).then(|| format!("request {id} ended otherwise, says the decision log"))
            }
            None if accepted.is_some() && record.status.is_terminal() => {
                Some(format!("request {id} is {}, of which the decision log says nothing", record.status))
            }
            None => None,
        }
    }

    /// Logged requests that were compared with no stored one.
    fn missing(&self) -> BTreeSet<&B256> {
        self.accepted.keys().chain(self.ended.keys()).collect()
    }
}

/// The decision log, page by page.
async fn decisions(ledger: &dyn Ledger, findings: &mut Findings) -> Result<(Head, Logged), CliError> {
    let mut head: Option<Head> = None;
    let mut logged = Logged::default();
    let genesis = ledger.meta("identity").await?.map(|owner| Head::genesis(&owner));
    loop {
        let page = ledger.decisions(head.map_or(0, |head| head.seq), PAGE).await?;
        let Some(first) = page.first() else { break };
        let start = head.unwrap_or_else(|| {
            // An older identity may have begun the log; what follows it is checked all the same.
            if genesis.is_some_and(|genesis| genesis.hash == first.prev) || first.prev == Head::GENESIS.hash {
                Head { seq: 0, hash: first.prev }
            } else {
                tracing::warn!("the decision log was begun by another identity");
                Head { seq: 0, hash: first.prev }
            }
        });
        let is_last = page.len() < PAGE;
        page.iter().filter_map(|row| logged.read(&row.body)).for_each(|problem| findings.add(problem));
        let entries = page.into_iter().map(|row| Entry {
            seq: row.seq,
            at_ms: row.at_ms,
            prev: row.prev,
            hash: row.hash,
            body: row.body,
        });
        match verify_chain_from(start, entries) {
            Ok(next) => head = Some(next),
            Err(broken) => {
                findings.add(broken.to_string());
                break;
            }
        }
        if is_last {
            break;
        }
    }
    Ok((head.unwrap_or(Head::GENESIS), logged))
}

/// State of each request after all its events: number of the last event, and its status.
type Last = HashMap<RequestId, (u32, Status)>;

/// True if `event` is the first one of another tenant's request with the same id, after the first tenant's ended
/// without having been in a transaction: accepted, late perhaps, ended.
fn is_taken_over(seq: u32, status: Status, event: &EventRecord) -> bool {
    let is_untried = matches!(status, Status::Rejected | Status::Expired | Status::Cancelled) && seq <= 3;
    is_untried && event.request_seq == 1 && event.status == Status::Queued
}

async fn events(ledger: &dyn Ledger, findings: &mut Findings) -> Result<(u64, Last), CliError> {
    let mut last = Last::new();
    let mut after = 0;
    loop {
        let page = ledger.events(&EventFilter { after, limit: PAGE, ..EventFilter::default() }).await?;
        for event in &page {
            if event.seq != after + 1 {
                findings.add(format!("events {} to {} are missing", after + 1, event.seq.saturating_sub(1)));
            }
            after = event.seq;
            let id = event.request_id;
            match last.insert(id, (event.request_seq, event.status)) {
                None if event.request_seq != 1 => {
                    findings.add(format!("request {id} begins with event {}", event.request_seq));
                }
                None if event.status != Status::Queued => {
                    findings.add(format!("request {id} begins as {}", event.status));
                }
                None => {}
                Some((seq, status)) if is_taken_over(seq, status, event) => {}
                Some((seq, status)) => {
                    if event.request_seq != seq + 1 {
                        findings.add(format!("request {id} has event {} after {seq}", event.request_seq));
                    }
                    if status.is_terminal() {
                        findings.add(format!("request {id} was {status}, then became {}", event.status));
                    } else if status != event.status && !status.can_become(event.status) {
                        findings.add(format!("request {id} went from {status} to {}", event.status));
                    }
                }
            }
        }
        if page.len() < PAGE {
            break;
        }
    }
    let newest = ledger.last_event_seq().await?;
    if newest != after {
        findings.add(format!("events {} to {newest} are missing", after + 1));
    }
    Ok((after, last))
}

/// A request that the ledger says was executed.
#[derive(Debug)]
struct Executed {
    id: RequestId,
    chain_id: u64,
    tx_hash: B256,
    block: Option<u64>,
}

async fn requests(
    ledger: &dyn Ledger,
    last: &Last,
    logged: &mut Logged,
    findings: &mut Findings,
) -> Result<(Vec<(Status, u64)>, Vec<Executed>), CliError> {
    let mut counts = BTreeMap::new();
    let mut executed = Vec::new();
    let mut before = None;
    loop {
        let filter = RequestFilter { before, limit: PAGE, ..RequestFilter::default() };
        let page = ledger.requests(&filter).await?;
        for record in &page {
            *counts.entry(record.status).or_insert(0) += 1;
            match last.get(&record.id) {
                None => findings.add(format!("request {} has no events", record.id)),
                Some((_, status)) if *status != record.status => {
                    findings.add(format!("request {} is {}, its events say {status}", record.id, record.status));
                }
                Some(_) => {}
            }
            logged.differs(record).into_iter().for_each(|problem| findings.add(problem));
            if matches!(record.status, Status::Finalized | Status::Reverted) {
                match record.tx_hash {
                    Some(tx_hash) => executed.push(Executed {
                        id: record.id,
                        chain_id: record.chain_id,
                        tx_hash,
                        block: record.block_number,
                    }),
                    None => findings.add(format!("request {} is {} without a transaction", record.id, record.status)),
                }
            }
        }
        before = page.last().map(|record| record.seq);
        if page.len() < PAGE {
            break;
        }
    }
    for id in logged.missing() {
        findings.add(format!("request {id} is not stored, the decision log has it"));
    }
    if counts.values().sum::<u64>() != last.len() as u64 {
        findings.add(format!("{} requests have events, {} are stored", last.len(), counts.values().sum::<u64>()));
    }
    Ok((counts.into_iter().collect(), executed))
}

/// Asks the nodes for each transaction once.
async fn on_chain(
    pools: &BTreeMap<u64, RpcPool>,
    executed: &[Executed],
    findings: &mut Findings,
) -> Result<usize, CliError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Receipt {
        block_number: U64,
    }
    let mut found: BTreeMap<(u64, B256), Option<u64>> = BTreeMap::new();
    for request in executed {
        let key = (request.chain_id, request.tx_hash);
        let block = match found.get(&key) {
            Some(block) => *block,
            None => {
                let Some(pool) = pools.get(&request.chain_id) else {
                    findings.add(format!("chain {} of request {} is not configured", request.chain_id, request.id));
                    continue;
                };
                let receipt: Option<Receipt> = pool.call("eth_getTransactionReceipt", json!([request.tx_hash])).await?;
                let block = receipt.map(|receipt| receipt.block_number.to());
                found.insert(key, block);
                block
            }
        };
        if block.is_none() || request.block.is_some_and(|expected| block != Some(expected)) {
            let expected = request.block.map_or_else(|| "a block".to_owned(), |block| format!("block {block}"));
            let actual = block.map_or_else(|| "not there".to_owned(), |block| format!("in block {block}"));
            findings.add(format!(
                "request {} should be in {expected} by {}, which is {actual}",
                request.id, request.tx_hash
            ));
        }
    }
    Ok(found.len())
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;

    use super::*;

    fn read(decisions: &[Decision]) -> Vec<String> {
        let mut logged = Logged::default();
        decisions.iter().filter_map(|decision| logged.read(&decision.encode())).collect()
    }

    #[test]
    fn what_is_in_a_block_was_sent() {
        let hash = B256::repeat_byte;
        let planned = |batch| Decision::Planned {
            batch,
            chain_id: 1,
            sender: Address::ZERO,
            nonce: 0,
            members: Vec::new(),
            reason: "full".to_owned(),
            base_fee_wei_per_gas: 1,
            threshold_wei_per_gas: None,
            max_fee_wei_per_gas: 2,
            max_priority_fee_wei_per_gas: 1,
            gas_limit_gas: 21_000,
            model: None,
            inputs: None,
        };
        let included = |batch, attempt| Decision::Included { batch, attempt, block_number: 1, block_hash: hash(9) };
        let (batch, first, second) = (hash(1), hash(2), hash(3));
        let sent = Decision::Sent { batch, attempt: first };
        let bumped = Decision::Bumped {
            batch,
            replaced: first,
            attempt: second,
            reason: "stuck".to_owned(),
            max_fee_wei_per_gas: 3,
            max_priority_fee_wei_per_gas: 2,
        };
        assert_eq!(read(&[planned(batch), sent.clone(), included(batch, first)]), [""; 0]);
        assert_eq!(read(&[planned(batch), sent.clone(), bumped, included(batch, second)]), [""; 0]);
        let never = format!("transaction {second} was in a block and never sent, says the decision log");
        assert_eq!(read(&[planned(batch), sent.clone(), included(batch, second)]), [never]);
        let unplanned = || format!("batch {batch} was sent without a plan, says the decision log");
        assert_eq!(read(std::slice::from_ref(&sent)), [unplanned()]);
        assert_eq!(read(&[planned(hash(7)), sent.clone()]), [unplanned()]);
        // An older version planned it, and this one reused its nonce for other requests.
        assert_eq!(read(&[planned(batch), included(batch, second)]), [""; 0]);
        assert_eq!(read(&[planned(batch), planned(batch), sent, included(batch, second)]), [""; 0]);
    }
}
