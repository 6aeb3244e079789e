//! Finality: the point from which a reorg can no longer remove a block.

use serde::{Deserialize, Serialize};

/// Finality rule of a chain. Data of the chain, from its preset or the operator's file.
///
/// An `included` request may fall back to `broadcast`; a `finalized` one never does (invariant I9), so a rule that is too
/// lax shows up as a settled request without its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", from = "FinalityRuleInput")]
pub enum FinalityRule {
    /// `blocks` blocks on top of the inclusion block: with 2, block 100 is final at head 102.
    Depth {
        /// Confirmation depth; at least 1.
        blocks: u64,
    },
    /// The node's `safe` tag has reached the block. Without a tag nothing is final.
    SafeTag,
    /// The node's `finalized` tag has reached the block.
    FinalizedTag {
        /// Depth used while the node does not serve the tag; 0 means wait for the tag.
        fallback_depth: u64,
    },
}

/// [`FinalityRule`] as read: serde refuses unknown keys only beside variants with braces.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum FinalityRuleInput {
    Depth { blocks: u64 },
    SafeTag {},
    FinalizedTag { fallback_depth: u64 },
}

impl From<FinalityRuleInput> for FinalityRule {
    fn from(input: FinalityRuleInput) -> Self {
        match input {
            FinalityRuleInput::Depth { blocks } => Self::Depth { blocks },
            FinalityRuleInput::SafeTag {} => Self::SafeTag,
            FinalityRuleInput::FinalizedTag { fallback_depth } => Self::FinalizedTag { fallback_depth },
        }
    }
}

impl FinalityRule {
    /// True if a transaction included in `inclusion_block` is final.
    ///
    /// `head` is the latest block of the canonical chain that holds the transaction; `tagged` the number of the block
    /// under [`Self::tag`], `None` when the node does not serve it. A tag above `head` is a false claim or a race
    /// between two reads and counts as `head`; an inclusion above `head` is never final.
    #[must_use]
    pub fn is_final(&self, inclusion_block: u64, head: u64, tagged: Option<u64>) -> bool {
        let depth = |blocks: u64| head.checked_sub(inclusion_block).is_some_and(|on_top| on_top >= blocks);
        match (*self, tagged) {
            (Self::Depth { blocks }, _) => depth(blocks),
            (Self::SafeTag | Self::FinalizedTag { .. }, Some(tagged)) => inclusion_block <= tagged.min(head),
            (Self::SafeTag, None) | (Self::FinalizedTag { fallback_depth: 0 }, None) => false,
            (Self::FinalizedTag { fallback_depth }, None) => depth(fallback_depth),
        }
    }

    /// Newest block that is final at `head`; `None` if there is none. `tagged` as in [`Self::is_final`].
    #[must_use]
    pub fn final_block(&self, head: u64, tagged: Option<u64>) -> Option<u64> {
        match (*self, tagged) {
            (Self::Depth { blocks }, _) => head.checked_sub(blocks),
            (_, Some(tagged)) => Some(tagged.min(head)),
            (Self::FinalizedTag { fallback_depth }, None) if fallback_depth > 0 => head.checked_sub(fallback_depth),
            (_, None) => None,
        }
    }

    /// Block tag to read from the node (`"safe"`, `"finalized"`); `None` if depth alone decides.
    #[must_use]
    pub const fn tag(&self) -> Option<&'static str> {
        match self {
            Self::Depth { .. } => None,
            Self::SafeTag => Some("safe"),
            Self::FinalizedTag { .. } => Some("finalized"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_blocks_on_top() {
        let rule = FinalityRule::Depth { blocks: 2 };
        assert!(!rule.is_final(100, 101, None));
        assert!(rule.is_final(100, 102, None));
        assert!(!rule.is_final(103, 102, None), "inclusion above the head");
        assert!(rule.is_final(0, u64::MAX, Some(0)));
    }

    #[test]
    fn serde_form() {
        let rule: FinalityRule = serde_json::from_str(r#"{"kind":"safe_tag"}"#).expect("reads");
        assert_eq!(rule, FinalityRule::SafeTag);
        assert_eq!(serde_json::to_string(&rule).expect("serialises"), r#"{"kind":"safe_tag"}"#);
        for bad in [r#"{"kind":"safe_tag","blocks":2}"#, r#"{"kind":"depth"}"#, r#"{"kind":"soon"}"#] {
            assert!(serde_json::from_str::<FinalityRule>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_decide_and_fall_back_only_when_told() {
        assert!(FinalityRule::SafeTag.is_final(100, 110, Some(100)));
        assert!(!FinalityRule::SafeTag.is_final(100, 110, Some(99)));
        assert!(!FinalityRule::SafeTag.is_final(100, u64::MAX, None));
        let rule = FinalityRule::FinalizedTag { fallback_depth: 64 };
        assert!(!rule.is_final(100, 500, Some(99)), "a served tag wins over depth");
        assert!(rule.is_final(100, 164, None) && !rule.is_final(100, 163, None));
        assert!(!FinalityRule::FinalizedTag { fallback_depth: 0 }.is_final(1, u64::MAX, None));
        assert!(!rule.is_final(100, 99, Some(u64::MAX)), "a tag above the head proves nothing");
    }
}
