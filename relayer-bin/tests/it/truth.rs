//! Comparison of the relayer's statements with the chain.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use alloy_sol_types::SolEvent;
use serde::Deserialize;
use serde_json::{Value, json};
use slackwater_benches::{
    Result,
    client::{Event, is_terminal},
    count::{self, Relayed},
    wallet::SignedRequest,
};
use slackwater_contracts::forwarder::ExecutedForwardRequest;
use slackwater_core::request::Status;

use crate::stage::{PATIENCE, Stage, until};

/// A request as the list shows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    pub(crate) id: B256,
    pub(crate) status: String,
    pub(crate) reason: Option<String>,
    pub(crate) tx_hash: Option<B256>,
    pub(crate) block_number: Option<u64>,
    pub(crate) gas_used: Option<u64>,
}

/// One execution by the forwarder, by any sender.
#[derive(Debug, Clone, Copy)]
struct Execution {
    tx_hash: B256,
    block_number: u64,
    is_success: bool,
}

/// Result of the comparison.
#[derive(Debug)]
pub(crate) struct Truth {
    /// Every request that the relayer knows.
    pub(crate) summaries: BTreeMap<B256, Summary>,
    /// Transactions of the relayer's accounts.
    pub(crate) relayed: Relayed,
    /// All events of the relayer, in order.
    pub(crate) story: Vec<Event>,
}

impl Truth {
    /// Number of requests that ended with `status`, and with `reason` if one is given.
    pub(crate) fn count(&self, status: &str, reason: Option<&str>) -> usize {
        let is_it = |summary: &&Summary| {
            summary.status == status && reason.is_none_or(|reason| summary.reason.as_deref() == Some(reason))
        };
        self.summaries.values().filter(is_it).count()
    }
}

impl Stage {
    /// Compares, once everything has ended, every request with the chain, and looks for gaps in nonces and events.
    /// `requests` must be all that were accepted.
    pub(crate) async fn check(&self, requests: &[SignedRequest]) -> Result<Truth> {
        let summaries = self.summaries().await?;
        for request in requests {
            assert!(summaries.contains_key(&request.id), "{} was accepted, and is not known", request.id);
        }
        self.check_forwards(&summaries, requests).await?;
        let relayed = self.check_lanes().await?;
        check_shares(&summaries, &relayed);
        let story = self.story().await?;
        check_story(&story, &summaries);
        Ok(Truth { summaries, relayed, story })
    }

