//! Signers whose forwarder nonce was never looked up: looked up in turn, with back-off when no node answers.

use std::{ops::Bound, time::Duration};

use alloy_primitives::Address;

use super::line::Signer;
use crate::{ordered::Set, table::Table, time::Timestamp};

/// First pause of a forwarder after a failed nonce lookup. Doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause of a forwarder.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    until: Timestamp,
    length: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Unknown {
    pub(super) signers: Set<Signer>,
    /// Last signer of the previous lookup.
    after: Option<Signer>,
    /// Pauses by forwarder.
    pub(super) pauses: Table<Address, Pause>,
}

impl Unknown {
    /// The next signers in turn, at most one full round.
    pub(super) fn next(&mut self, now: Timestamp, limit: usize) -> Vec<Signer> {
        let Self { signers, pauses, .. } = self;
        pauses.retain(|(forwarder, _)| {
            signers.range((*forwarder, Address::ZERO)..).next().is_some_and(|(next, _)| next == forwarder)
        });
        let mut chosen = Vec::new();
        let start = self.after.map_or(Bound::Unbounded, Bound::Excluded);
        self.take(now, start, None, limit, &mut chosen);
        if self.after.is_some() {
            self.take(now, Bound::Unbounded, self.after, limit, &mut chosen);
        }
        self.after = chosen.last().copied().or(self.after);
        chosen
    }

    fn take(
        &self,
        now: Timestamp,
        mut from: Bound<Signer>,
        last: Option<Signer>,
        limit: usize,
        chosen: &mut Vec<Signer>,
    ) {
        while chosen.len() < limit
            && let Some(signer) = self.signers.range((from, Bound::Unbounded)).next()
            && last.is_none_or(|last| *signer <= last)
        {
            let is_paused = self.pauses.get(&signer.0).is_some_and(|pause| now < pause.until);
            // Skip all signers of a paused forwarder.
            from = Bound::Excluded(if is_paused { (signer.0, Address::repeat_byte(0xff)) } else { *signer });
            if !is_paused {
                chosen.push(*signer);
            }
        }
    }

    pub(super) fn note(&mut self, now: Timestamp, forwarder: Address, has_answered: bool) {
        let pause = self.pauses.get_or_insert_with(forwarder, || Pause { until: now, length: Duration::ZERO });
        if has_answered {
            *pause = Pause { until: now.saturating_add(FIRST_PAUSE), length: FIRST_PAUSE };
        } else if pause.until <= now {
            pause.length = pause.length.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            pause.until = now.saturating_add(pause.length);
        }
    }
}
