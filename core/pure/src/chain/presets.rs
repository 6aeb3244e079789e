//! Known chains as data: `presets/*.toml`, embedded.

use super::spec::{ChainSpec, SpecError};

/// Every preset: name and TOML. Ordered by name.
const PRESETS: [(&str, &str); 8] = [
    ("anvil", include_str!("../../presets/anvil.toml")),
    ("arbitrum-one", include_str!("../../presets/arbitrum-one.toml")),
    ("base", include_str!("../../presets/base.toml")),
    ("ethereum", include_str!("../../presets/ethereum.toml")),
    ("linea", include_str!("../../presets/linea.toml")),
    ("op-mainnet", include_str!("../../presets/op-mainnet.toml")),
    ("polygon", include_str!("../../presets/polygon.toml")),
    ("scroll", include_str!("../../presets/scroll.toml")),
];

/// Other common names, for suggestions only: a chain must not be chosen by a guess.
const ALIASES: [(&str, &str); 7] = [
    ("mainnet", "ethereum"),
    ("eth", "ethereum"),
    ("optimism", "op-mainnet"),
    ("arbitrum", "arbitrum-one"),
    ("matic", "polygon"),
    ("localhost", "anvil"),
    ("dev", "anvil"),
];

/// Largest edit distance of a suggestion.
const MAX_DISTANCE: usize = 3;

/// Errors of loading a preset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PresetError {
    /// No such name. The caller's fault; `nearest` are likely intentions, best first, `known` all names.
    #[error("no chain preset {name:?}; {}", suggestion(nearest, known))]
    Unknown {
        /// The requested name.
        name: String,
        /// Likely names.
        nearest: Vec<&'static str>,
        /// All names.
        known: Vec<&'static str>,
    },
    /// An embedded file does not parse. Our fault.
    #[error("chain preset {name} does not parse: {message}")]
    Unreadable {
        /// Name of the preset.
        name: &'static str,
        /// The parser's message.
        message: String,
    },
    /// An embedded file contradicts itself. Our fault.
    #[error("chain preset {name} is invalid: {errors:?}")]
    Invalid {
        /// Name of the preset.
        name: &'static str,
        /// All errors of the spec.
        errors: Vec<SpecError>,
    },
}

fn suggestion(nearest: &[&str], known: &[&str]) -> String {
    if nearest.is_empty() {
        format!("known presets: {}", known.join(", "))
    } else {
        format!("did you mean {}?", nearest.join(" or "))
    }
}

impl ChainSpec {
    /// The embedded spec called `name`; see [`preset_names`].
    ///
    /// # Errors
    /// [`PresetError::Unknown`] with suggestions. The other variants cannot occur in a released build: a test loads every
    /// preset.
    pub fn preset(name: &str) -> Result<Self, PresetError> {
        let (name, text) = find(name)?;
        let unreadable = |e: toml::de::Error| PresetError::Unreadable { name, message: e.to_string() };
        let spec: Self = toml::from_str(text).map_err(unreadable)?;
        spec.validate().map_err(|errors| PresetError::Invalid { name, errors })?;
        Ok(spec)
    }
}

/// Names of all presets, ascending.
#[must_use]
pub fn preset_names() -> Vec<&'static str> {
    PRESETS.iter().map(|(name, _)| *name).collect()
}

/// The preset's TOML, to lay the operator's own keys over it.
///
/// # Errors
/// [`PresetError::Unknown`] with suggestions.
pub fn preset_toml(name: &str) -> Result<&'static str, PresetError> {
    find(name).map(|(_, text)| text)
}

/// The preset of the chain with this EIP-155 id, if there is one.
#[must_use]
pub fn preset_for_chain_id(chain_id: u64) -> Option<ChainSpec> {
    PRESETS.iter().filter_map(|(name, _)| ChainSpec::preset(name).ok()).find(|spec| spec.chain_id == chain_id)
}

fn find(name: &str) -> Result<(&'static str, &'static str), PresetError> {
    let found = PRESETS.iter().find(|(known, _)| *known == name).copied();
    found.ok_or_else(|| PresetError::Unknown { name: name.to_owned(), nearest: nearest(name), known: preset_names() })
}

fn nearest(name: &str) -> Vec<&'static str> {
    let name = name.trim().to_ascii_lowercase().replace([' ', '_'], "-");
    // A long name is no misspelling of a short one; don't compute a large table for it.
    if name.is_empty() || name.len() > 64 {
        return Vec::new();
    }
    let names = PRESETS.iter().map(|(known, _)| (*known, *known)).chain(ALIASES);
    let mut ranked: Vec<_> = names.map(|(spelling, preset)| (distance(&name, spelling), preset)).collect();
    ranked.sort_unstable();
    let mut nearest: Vec<&'static str> = Vec::new();
    for (distance, preset) in ranked {
        if distance <= MAX_DISTANCE.min(name.len() / 2) && !nearest.contains(&preset) && nearest.len() < 2 {
            nearest.push(preset);
        }
    }
    nearest
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_loads_and_has_its_own_id() {
        let mut ids = std::collections::BTreeSet::new();
        for name in preset_names() {
            let spec = ChainSpec::preset(name).expect(name);
            assert_eq!(spec.name, name);
            assert!(ids.insert(spec.chain_id), "{name}: chain id used twice");
            assert_eq!(preset_for_chain_id(spec.chain_id), Some(spec));
        }
        assert!(PRESETS.is_sorted());
        assert_eq!(preset_for_chain_id(0), None);
    }

    #[test]
    fn unknown_names_get_suggestions() {
        for (asked, expect) in [
            ("etherium", "ethereum"),
            ("mainnet", "ethereum"),
            ("Optimism", "op-mainnet"),
            ("arbitrum", "arbitrum-one"),
            ("arbitrum_one", "arbitrum-one"),
            ("polygn", "polygon"),
        ] {
            let PresetError::Unknown { nearest, .. } = ChainSpec::preset(asked).expect_err(asked) else {
                panic!("{asked}: not Unknown")
            };
            assert_eq!(nearest.first(), Some(&expect), "{asked}");
        }
        let text = ChainSpec::preset("zzzzzzzz").expect_err("unknown").to_string();
        assert!(text.contains("known presets: anvil, arbitrum-one"), "{text}");
        assert!(ChainSpec::preset(&"x".repeat(100_000)).is_err());
    }

    #[test]
    fn presets_state_what_the_reference_states() {
        let anvil = ChainSpec::preset("anvil").expect("anvil");
        assert_eq!((anvil.chain_id, anvil.block_time_ms), (31_337, 1_000));
        assert_eq!(anvil.finality, super::super::FinalityRule::Depth { blocks: 2 });
        assert_eq!(anvil.replacement, super::super::ReplacementRule::SAFE_EVERYWHERE);
        let arbitrum = ChainSpec::preset("arbitrum-one").expect("arbitrum-one");
        assert!(!arbitrum.has_mempool && !arbitrum.replacement.is_supported());
        assert_eq!((arbitrum.max_tx_bytes, arbitrum.tx_gas_cap()), (95_000, Some(32_000_000)));
        let ethereum = ChainSpec::preset("ethereum").expect("ethereum");
        assert_eq!(ethereum.tx_gas_cap(), Some(1 << 24));
        assert_eq!(ethereum.max_tx_bytes, 131_072);
    }
}
