//! Target records: on-chain behaviour of targets, which limits how their requests may share transactions.
//!
//! A contract can behave in every simulation and burn all gas on chain, so its past says little about its next
//! transaction. Its record bounds the risk. A target that no policy names earns company: after `n` clean transactions
//! its requests travel with those of `n` more signers, all of one tenant, whose budget pays. A named target is trusted
//! until a request to it *surprises* alone: then it is suspect, and its requests share with the same signer's only.
//!
//! # A worked example
//! With a longest suspicion of a day, a named target is suspect for 22.5 minutes after its first surprise, 45 after the second,
//! and for a day after the seventh and every further one.

use std::time::Duration;

use alloy_primitives::{Address, B256};

use crate::{
    ordered::HashMap,
    protection::Protection,
    request::{TargetRecord, outcome::MemberOutcome, vehicle::Company},
    table::Table,
    time::Timestamp,
    tuning::keys,
};

/// Divisor of the longest suspicion that gives the first one.
const FIRST_PART: u32 = 64;

keys! {
    /// Suspicion of targets, and their memory.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct RecordRule;

    /// Longest time that a target which `targets` names is suspect, and its requests share transactions with the same signer's
    /// only: after a request to it alone did on chain what no simulation showed. A 64th of it after the first surprise, twice as
    /// long after each further one.
    suspect "suspect_ms": Duration [1..=31_536_000_000] = Duration::from_secs(24 * 3_600);
    /// Most targets of which is remembered what they showed on chain: clean runs and surprises. One that is forgotten is new
    /// again; those that surprised are forgotten last.
    max_records "max_target_records": usize [1..=1_000_000] = 10_000;
}

impl RecordRule {
    /// Duration of suspicion after this number of surprises.
    fn suspicion(&self, surprises: u32) -> Duration {
        let times = match surprises {
            0 => 0,
            more => 1 << (more - 1).min(FIRST_PART.trailing_zeros()),
        };
        self.suspect.saturating_mul(times) / FIRST_PART
    }
}

/// Evidence about targets from one transaction in a block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Showing {
    /// Unnamed targets with a clean run, if they are contracts.
    pub clean: Vec<Address>,
    /// Target to blame for its surprise; `None` if there is none or it is not clear.
    pub accused: Option<Accused>,
}

/// The only target of a transaction that failed as a whole, or that skipped a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accused {
    /// The contract.
    pub target: Address,
    /// True if its tenant's policy names it.
    pub is_named: bool,
    /// True if the transaction failed as a whole. Otherwise it is a surprise only if the skipped signer's nonce was
    /// unused, and none before it was missing.
    pub has_failed: bool,
}

/// Evidence of a transaction with these members: each member's target and its policy's view of it, `None` if no longer
/// known.
pub(super) fn showing(members: &[Option<(Address, Company)>], outcomes: &[MemberOutcome], is_success: bool) -> Showing {
    let is_left_out = outcomes.contains(&MemberOutcome::Untouched);
    if is_success && !is_left_out {
        let mut clean: Vec<Address> = Vec::new();
        for (target, _) in members.iter().flatten().copied().filter(|known| known.1 == Company::Unnamed) {
            if !clean.contains(&target) {
                clean.push(target);
            }
        }
        return Showing { clean, accused: None };
    }
    // With several targets, the one that takes the gas may harm the others: the culprit is clear only if it is alone.
    let accused = || {
        let (target, company) = (*members.first()?)?;
        let is_named = company == Company::Named;
        let is_of_its_own = members.iter().all(|known| *known == Some((target, company)));
        (is_left_out && is_of_its_own && (!is_named || members.len() == 1)).then_some(Accused {
            target,
            is_named,
            has_failed: !is_success,
        })
    };
    Showing { clean: Vec::new(), accused: accused() }
}

/// State of one target.
#[derive(Debug)]
struct Known {
    /// The persistent part.
    record: TargetRecord,
    /// Clean runs in blocks that are not final.
    pending: u64,
    /// Runs among those that precede a surprise: they no longer count.
    forfeited: u64,
}

impl Known {
    fn clean_runs(&self) -> u64 {
        self.record.clean_runs.saturating_add(self.pending)
    }

    const fn place(&self) -> Place {
        (self.record.surprises > 0, self.record.seen_at, self.record.target)
    }
}

/// Eviction order: targets without surprises first, among them the one not seen for longest.
type Place = (bool, Timestamp, Address);

/// Records of all targets.
#[derive(Debug, Default)]
pub(super) struct TargetRecords {
    rule: RecordRule,
    known: HashMap<Address, Known>,
    order: Table<Place, ()>,
    /// Targets whose record differs from the persisted one.
    changed: Table<Address, ()>,
    /// End of the last suspicion.
    suspects_until: Timestamp,
}

