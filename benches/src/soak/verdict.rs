//! Actual outcome of every request: counted on the chain, and compared with the relayer's reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256};
use slackwater_core::{
    request::{Reason, Status},
    wire::{Counts, RequestPage, RequestSummary},
};

use super::callers::Calls;
use crate::{
    client::RelayerClient,
    count::{Relayed, executions},
    error::{BenchError, Result},
    node::Node,
    world::World,
};

/// Outcome of a run: counts, and the requests that failed a check; see [`Self::is_good`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Requests whose callers got an acceptance.
    pub accepted: usize,
    /// Of those, executed exactly once.
    pub once: usize,
    /// Accepted, but neither executed nor open any more, or unknown to the relayer.
    pub lost: Vec<B256>,
    /// Executed more than once.
    pub doubled: Vec<B256>,
    /// Still open at the end, executed or not.
    pub stuck: Vec<B256>,
    /// Ended with a status that the chain does not confirm.
    pub misreported: Vec<B256>,
    /// Refused although valid, with the code.
    pub refused: Vec<(B256, String)>,
    /// Users whose requests ran out of order, and senders with gaps in their nonces.
    pub disordered: Vec<Address>,
    /// Gaps and impossible steps in the events.
    pub events: Vec<String>,
    /// Accepted, and reported as late.
    pub late: Vec<B256>,
    /// Of those, due after the last outage.
    pub late_after: usize,
    /// Number of requests by final status and reason.
    pub ends: BTreeMap<String, usize>,
    /// Number of events read.
    pub told: u64,
    /// Transactions of the relayer's accounts.
    pub transactions: usize,
    /// Requests per transaction that executed any, in hundredths.
    pub requests_per_transaction_x100: usize,
}

impl Verdict {
    /// True if no request was lost, executed twice, stuck, or misreported.
    pub const fn is_good(&self) -> bool {
        self.accepted > 0
            && self.once == self.accepted
            && self.lost.is_empty()
            && self.doubled.is_empty()
            && self.stuck.is_empty()
            && self.misreported.is_empty()
            && self.refused.is_empty()
            && self.disordered.is_empty()
            && self.events.is_empty()
    }
}

