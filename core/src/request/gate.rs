//! What simulations are worth: who is sent, who is refused, who waits (invariants I11 and I15). Pure.

use std::{collections::BTreeMap, time::Duration};

use super::outcome::MemberOutcome;
use crate::{protection::Protection, time::Timestamp};

/// What becomes of a request that no node can simulate until the last block that can take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unsimulated {
    /// It ends `rejected: not_simulated`.
    #[default]
    Hold,
    /// It is sent then, alone: whatever it does is paid for.
    Send,
}

impl Unsimulated {
    /// Name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Send => "send",
        }
    }
}

/// What simulation says of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// It would execute.
    Executes,
    /// The target would revert; what it said, for people, where that is known.
    Reverts(Option<String>),
    /// The forwarder would skip it; why, where that is known.
    Skipped(Option<String>),
    /// Nothing was learned.
    Unknown,
}

impl Word {
    /// The word for an outcome.
    pub(crate) const fn of(outcome: MemberOutcome) -> Self {
        match outcome {
            MemberOutcome::Executed => Self::Executes,
            MemberOutcome::Failed => Self::Reverts(None),
            MemberOutcome::Untouched => Self::Skipped(None),
        }
    }

    /// It speaks against sending.
    pub(crate) const fn is_no(&self) -> bool {
        matches!(self, Self::Reverts(_) | Self::Skipped(_))
    }

    /// What two nodes say together: for an acceptance the word of one is enough, and who says nothing says nothing.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Executes, _) | (_, Self::Executes) => Self::Executes,
            (Self::Unknown, word) | (word, Self::Unknown) => word,
            // Whoever says why.
            (Self::Reverts(None) | Self::Skipped(None), word) | (word, _) => word,
        }
    }
}

/// When words against a request reject it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RejectRule {
    /// Nodes of the chain. The only one's word is enough; else it takes two.
    pub(crate) nodes: usize,
    /// Heads at which it must fail, at least.
    pub(crate) heads: u32,
    /// Time between two words of the same node that count as two, where no second node says anything.
    pub(crate) after: Duration,
}

/// The words against one request since one spoke for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// When each node first said no, by its place.
    first: BTreeMap<usize, (u64, Timestamp)>,
    heads: u32,
    newest: Option<u64>,
}

impl Doubt {
    /// The nodes at `places` said no at head `block`. Returns whether that rejects the request.
    pub(crate) fn refused(&mut self, places: &[usize], block: u64, now: Timestamp, rule: &RejectRule) -> bool {
        if self.newest != Some(block) {
            self.newest = Some(block);
            self.heads = self.heads.saturating_add(1);
        }
        let mut is_repeated = false;
        for place in places {
            let (first, since) = *self.first.entry(*place).or_insert((block, now));
            is_repeated |= first != block && now.since(since) >= rule.after;
        }
        let is_heard = rule.nodes <= 1 || !Protection::SecondWord.is_on() || self.first.len() > 1 || is_repeated;
        is_heard && self.heads >= rule.heads
    }
}

/// Whether a transaction fails as a whole, as the simulations of `words` of the chain's `nodes` say: that counts against its
/// members, and enough of it ends them. One node's word is enough only where there is no other.
pub(crate) fn fails_as_a_whole(words: usize, nodes: usize) -> bool {
    words > 1 || nodes <= 1 || !Protection::SecondWord.is_on()
}

/// What to do with a request that no node simulates now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsure {
    /// Try again at the next head.
    Wait,
    /// End it.
    End,
    /// Send it alone.
    Send,
}

/// What to do at `now` with a request that is valid until `until` and that no node simulates, when the next block is at most
/// `block` away.
pub(crate) fn unsure(now: Timestamp, until: Timestamp, block: Duration, then: Unsimulated) -> Unsure {
    // A block after the next one could take it too.
    if now.saturating_add(block.saturating_mul(2)) < until {
        return Unsure::Wait;
    }
    match then {
        Unsimulated::Hold => Unsure::End,
        Unsimulated::Send => Unsure::Send,
    }
}

/// One batch in so many is simulated by two nodes, whatever the first one says.
pub(crate) const SECOND_OPINION_EVERY: u64 = 16;

