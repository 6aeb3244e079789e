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
    record::RequestChange,
    request::{Reason, RequestId, Status},
    time::Timestamp,
};

/// Most answers that leave open what used a nonce, after which the payment counts as not made.
const MAX_UNTOLD: u32 = 64;

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

impl<H: Host> Sender<H> {
    /// Sets aside the payments among `ids` until the chain is asked; returns the others.
    pub fn set_payments_aside(
        &mut self,
        mut ids: Vec<RequestId>,
        to: Status,
        reason: Reason,
        detail: Option<&str>,
    ) -> Vec<RequestId> {
        ids.retain(|id| {
            let request = self.queue.get(*id).map(|entry| &entry.request);
            let Some(request) = request.filter(|request| request.payment().is_some()) else { return true };
            let is_proven = !request.is_outline() && request.slot().is_some();
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
        if self.unread.is_empty() || self.under_way.payments || self.is_stopping {
            return;
        }
        let known = |id: &RequestId| Some((*id, self.queue.get(*id)?.request.payment()?));
        // In turns: those that the chain leaves open must not keep the others waiting.
        let after = self.unread_after.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.unread.range((after, Bound::Unbounded)).map(|(id, _)| id);
        let all = later.chain(self.unread.keys());
        let payments: Vec<_> = all.take(self.unread.len()).filter_map(known).take(H::NONCES_AT_ONCE).collect();
        self.unread_after = payments.last().map(|(id, _)| *id);
        self.under_way.payments = true;
        self.command(Command::FindPayments { payments, final_block });
    }

    pub(crate) fn on_payments(&mut self, now: Timestamp, found: Vec<(RequestId, Paid)>) {
        self.under_way.payments = false;
        for (id, paid) in found {
            let Some(unread) = self.unread.get_mut(&id) else { continue };
            if paid == Paid::Untold && unread.untold < MAX_UNTOLD {
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
                self.queue.put_back(id);
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