/// Waits until no request is open any more; gives up after `patience` without any progress.
pub(super) async fn settle(client: &RelayerClient, patience: Duration) -> Result<()> {
    let mut last = (None, Instant::now());
    loop {
        let open = match client.counts().await {
            Ok(counts) => {
                let is_open = |status: &&String| !crate::client::is_terminal(status);
                Some(counts.keys().filter(is_open).map(|status| counts[status]).sum::<u64>())
            }
            Err(error) if error.is_ambiguous() => None,
            Err(error) => return Err(error),
        };
        if open == Some(0) {
            return Ok(());
        }
        if open.is_some() && open != last.0 {
            last = (open, Instant::now());
        }
        if last.1.elapsed() > patience {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Judges all calls. `node` is asked directly, not through a proxy.
pub(super) async fn judge(
    client: &RelayerClient,
    node: &Node,
    world: &World,
    born: u64,
    calls: &Calls,
) -> Result<Verdict> {
    let refused: BTreeSet<B256> = calls.refused.iter().map(|(id, _)| *id).collect();
    let accepted: Vec<_> = calls.requests.iter().filter(|request| !refused.contains(&request.id)).cloned().collect();
    let statuses = statuses(client).await?;
    let head = node.block_number().await?;
    let counted = executions(node, world, &accepted).await?;
    let relayed = Relayed::scan(node, world, &world.relayer_addresses(), born, head).await?;
    // A second count, by the forwarder's executions, whether or not the target call succeeded.
    let mut by_nonce: BTreeMap<(Address, u64), u64> = BTreeMap::new();
    for (user, nonce, _) in relayed.transactions.iter().flat_map(|transaction| &transaction.executed) {
        *by_nonce.entry((*user, *nonce)).or_default() += 1;
    }
    let never: BTreeSet<B256> = counted.never.iter().copied().collect();
    let mut verdict = Verdict {
        accepted: accepted.len(),
        once: counted.once,
        doubled: counted.repeated.iter().map(|(id, _)| *id).collect(),
        refused: calls.refused.clone(),
        transactions: relayed.transactions.len(),
        requests_per_transaction_x100: relayed.requests_per_batch_x100(),
        disordered: relayed.out_of_order(),
        ..Verdict::default()
    };
    verdict.disordered.extend(relayed.nonce_gaps().into_iter().map(|(sender, _)| sender));
    for request in &accepted {
        let id = request.id;
        let key = (request.forward.from, request.forward.nonce.to::<u64>());
        if by_nonce.get(&key).is_some_and(|count| *count > 1) && !verdict.doubled.contains(&id) {
            verdict.doubled.push(id);
        }
        let is_executed = !never.contains(&id);
        match statuses.get(&id) {
            None => verdict.lost.push(id),
            Some(status) if !status.is_terminal() => verdict.stuck.push(id),
            Some(Status::Finalized) if is_executed => {}
            Some(_) if !is_executed => verdict.lost.push(id),
            Some(_) => verdict.misreported.push(id),
        }
    }
    let Story { told, faults, late, ends } = story(client, &statuses).await?;
    (verdict.told, verdict.events, verdict.late, verdict.ends) = (told, faults, late, ends);
    let after: BTreeSet<B256> = calls.requests.iter().skip(calls.before).map(|request| request.id).collect();
    verdict.late_after = verdict.late.iter().filter(|id| after.contains(*id)).count();
    Ok(verdict)
}

/// Status of every request known to the relayer.
async fn statuses(client: &RelayerClient) -> Result<BTreeMap<B256, Status>> {
    let mut statuses = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page: RequestPage = client.get_json(&format!("/v1/requests?limit=500{cursor}")).await?;
        for RequestSummary { id, status, .. } in page.requests {
            let status = status.known().ok_or_else(|| BenchError::unexpected("a status", status))?;
            statuses.insert(id.0, status);
        }
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(statuses),
        }
    }
}

/// Summary of all events.
struct Story {
    told: u64,
    faults: Vec<String>,
    late: Vec<B256>,
    ends: BTreeMap<String, usize>,
}

/// Reads all events back from the first.
async fn story(client: &RelayerClient, statuses: &BTreeMap<B256, Status>) -> Result<Story> {
    let Counts { last_event_seq: newest, .. } = client.get_json("/v1/counts").await?;
    let (mut faults, mut late, mut ends) = (Vec::new(), Vec::new(), BTreeMap::<_, usize>::new());
    let mut last: BTreeMap<B256, (u32, Status)> = BTreeMap::new();
    let mut stream = client.events(0).await?;
    let mut told = 0;
    while told < newest {
        let Some(event) = stream.next().await? else {
            faults.push(format!("the stream ends after {told} of {newest} events"));
            break;
        };
        if event.seq != told + 1 {
            faults.push(format!("event {} follows event {told}", event.seq));
        }
        told = event.seq;
        let Some(status) = event.status.known() else {
            faults.push(format!("event {told} has the status {}", event.status));
            continue;
        };
        if status.is_terminal() {
            let reason = event.reason.as_ref().map_or_else(String::new, |reason| format!(" {reason}"));
            *ends.entry(format!("{status}{reason}")).or_default() += 1;
        }
        let is_right = match last.insert(event.request_id.0, (event.request_seq, status)) {
            None => (event.request_seq, status) == (1, Status::Queued),
            Some((seq, before)) => {
                let is_late = event.reason == Some(Reason::PromiseMissed.into()) && before == status;
                if is_late {
                    late.push(event.request_id.0);
                }
                event.request_seq == seq + 1 && (is_late || before.can_become(status))
            }
        };
        if !is_right {
            faults.push(format!("event {told}: {} cannot become {status} there", event.request_id));
        }
    }
    for (id, status) in statuses {
        if last.get(id).map(|(_, last)| last) != Some(status) {
            faults.push(format!("{id} is {status}, and its last event says otherwise"));
        }
    }
    Ok(Story { told, faults, late, ends })
}