/// Whether the `count`-th batch, counted from 0, is simulated by two; `wary` is how many after a surprise still must be.
pub(crate) const fn needs_second_opinion(count: u64, wary: u64) -> bool {
    wary > 0 || count.is_multiple_of(SECOND_OPINION_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_000_000);
    const RULE: RejectRule = RejectRule { nodes: 3, heads: 3, after: Duration::from_secs(10) };

    /// Whether the last of these words (places, block, ms since the start) rejects.
    fn rejects(rule: RejectRule, words: &[(&[usize], u64, u64)]) -> bool {
        let mut doubt = Doubt::default();
        words.iter().map(|(places, block, ms)| doubt.refused(places, *block, Timestamp(START.0 + ms), &rule)).last()
            == Some(true)
    }

    #[test]
    fn one_node_of_several_fails_nothing_as_a_whole() {
        assert!(fails_as_a_whole(1, 1), "there is no other");
        assert!(!fails_as_a_whole(1, 2) && !fails_as_a_whole(1, 3));
        assert!(fails_as_a_whole(2, 2) && fails_as_a_whole(2, 3));
    }

    #[test]
    fn one_node_of_several_rejects_nothing_at_once() {
        let hurried: Vec<(&[usize], u64, u64)> = (0..30).map(|head| (&[0][..], head, head * 250)).collect();
        assert!(!rejects(RULE, &hurried), "thirty blocks in 7.5 s, one node");
        // Nobody else can be asked: time makes up for it.
        assert!(rejects(RULE, &[(&[0], 1, 0), (&[0], 2, 5_000), (&[0], 3, 10_000)]));
        assert!(!rejects(RULE, &[(&[0], 1, 0), (&[0], 2, 5_000), (&[0], 3, 9_999)]));
        // Time alone makes no second head.
        assert!(!rejects(RejectRule { heads: 1, ..RULE }, &[(&[0], 1, 0), (&[0], 1, 60_000)]));
    }

    #[test]
    fn two_nodes_reject_after_a_few_heads() {
        assert!(rejects(RULE, &[(&[0, 1], 1, 0), (&[0, 1], 2, 250), (&[0, 1], 3, 500)]));
        assert!(!rejects(RULE, &[(&[0, 1], 1, 0), (&[0, 1], 2, 250)]));
        assert!(
            !rejects(RULE, &[(&[0, 1], 1, 0), (&[0, 1], 1, 10), (&[0, 1], 1, 20)]),
            "one head, asked again and again"
        );
        assert!(rejects(RULE, &[(&[0], 1, 0), (&[0], 2, 250), (&[2], 3, 500)]), "the second at the last");
    }

    #[test]
    fn the_only_node_is_believed() {
        let rule = RejectRule { nodes: 1, ..RULE };
        assert!(rejects(rule, &[(&[0], 1, 0), (&[0], 2, 250), (&[0], 3, 500)]));
    }

    #[test]
    fn for_an_acceptance_one_word_is_enough() {
        let no = || Word::Reverts(Some("no".to_owned()));
        assert_eq!(Word::Executes.and(no()), Word::Executes);
        assert_eq!(no().and(Word::Executes), Word::Executes);
        assert_eq!(no().and(Word::Unknown), no());
        assert_eq!(Word::Unknown.and(Word::Unknown), Word::Unknown);
        assert_eq!(Word::Skipped(None).and(no()), no(), "whoever says why");
        assert_eq!(no().and(Word::Skipped(None)), no());
    }

    #[test]
    fn what_is_not_simulated_waits_for_the_last_block() {
        let block = Duration::from_secs(12);
        let at = |left_s: u64, then| unsure(START, Timestamp(START.0 + left_s * 1_000), block, then);
        assert_eq!(at(3_600, Unsimulated::Send), Unsure::Wait);
        assert_eq!(at(25, Unsimulated::Hold), Unsure::Wait);
        assert_eq!(at(24, Unsimulated::Hold), Unsure::End);
        assert_eq!(at(24, Unsimulated::Send), Unsure::Send);
        assert_eq!(at(0, Unsimulated::Send), Unsure::Send);
    }

    #[test]
    fn every_sixteenth_batch_and_those_after_a_surprise_are_simulated_by_two() {
        let by_two = (0..160).filter(|count| needs_second_opinion(*count, 0)).count();
        assert_eq!(by_two, 10);
        assert!(needs_second_opinion(5, 1));
    }
}
