//! The lane's balance: what is left beside everything in flight, and the wait for a top-up (S9).

use alloy_primitives::U256;

use super::{
    super::{
        event::{Command, LaneAlert},
        slot::Held,
    },
    Lane,
};
use crate::time::Timestamp;

/// Why the lane waits for a top-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortage {
    /// A plan needs more than what is left beside everything in flight. It ends with the plan's deadline at the latest.
    Plan { needed_wei: U256, until: Timestamp },
    /// Nodes refuse what is in flight.
    Refused { needed_wei: U256 },
}

impl Shortage {
    pub(super) const fn needed_wei(self) -> U256 {
        match self {
            Self::Plan { needed_wei, .. } | Self::Refused { needed_wei } => needed_wei,
        }
    }
}

impl Lane {
    /// Balance minus the worst case of everything that is not settled.
    pub(super) fn available_wei(&self) -> U256 {
        let committed = self
            .slots
            .values()
            .filter(|slot| !slot.is_included())
            .fold(U256::ZERO, |sum, slot| sum.saturating_add(slot.worst_case_wei(self.cancel_cost())));
        self.balance.unwrap_or(U256::MAX).saturating_sub(committed)
    }

    pub(super) fn pause(&mut self, shortage: Shortage) {
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
            Some(Shortage::Refused { .. }) => {
                // What is refused is itself in flight: compare with the whole balance.
                let pending = self.slots.values().filter(|slot| !slot.is_included());
                let cancel = self.cancel_cost();
                let needed_wei = pending.fold(U256::ZERO, |sum, slot| sum.saturating_add(slot.worst_case_wei(cancel)));
                if wei < needed_wei {
                    return;
                }
                self.resume();
                let refused: Vec<u64> = self
                    .slots
                    .iter()
                    .filter(|(_, slot)| !slot.is_included() && !slot.is_busy())
                    .filter(|(_, slot)| slot.best().is_some_and(|best| slot.attempts[best].held == Held::Refused))
                    .map(|(nonce, _)| *nonce)
                    .collect();
                for nonce in refused {
                    self.broadcast(now, nonce);
                }
            }
        }
    }
}
