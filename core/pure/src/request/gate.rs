//! Decisions from simulation results: send, refuse or wait (invariants I11 and I15). Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::outcome::MemberOutcome;
use crate::{ordered::Map, protection::Protection, time::Timestamp, tuning::choice};

/// What becomes of a request that no node can simulate until the last block that can take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unsimulated {
    /// End it as `rejected: not_simulated`.
    #[default]
    Hold,
    /// Send it then, alone: its cost is paid whatever it does.
    Send,
}

choice!(Unsimulated: Hold "hold", Send "send");

/// Simulation result for one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It would execute.
    Executes,
    /// The target would revert; the revert reason in readable form, if known.
    Reverts(Option<String>),
    /// The forwarder would skip it; the reason, if known.
    Skipped(Option<String>),
    /// No result.
    Unknown,
}

impl Word {
    /// The result for an outcome.
    pub const fn of(outcome: MemberOutcome) -> Self {
        match outcome {
            MemberOutcome::Executed => Self::Executes,
            MemberOutcome::Failed => Self::Reverts(None),
            MemberOutcome::Untouched => Self::Skipped(None),
        }
    }

    /// True if the result is against sending.
    pub const fn is_no(&self) -> bool {
        matches!(self, Self::Reverts(_) | Self::Skipped(_))
    }

    /// Combined result of two nodes: one acceptance is enough, and an unknown result does not count.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Executes, _) | (_, Self::Executes) => Self::Executes,
            (Self::Unknown, word) | (word, Self::Unknown) => word,
            // Prefer the result with a reason.
            (Self::Reverts(None) | Self::Skipped(None), word) | (word, _) => word,
        }
    }
}

/// Rule for rejecting a request by adverse results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectRule {
    /// Number of nodes of the chain. A single node's result is enough if it is the only one; otherwise two nodes must
    /// agree.
    pub nodes: usize,
    /// Least number of heads at which it must fail.
    pub heads: u32,
    /// Time after which a second adverse result of the same node counts, if no second node gives one.
    pub after: Duration,
}

/// Adverse results for one request since the last favourable one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doubt {
    /// First adverse result of each node, by its index: block and time.
    first: Map<usize, (u64, Timestamp)>,
    heads: u32,
    newest: Option<u64>,
}

impl Doubt {
    /// Records an adverse result of the nodes at `places` at head `block`. Returns true if the request is rejected by
    /// it.
    pub fn refused(&mut self, places: &[usize], block: u64, now: Timestamp, rule: &RejectRule) -> bool {
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

/// True if `words` simulations on a chain with `nodes` nodes are enough to conclude that a transaction fails as a
/// whole: that counts against its members, and enough of it ends them. One node's result is enough only if there is no
/// other node.
pub fn fails_as_a_whole(words: usize, nodes: usize) -> bool {
    words > 1 || nodes <= 1 || !Protection::SecondWord.is_on()
}

/// Action for a request that no node can simulate now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsure {
    /// Try again at the next head.
    Wait,
    /// End it.
    End,
    /// Send it alone.
    Send,
}

/// Action at `now` for a request valid until `until` that no node can simulate, with the next block at most `block`
/// away.
pub fn unsure(now: Timestamp, until: Timestamp, block: Duration, then: Unsimulated) -> Unsure {
    // A block after the next one could include it too.
    if now.saturating_add(block.saturating_mul(2)) < until {
        return Unsure::Wait;
    }
    match then {
        Unsimulated::Hold => Unsure::End,
        Unsimulated::Send => Unsure::Send,
    }
}

/// One batch in this many is simulated by two nodes, whatever the first one's result.
pub const SECOND_OPINION_EVERY: u64 = 16;

/// True if the `count`-th batch, counted from 0, is simulated by two nodes; `wary` is the number of batches still to be
/// checked after a surprise.
pub const fn needs_second_opinion(count: u64, wary: u64) -> bool {
    wary > 0 || count.is_multiple_of(SECOND_OPINION_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_000_000);
    const RULE: RejectRule = RejectRule { nodes: 3, heads: 3, after: Duration::from_secs(10) };

    /// True if the last of these results (node indices, block, ms since the start) rejects.
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
        // No second node is available: time replaces it.
        assert!(rejects(RULE, &[(&[0], 1, 0), (&[0], 2, 5_000), (&[0], 3, 10_000)]));
        assert!(!rejects(RULE, &[(&[0], 1, 0), (&[0], 2, 5_000), (&[0], 3, 9_999)]));
        // Time alone does not replace a second head.
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