    /// Every request, from the list.
    pub(crate) async fn summaries(&self) -> Result<BTreeMap<B256, Summary>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page {
            requests: Vec<Summary>,
            next_cursor: Option<String>,
        }
        let mut summaries = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let page: Page = self.client().get_json(&format!("/v1/requests?limit=500{cursor}")).await?;
            for summary in page.requests {
                let id = summary.id;
                assert!(summaries.insert(id, summary).is_none(), "{id} is listed twice");
            }
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(summaries),
            }
        }
    }

    async fn executions(&self) -> Result<BTreeMap<(Address, u64), Vec<Execution>>> {
        let head = self.node().block_number().await?;
        let topics = json!([ExecutedForwardRequest::SIGNATURE_HASH]);
        let mut executions: BTreeMap<_, Vec<Execution>> = BTreeMap::new();
        for log in self.node().logs(self.world.forwarder, topics, 0, head).await? {
            let event = ExecutedForwardRequest::decode_raw_log(log.topics.iter().copied(), &log.data)
                .unwrap_or_else(|error| panic!("event of the forwarder: {error}"));
            let nonce = event.nonce.to::<u64>();
            executions.entry((event.signer, nonce)).or_default().push(Execution {
                tx_hash: log.transaction_hash,
                block_number: log.block_number.to(),
                is_success: event.success,
            });
        }
        Ok(executions)
    }

    /// I1: each request is executed at most once, and its status agrees with the chain.
    async fn check_forwards(&self, summaries: &BTreeMap<B256, Summary>, requests: &[SignedRequest]) -> Result<()> {
        let executions = self.executions().await?;
        for request in requests {
            let Summary { status, reason, tx_hash, block_number, .. } = &summaries[&request.id];
            let what = format!("{} ({status} {reason:?})", request.id);
            assert!(is_terminal(status), "{what} has not ended");
            let key = (request.forward.from, request.forward.nonce.to::<u64>());
            let found = executions.get(&key).map_or(&[][..], Vec::as_slice);
            assert!(found.len() <= 1, "{what}: its nonce was consumed {} times: {found:?}", found.len());
            match (status.as_str(), found.first()) {
                ("finalized" | "reverted", None) => panic!("{what}: the chain knows nothing of it"),
                ("finalized" | "reverted", Some(execution)) => {
                    assert_eq!(execution.is_success, status == "finalized", "{what}");
                    assert_eq!(Some(execution.tx_hash), *tx_hash, "{what}");
                    assert_eq!(Some(execution.block_number), *block_number, "{what}");
                }
                (_, Some(_)) => {
                    assert_eq!(reason.as_deref(), Some("nonce_used_elsewhere"), "{what}: the chain executed it");
                }
                (_, None) => {}
            }
        }
        // The same again by the target's own counters, independent of the forwarder.
        let is_entry = |request: &&SignedRequest| request.forward.to == self.world.guestbook && !request.tag.is_zero();
        let entries: Vec<SignedRequest> = requests.iter().filter(is_entry).cloned().collect();
        let head = self.node().block_number().await?;
        let counted = count::executions_by_event(self.node(), &self.world, &entries, 0, head).await?;
        assert!(counted.repeated.is_empty(), "executed more than once: {:?}", counted.repeated);
        for id in counted.never {
            assert_ne!(summaries[&id].status, "finalized", "{id} never reached the target");
        }
        Ok(())
    }

    /// I4: no gap in the senders' nonces, no stuck lane.
    async fn check_lanes(&self) -> Result<Relayed> {
        let senders = self.world.relayer_addresses();
        for (index, &sender) in senders.iter().enumerate() {
            let nonce = self.node().nonce(sender).await?;
            let quiet = async || {
                let lane = self.lane_state(index).await?;
                let is_quiet = lane["inFlight"] == 0 && lane["nextNonce"] == nonce && lane["paused"].is_null();
                Ok(is_quiet.then_some(()))
            };
            if let Err(error) = until(&format!("lane {sender} to be at {nonce}"), PATIENCE, quiet).await {
                panic!("{error}: {}", self.lane_state(index).await?);
            }
        }
        let head = self.node().block_number().await?;
        let relayed = Relayed::scan(self.node(), &self.world, &senders, self.born, head).await?;
        assert_eq!(relayed.nonce_gaps(), [], "gaps in the senders' nonces");
        assert_eq!(relayed.out_of_order(), [] as [Address; 0], "users' requests out of order");
        Ok(relayed)
    }

    /// I10: all events, read from the beginning.
    pub(crate) async fn story(&self) -> Result<Vec<Event>> {
        let counts: Value = self.client().get_json("/v1/counts").await?;
        let last = counts["lastEventSeq"].as_u64().expect("a sequence number");
        let mut story: Vec<Event> = Vec::new();
        let mut stream = self.client().events(0).await?;
        while story.last().map_or(0, |event| event.seq) < last {
            let event = stream.next().await?.expect("the stream ended early");
            story.push(event);
        }
        Ok(story)
    }
}

/// The gas of a transaction is shared, without rest, by the requests that executed in it.
fn check_shares(summaries: &BTreeMap<B256, Summary>, relayed: &Relayed) {
    let mut shared: BTreeMap<B256, u64> = BTreeMap::new();
    for summary in summaries.values() {
        if let (Some(hash), Some(gas)) = (summary.tx_hash, summary.gas_used) {
            *shared.entry(hash).or_default() += gas;
        }
    }
    for transaction in &relayed.transactions {
        if let Some(gas) = shared.remove(&transaction.hash) {
            assert_eq!(gas, transaction.gas_used, "gas of {}", transaction.hash);
        }
    }
    assert!(shared.is_empty(), "requests name transactions that the chain does not have: {shared:?}");
}

/// No gap, globally and per request; only allowed transitions; nothing after the end; the last event's status is the
/// request's.
pub(crate) fn check_story(story: &[Event], summaries: &BTreeMap<B256, Summary>) {
    let mut last: BTreeMap<B256, (u32, Status)> = BTreeMap::new();
    for (event, seq) in story.iter().zip(1..) {
        assert_eq!(event.seq, seq, "a gap in the events");
        let status = event.status.known().expect("a known status");
        match last.insert(event.request_id.0, (event.request_seq, status)) {
            None => assert_eq!((event.request_seq, status), (1, Status::Queued), "{event:?}"),
            Some((seq, before)) => {
                assert_eq!(event.request_seq, seq + 1, "{event:?}");
                let is_late =
                    event.reason.as_ref().is_some_and(|reason| *reason == "promise_missed") && before == status;
                assert!(is_late || before.can_become(status), "{before} became {status}: {event:?}");
            }
        }
    }
    let told: BTreeSet<_> = last.keys().collect();
    assert_eq!(told, summaries.keys().collect::<BTreeSet<_>>(), "requests without a story");
    for (id, summary) in summaries {
        assert_eq!(last[id].1.as_str(), summary.status, "{id}");
    }
}
