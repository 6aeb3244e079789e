//! Nonces that a foreign transaction took.

use std::time::Duration;

use super::{foreign::ForeignTransaction, host::Host, input::Notice, state::Sender};
use crate::{provenance::Decision, request::BatchId, time::Timestamp};

/// Time limit for which the members of a transaction that lost its nonce wait for the cost of the winner. After that
/// they go on, and the cost is not booked.
const COST_WAIT: Duration = Duration::from_secs(60);

impl<H: Host> Sender<H> {
    /// Records the foreign transaction that took a nonce. Returns true if the nonce can be settled: the cost is known,
    /// or the time limit has passed.
    pub fn meet(&mut self, now: Timestamp, lane: usize, nonce: u64, stranger: ForeignTransaction) -> bool {
        let flight = self.lanes.get_mut(lane).and_then(|lane| lane.flights.get_mut(&nonce));
        let Some(flight) = flight else { return true };
        let since = flight.stranger.map_or(now, |(_, since)| since);
        flight.stranger = Some((stranger, since));
        stranger.taken.is_some() || now.since(since) >= COST_WAIT
    }

    /// Logs and records the foreign transaction that took a nonce, and the amount booked to the operator's account.
    pub fn tell_stranger(&mut self, id: BatchId, stranger: &ForeignTransaction) {
        let ForeignTransaction { hash, block, taken } = stranger;
        let mut detail = format!("nonce {} was used by {hash} in block {block}", id.nonce);
        let code = match taken {
            Some(taken) => {
                let wei = taken.cost_wei.saturating_add(taken.value_wei);
                detail.push_str(&format!(", which took {wei} wei"));
                "foreign_booked"
            }
            None => {
                self.notice(Notice::ForeignUnbooked { batch: id, hash: *hash, block: *block });
                "foreign_unbooked"
            }
        };
        let alert = Decision::Alert { code: code.to_owned(), subject: id.lane.to_string(), detail };
        self.note(Vec::new(), vec![alert]);
    }
}
