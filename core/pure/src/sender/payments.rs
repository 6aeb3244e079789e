//! Payments that are to end without a transaction of ours.
//!
//! Anybody may submit what a payer authorized, so a payment that fails, or expires, may have been made by somebody else. The
//! chain is asked first: at the head whether its nonce is used at all, at the final block by what.

use std::ops::Bound;

use super::{
    host::Host,
    input::{Command, Paid},
    state::Sender,
};
use crate::{
    ordered::Map,
    record::RequestChange,
    request::{Reason, RequestId, Status},
    time::Timestamp,
};

/// End of a payment that another transaction has not made.
#[derive(Debug, Clone)]
pub struct Unread {
    to: Status,
    reason: Reason,
    detail: Option<String>,
    /// True if the payer's signature is proven. Otherwise anybody who saw the payment could claim it as a request of its own.
    is_proven: bool,
    /// Number of answers that left open what used its nonce.
    untold: u32,
}

/// At most `most` payments, those after `after` first: none that the chain leaves open keeps the others waiting.
fn turn<T>(unread: &Map<RequestId, T>, after: Option<RequestId>, most: usize) -> impl Iterator<Item = RequestId> {
    let after = after.map_or(Bound::Unbounded, Bound::Excluded);
    let later = unread.range((after, Bound::Unbounded)).map(|(id, _)| *id);
    later.chain(unread.keys().copied()).take(unread.len().min(most))
}

impl<H: Host> Sender<H> {
    /// Sets aside the payments among `ids` until the chain is asked; returns the others.
    pub fn set_payments_aside(
        &mut self,
        mut ids: Vec<RequestId>,
        to: Status,
        reason: Reason,
        detail: Option<&str>,
    ) -> Vec<RequestId> {
        if !H::HAS_LEDGER {
            // A page has no tokens.
            return ids;
        }
        ids.retain(|id| {
            let request = self.queue.get(*id).map(|entry| &entry.request);
            let Some(request) = request.filter(|request| request.payment().is_some()) else { return true };
            let is_proven = request.is_proven();
            self.queue.set_aside(*id);
            let unread = Unread { to, reason, detail: detail.map(str::to_owned), is_proven, untold: 0 };
            self.unread.entry(*id).or_insert(unread);
            false
        });
        self.look_at_payments();
        ids
    }

    /// Asks what became of payments that are to end.
    pub fn look_at_payments(&mut self) {
        let Some(final_block) = self.head.and_then(|head| head.final_block) else { return };
        if !H::HAS_LEDGER || self.unread.is_empty() || self.under_way.payments || self.is_stopping {
            return;
        }
        let known = |id: RequestId| Some((id, self.queue.get(id)?.request.payment()?));
        let turn = turn(&self.unread, self.unread_after, H::NONCES_AT_ONCE);
        let payments: Vec<_> = turn.filter_map(known).collect();
        self.unread_after = payments.last().map(|(id, _)| *id);
        self.under_way.payments = true;
        self.command(Command::FindPayments { payments, final_block });
    }

    pub(crate) fn on_payments(&mut self, now: Timestamp, found: Vec<(RequestId, Paid)>) {
        self.under_way.payments = false;
        let most = self.facts.tuning.retry.max_unclear_payment_answers;
        for (id, paid) in found {
            let Some(unread) = self.unread.get_mut(&id) else { continue };
            if paid == Paid::Untold && unread.untold < most {
                unread.untold += 1;
                continue;
            }
            let Some(Unread { to, reason, detail, is_proven, .. }) = self.unread.remove(&id) else { continue };
            if self.withdrawn.contains(&id) {
                self.forget_withdrawn(id);
                continue;
            }
            if self.is_entangled(id) {
                // A transaction of ours may be the one.
                self.put_back(id);
                continue;
            }
            let change = match paid {
                Paid::Unused => RequestChange { detail, ..RequestChange::to(id, to).because(reason) },
                Paid::Made { tx_hash, block_number } if is_proven => RequestChange {
                    tx_hash: Some(tx_hash),
                    block_number: Some(block_number),
                    ..RequestChange::to(id, Status::Finalized).because(Reason::ExecutedElsewhere)
                },
                Paid::Made { .. } | Paid::Otherwise | Paid::Untold => {
                    RequestChange::to(id, Status::Rejected).because(Reason::NonceUsedElsewhere)
                }
            };
            self.end_as(now, vec![change]);
        }
        let queue = &self.queue;
        self.unread.retain(|id, _| queue.get(*id).is_some());
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{B256, U256};

    use super::*;

    fn id(number: u64) -> RequestId {
        RequestId(B256::from(U256::from(number)))
    }

    /// 500 payments that the chain leaves open, 200 at a time: each is asked about in every three turns.
    #[test]
    fn open_payments_take_turns() {
        let mut unread: Map<RequestId, ()> = (0..500).map(|number| (id(number), ())).collect();
        let mut after = None;
        for round in 0..4 {
            let mut asked = std::collections::BTreeSet::new();
            for _ in 0..3 {
                let turn: Vec<_> = turn(&unread, after, 200).collect();
                assert_eq!(turn.len(), 200);
                after = turn.last().copied();
                asked.extend(turn);
            }
            assert_eq!(asked.len(), 500, "round {round}");
            // One that comes later waits for no round.
            let new = id(1_000 + round);
            unread.insert(new, ());
            let turns: Vec<_> = (0..3)
                .map(|_| {
                    let turn: Vec<_> = turn(&unread, after, 200).collect();
                    after = turn.last().copied();
                    turn
                })
                .collect();
            assert!(turns.iter().flatten().any(|asked| *asked == new));
            unread.remove(&new);
        }
        let few: Map<RequestId, ()> = (0..3).map(|number| (id(number), ())).collect();
        assert_eq!(turn(&few, Some(id(1)), 200).collect::<Vec<_>>(), [id(2), id(0), id(1)]);
        assert_eq!(turn(&Map::<RequestId, ()>::default(), Some(id(1)), 200).count(), 0);
    }
}