impl TargetRecords {
    /// Starts from persisted records.
    pub(super) fn recalled(rule: RecordRule, records: Vec<TargetRecord>) -> Self {
        let mut all = Self { rule, ..Self::default() };
        for record in records {
            all.change(record.target, record.seen_at, |known| known.record = record);
            all.suspects_until = all.suspects_until.max(record.suspect_until);
        }
        all
    }

    /// Changes a target's state; another target may be evicted for it.
    fn change<T>(&mut self, target: Address, now: Timestamp, change: impl FnOnce(&mut Known) -> T) -> T {
        if let Some(known) = self.known.get(&target) {
            self.order.remove(&known.place());
        } else if self.known.len() >= self.rule.max_records
            && let Some(((_, _, oldest), ())) = self.order.pop_first()
            && self.known.remove(&oldest).is_some_and(|gone| !gone.record.is_empty())
        {
            self.changed.insert(oldest, ());
        }
        let new = || Known { record: TargetRecord::new(target, now), pending: 0, forfeited: 0 };
        let known = self.known.entry(target).or_insert_with(new);
        known.record.seen_at = now;
        let changed = change(known);
        self.order.insert(known.place(), ());
        changed
    }

    /// A clean transaction is in a block.
    pub(super) fn ran(&mut self, target: Address, now: Timestamp) {
        self.change(target, now, |known| known.pending += 1);
    }

    /// A reorg removed that block.
    pub(super) fn unran(&mut self, target: Address) {
        let Some(known) = self.known.get_mut(&target) else { return };
        let of = if known.forfeited > 0 { &mut known.forfeited } else { &mut known.pending };
        *of = of.saturating_sub(1);
    }

    /// That block is final.
    pub(super) fn settled(&mut self, target: Address, now: Timestamp) {
        let counts = self.change(target, now, |known| {
            if known.forfeited > 0 {
                known.forfeited -= 1;
                return false;
            }
            known.pending = known.pending.saturating_sub(1);
            known.record.clean_runs += 1;
            true
        });
        if counts {
            self.changed.insert(target, ());
        }
    }

    /// A surprise costs the target its clean runs.
    pub(super) fn lost(&mut self, target: Address) {
        let Some(known) = self.known.get_mut(&target) else { return };
        known.forfeited += std::mem::take(&mut known.pending);
        if std::mem::take(&mut known.record.clean_runs) > 0 {
            self.changed.insert(target, ());
        }
    }

    /// The transaction with this hash surprised through requests to this named target alone. Returns the end of the
    /// suspicion; `None` if this transaction is already noted.
    pub(super) fn surprised(&mut self, target: Address, hash: B256, now: Timestamp) -> Option<Timestamp> {
        if self.known.get(&target).is_some_and(|known| known.record.shown_by == Some(hash)) {
            return None;
        }
        self.lost(target);
        let rule = self.rule;
        let until = self.change(target, now, |Known { record, .. }| {
            record.surprises = record.surprises.saturating_add(1);
            let until = now.saturating_add(rule.suspicion(record.surprises));
            record.suspect_until = record.suspect_until.max(until);
            record.shown_by = Some(hash);
            record.suspect_until
        });
        self.suspects_until = self.suspects_until.max(until);
        self.changed.insert(target, ());
        Some(until)
    }

    /// A reorg removed the block with that transaction: its part of the suspicion is taken back.
    pub(super) fn unsurprised(&mut self, target: Address, hash: B256) {
        let rule = self.rule;
        let Some(known) = self.known.get(&target).filter(|known| known.record.shown_by == Some(hash)) else { return };
        self.change(target, known.record.seen_at, |Known { record, .. }| {
            let longer = rule.suspicion(record.surprises);
            record.surprises = record.surprises.saturating_sub(1);
            let shorter = rule.suspicion(record.surprises);
            record.suspect_until = match record.surprises {
                0 => Timestamp(0),
                _ => record.suspect_until.saturating_sub(longer.saturating_sub(shorter)),
            };
            record.shown_by = None;
        });
        self.changed.insert(target, ());
    }

    /// True if its requests may share only with the same signer's.
    pub(super) fn is_suspect(&self, target: Address, now: Timestamp) -> bool {
        now < self.suspects_until
            && Protection::SuspectTargets.is_on()
            && self.known.get(&target).is_some_and(|known| now < known.record.suspect_until)
    }

    /// Signers beyond the first with whom requests to `target` may share a transaction.
    pub(super) fn further_signers(&self, target: Address) -> usize {
        let runs = self.known.get(&target).map_or(0, Known::clean_runs);
        usize::try_from(runs).unwrap_or(usize::MAX)
    }

