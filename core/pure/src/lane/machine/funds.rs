//! The lane's balance: the amount left beside everything in flight, and the wait for a top-up (S9).

use alloy_primitives::U256;

use super::{
    super::{
        event::{Command, LaneAlert},
        slot::{Attempt, Held, Slot},
    },
    Lane,
};
use crate::{chain::RpcErrorClass, time::Timestamp};

/// Reason for the wait for a top-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortage {
    /// Plans need more than is left beside everything in flight, the cheapest of them `needed_wei`. Other plans are
    /// still accepted. Ends with the plans' deadlines at the latest.
    Plan { needed_wei: U256, until: Timestamp },
    /// Nodes refuse an in-flight transaction. `lowest_wei` is the lowest balance seen since: only a higher one is a
    /// top-up, because nodes count transactions unknown to us.
    Refused { needed_wei: U256, lowest_wei: U256, tried_at: u64 },
}

impl Shortage {
    const fn needed_wei(self) -> U256 {
        match self {
            Self::Plan { needed_wei, .. } | Self::Refused { needed_wei, .. } => needed_wei,
        }
    }
}

impl Lane {
    /// Balance minus the worst case of everything that is not settled.
    pub fn available_wei(&self) -> U256 {
        let committed = self
            .slots
            .values()
            .filter(|slot| slot.is_in_flight())
            .fold(U256::ZERO, |sum, slot| sum.saturating_add(slot.worst_case_wei(self.cancel_cost())));
        self.balance.unwrap_or(U256::MAX).saturating_sub(committed)
    }

    /// Records that a plan needs more than is available. The cheapest such plan decides when the shortage is over, the
    /// latest deadline when it lapses.
    pub(super) fn short(&mut self, needed_wei: U256, until: Timestamp) {
        match self.shortage {
            Some(Shortage::Plan { needed_wei: least, until: last }) => {
                let (needed_wei, until) = (least.min(needed_wei), last.max(until));
                self.shortage = Some(Shortage::Plan { needed_wei, until });
            }
            Some(Shortage::Refused { .. }) => {}
            None => self.pause(Shortage::Plan { needed_wei, until }),
        }
    }

    pub(super) fn refused_for_funds(&mut self, needed_wei: U256) {
        let lowest_wei = match self.shortage {
            Some(Shortage::Refused { lowest_wei, .. }) => lowest_wei,
            _ => self.balance.unwrap_or(U256::ZERO),
        };
        let tried_at = self.head.map_or(0, |head| head.number);
        self.pause(Shortage::Refused { needed_wei, lowest_wei, tried_at });
    }

    fn pause(&mut self, shortage: Shortage) {
        if self.shortage.is_none() {
            let balance_wei = self.balance.unwrap_or(U256::ZERO);
            let needed_wei = shortage.needed_wei();
            self.commands.push_back(Command::Alert(LaneAlert::Underfunded { needed_wei, balance_wei }));
        }
        self.shortage = Some(shortage);
    }

    pub(super) fn resume(&mut self) {
        self.shortage = None;
        self.commands.push_back(Command::Alert(LaneAlert::Resumed));
    }

    pub(super) fn on_balance(&mut self, now: Timestamp, wei: U256) {
        self.balance = Some(wei);
        match self.shortage {
            None => {}
            Some(Shortage::Plan { needed_wei, .. }) if self.available_wei() < needed_wei => {}
            Some(Shortage::Plan { .. }) => self.resume(),
            Some(Shortage::Refused { needed_wei, lowest_wei, tried_at }) => {
                let refused_wei = needed_wei;
                let lowest = lowest_wei.min(wei);
                self.shortage = Some(Shortage::Refused { needed_wei: refused_wei, lowest_wei: lowest, tried_at });
                // The refused transaction is itself in flight: compare with the whole balance.
                let pending = self.slots.values().filter(|slot| slot.is_in_flight());
                let cancel = self.cancel_cost();
                let needed_wei = pending.fold(U256::ZERO, |sum, slot| sum.saturating_add(slot.worst_case_wei(cancel)));
                if wei < needed_wei {
                    return;
                }
                let is_refused = |attempt: &Attempt| attempt.refused == Some(RpcErrorClass::InsufficientFunds);
                let has_refused = |slot: &Slot| slot.is_in_flight() && slot.attempts.iter().any(is_refused);
                let is_left = self.slots.values().any(|slot| has_refused(slot));
                // A top-up arrived, or no refused transaction is left, for example because an earlier attempt is in a
                // block.
                if wei > lowest || !is_left {
                    self.resume();
                } else {
                    // The balance should do, but a node says it does not: retried periodically until a node accepts.
                    let head = self.head.map_or(0, |head| head.number);
                    if head.saturating_sub(tried_at) < self.config.rebroadcast_after_blocks {
                        return;
                    }
                    let shortage = Shortage::Refused { needed_wei: refused_wei, lowest_wei: lowest, tried_at: head };
                    self.shortage = Some(shortage);
                }
                // A node that did not answer the last try may hold nothing either.
                let is_untaken = |slot: &Slot| {
                    let best = slot.best().map(|best| &slot.attempts[best]);
                    slot.is_in_flight() && (slot.is_busy() || best.is_some_and(|best| best.held < Held::Yes))
                };
                let untaken: Vec<u64> =
                    self.slots.iter().filter(|(_, slot)| is_untaken(slot)).map(|(nonce, _)| *nonce).collect();
                if untaken.is_empty() && self.shortage.is_some() {
                    // No refused transaction is left.
                    self.resume();
                }
                for nonce in untaken {
                    let may = |slot: &Slot| {
                        !slot.is_busy() && slot.best().is_some_and(|best| !slot.attempts[best].is_sending)
                    };
                    if self.slots.get(&nonce).is_some_and(|slot| may(slot)) {
                        self.broadcast(now, nonce);
                    }
                }
            }
        }
    }
}