    /// Records changed since the last call; an empty record is to be deleted.
    pub(super) fn take_changes(&mut self) -> Vec<TargetRecord> {
        let changed = std::mem::take(&mut self.changed);
        let record = |target: &Address| {
            self.known.get(target).map_or(TargetRecord::new(*target, Timestamp(0)), |known| known.record)
        };
        changed.keys().map(record).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn target(n: u64) -> Address {
        Address::from_word(alloy_primitives::U256::from(n).into())
    }

    fn hash(n: u8) -> B256 {
        B256::repeat_byte(n)
    }

    /// Records to persist.
    fn kept(records: &mut TargetRecords) -> Vec<(Address, u64, u32)> {
        let changes = records.take_changes();
        changes.iter().map(|record| (record.target, record.clean_runs, record.surprises)).collect()
    }

    #[test]
    fn company_grows_with_clean_runs_and_ends_with_a_surprise() {
        let (target, mut records) = (target(1), TargetRecords::default());
        assert_eq!(records.further_signers(target), 0);
        for _ in 0..3 {
            records.ran(target, NOW);
        }
        assert_eq!(records.further_signers(target), 3);
        records.unran(target);
        assert_eq!(records.further_signers(target), 2);
        records.lost(target);
        assert_eq!(records.further_signers(target), 0);
    }

    #[test]
    fn what_is_kept_is_final() {
        let (target, mut records) = (target(1), TargetRecords::default());
        records.ran(target, NOW);
        records.ran(target, NOW);
        assert!(records.take_changes().is_empty(), "no block is final");
        records.settled(target, NOW);
        assert_eq!(kept(&mut records), [(target, 1, 0)]);
        assert_eq!(records.further_signers(target), 2);
        // A run before a surprise that becomes final after it earns nothing; a later run does.
        records.lost(target);
        assert_eq!(kept(&mut records), [(target, 0, 0)]);
        records.ran(target, NOW);
        records.settled(target, NOW);
        assert!(records.take_changes().is_empty());
        records.settled(target, NOW);
        assert_eq!(kept(&mut records), [(target, 1, 0)]);
    }

    #[test]
    fn suspicion_doubles_up_to_its_longest() {
        let (target, mut records) = (target(1), TargetRecords::default());
        let mut now = NOW;
        for n in 1..=9_u8 {
            let until = records.surprised(target, hash(n), now).unwrap();
            let expected = (DAY / 64 * (1 << (n - 1).min(6))).as_millis();
            assert_eq!(u128::from(until.0 - now.0), expected, "surprise {n}");
            assert!(records.is_suspect(target, now) && records.is_suspect(target, Timestamp(until.0 - 1)));
            assert!(!records.is_suspect(target, until));
            assert_eq!(records.surprised(target, hash(n), now), None, "the same transaction counts once");
            now = until;
        }
    }

    #[test]
    fn a_surprise_in_an_orphaned_block_is_taken_back() {
        let (target, mut records) = (target(1), TargetRecords::default());
        records.surprised(target, hash(1), NOW);
        let first = records.take_changes();
        records.surprised(target, hash(2), NOW);
        records.unsurprised(target, hash(1));
        assert_eq!(kept(&mut records), [(target, 0, 2)], "an older one stands");
        records.unsurprised(target, hash(2));
        let second = records.take_changes();
        assert_eq!((second[0].surprises, second[0].suspect_until), (1, first[0].suspect_until));
        // It reappears in another block, then is dropped for good.
        records.surprised(target, hash(2), NOW);
        records.unsurprised(target, hash(2));
        let mut records = TargetRecords::recalled(RecordRule::default(), first);
        records.unsurprised(target, hash(1));
        assert!(!records.is_suspect(target, NOW));
        assert_eq!(kept(&mut records), [(target, 0, 0)]);
    }

    #[test]
    fn what_was_kept_counts_again() {
        let (named, unnamed) = (target(1), target(2));
        let mut records = TargetRecords::default();
        records.surprised(named, hash(1), NOW);
        records.ran(unnamed, NOW);
        records.settled(unnamed, NOW);
        let again = TargetRecords::recalled(RecordRule::default(), records.take_changes());
        assert!(again.is_suspect(named, NOW) && !again.is_suspect(unnamed, NOW));
        assert_eq!(again.further_signers(unnamed), 1);
    }

    #[test]
    fn the_oldest_is_forgotten_and_those_that_surprised_last() {
        let rule = RecordRule { max_records: 100, ..RecordRule::default() };
        let mut records = TargetRecords::recalled(rule, Vec::new());
        records.surprised(target(0), hash(1), NOW);
        for n in 1..=100 {
            records.ran(target(n), Timestamp(NOW.0 + n));
            records.settled(target(n), Timestamp(NOW.0 + n));
        }
        assert!(records.is_suspect(target(0), NOW));
        assert_eq!((records.further_signers(target(1)), records.further_signers(target(2))), (0, 1));
        assert_eq!((records.known.len(), records.order.len()), (100, 100));
        let changes = records.take_changes();
        assert_eq!(
            changes.iter().filter(|record| record.is_empty()).map(|record| record.target).collect::<Vec<_>>(),
            [target(1)]
        );
    }
}
