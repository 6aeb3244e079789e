//! Gas constants per fork: the intrinsic cost of a transaction.
//!
//! Forks change these numbers (Glamsterdam will again), so no other module names one.

use serde::{Deserialize, Serialize};

/// Execution-layer fork, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fork {
    /// Init-code limits (EIP-3860).
    Shanghai,
    /// Blobs (EIP-4844).
    Cancun,
    /// Calldata floor (EIP-7623) and authorizations (EIP-7702).
    Prague,
    /// Transaction gas cap (EIP-7825) and block size limit (EIP-7934).
    Osaka,
}

impl Fork {
    /// The fork's constants.
    #[must_use]
    pub const fn gas_schedule(self) -> &'static GasSchedule {
        match self {
            Self::Shanghai => &GasSchedule::SHANGHAI,
            Self::Cancun => &GasSchedule::CANCUN,
            Self::Prague => &GasSchedule::PRAGUE,
            Self::Osaka => &GasSchedule::OSAKA,
        }
    }
}

/// Parts of a transaction, other than calldata, that cost intrinsic gas. The default is a plain call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TxExtras {
    /// The transaction creates a contract; its data is init code.
    pub is_create: bool,
    /// Addresses in the access list (EIP-2930).
    pub access_list_addresses: u64,
    /// Storage keys in the access list.
    pub access_list_keys: u64,
    /// Entries in the authorization list (EIP-7702), valid or not.
    pub authorizations: u64,
}

/// Gas constants of one fork. All sums saturate: a transaction near `u64::MAX` gas is refused everywhere anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GasSchedule {
    /// Every transaction (EIP-2).
    pub tx_base_gas: u64,
    /// Added for contract creation (EIP-2).
    pub create_gas: u64,
    /// Per 32-byte word of init code (EIP-3860).
    pub init_code_word_gas: u64,
    /// Per zero byte of calldata (EIP-2028).
    pub zero_byte_gas: u64,
    /// Per non-zero byte of calldata (EIP-2028).
    pub nonzero_byte_gas: u64,
    /// Per access-list address (EIP-2930).
    pub access_list_address_gas: u64,
    /// Per access-list storage key (EIP-2930).
    pub access_list_key_gas: u64,
    /// Per authorization, charged before execution and partly refunded (EIP-7702); 0 before Prague.
    pub authorization_gas: u64,
    /// Floor tokens in a non-zero byte; a zero byte is one token (EIP-7623).
    pub tokens_per_nonzero_byte: u64,
    /// Floor gas per token (EIP-7623); `None` before Prague.
    pub floor_gas_per_token: Option<u64>,
    /// Highest gas limit of one transaction (EIP-7825); `None` before Osaka.
    pub tx_gas_cap: Option<u64>,
    /// Largest init code, bytes (EIP-3860).
    pub max_init_code_bytes: u64,
    /// Largest deployed code, bytes (EIP-170).
    pub max_code_bytes: u64,
    /// Largest RLP-encoded block, bytes (EIP-7934); `None` before Osaka.
    pub max_block_rlp_bytes: Option<u64>,
}

impl GasSchedule {
    /// Shanghai.
    pub const SHANGHAI: Self = Self {
        tx_base_gas: 21_000,
        create_gas: 32_000,
        init_code_word_gas: 2,
        zero_byte_gas: 4,
        nonzero_byte_gas: 16,
        access_list_address_gas: 2_400,
        access_list_key_gas: 1_900,
        authorization_gas: 0,
        tokens_per_nonzero_byte: 4,
        floor_gas_per_token: None,
        tx_gas_cap: None,
        max_init_code_bytes: 49_152,
        max_code_bytes: 24_576,
        max_block_rlp_bytes: None,
    };

    /// Cancun: as Shanghai here.
    pub const CANCUN: Self = Self::SHANGHAI;

    /// Prague.
    pub const PRAGUE: Self = Self { authorization_gas: 25_000, floor_gas_per_token: Some(10), ..Self::CANCUN };

    /// Osaka.
    pub const OSAKA: Self = Self { tx_gas_cap: Some(1 << 24), max_block_rlp_bytes: Some(8_388_608), ..Self::PRAGUE };

    /// Gas charged before the first instruction of a plain call with `data`.
    #[must_use]
    pub fn intrinsic_gas(&self, data: &[u8]) -> u64 {
        self.intrinsic_gas_with(data, &TxExtras::default())
    }

    /// Gas charged before the first instruction: base, calldata, access list, authorizations, creation.
    ///
    /// Source: EIP-2, 2028, 2930, 3860, 7702.
    #[must_use]
    pub fn intrinsic_gas_with(&self, data: &[u8], extras: &TxExtras) -> u64 {
        let (zero, nonzero) = count_bytes(data);
        let create = if extras.is_create {
            let words = (zero.saturating_add(nonzero)).div_ceil(32);
            self.create_gas.saturating_add(words.saturating_mul(self.init_code_word_gas))
        } else {
            0
        };
        [
            zero.saturating_mul(self.zero_byte_gas),
            nonzero.saturating_mul(self.nonzero_byte_gas),
            extras.access_list_addresses.saturating_mul(self.access_list_address_gas),
            extras.access_list_keys.saturating_mul(self.access_list_key_gas),
            extras.authorizations.saturating_mul(self.authorization_gas),
            create,
        ]
        .into_iter()
        .fold(self.tx_base_gas, u64::saturating_add)
    }

    /// Calldata floor, in gas: `base + 10 × (zero + 4 × nonzero)` (EIP-7623); the base alone before Prague.
    ///
    /// A transaction below it is refused, except by anvil, which accepts it and never mines it.
    #[must_use]
    pub fn floor_gas(&self, data: &[u8]) -> u64 {
        let per_token = self.floor_gas_per_token.unwrap_or(0);
        self.tx_base_gas.saturating_add(self.tokens(data).saturating_mul(per_token))
    }

    /// EIP-7623 tokens in `data`: one per zero byte, four per non-zero byte.
    #[must_use]
    pub fn tokens(&self, data: &[u8]) -> u64 {
        let (zero, nonzero) = count_bytes(data);
        zero.saturating_add(nonzero.saturating_mul(self.tokens_per_nonzero_byte))
    }

    /// Least gas limit with which a plain call with `data` is valid: `max(intrinsic, floor)`.
    ///
    /// It buys no execution: add the call's gas to [`Self::intrinsic_gas`], then take the larger of the sum and
    /// [`Self::floor_gas`].
    #[must_use]
    pub fn min_gas_limit(&self, data: &[u8]) -> u64 {
        self.min_gas_limit_with(data, &TxExtras::default())
    }

    /// [`Self::min_gas_limit`] of a transaction with more parts.
    #[must_use]
    pub fn min_gas_limit_with(&self, data: &[u8], extras: &TxExtras) -> u64 {
        self.intrinsic_gas_with(data, extras).max(self.floor_gas(data))
    }
}

/// Zero and non-zero bytes.
fn count_bytes(data: &[u8]) -> (u64, u64) {
    let zero = data.iter().filter(|byte| **byte == 0).count() as u64;
    (zero, data.len() as u64 - zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calldata_and_floor() {
        let data = [vec![0; 10], vec![1; 10]].concat();
        for schedule in [GasSchedule::SHANGHAI, GasSchedule::CANCUN] {
            assert_eq!(schedule.intrinsic_gas(&data), 21_000 + 40 + 160);
            assert_eq!(schedule.min_gas_limit(&data), 21_200);
            assert_eq!(schedule.tx_gas_cap, None);
        }
        for schedule in [GasSchedule::PRAGUE, GasSchedule::OSAKA] {
            assert_eq!(schedule.tokens(&data), 50);
            assert_eq!(schedule.floor_gas(&data), 21_500);
            assert_eq!(schedule.min_gas_limit(&data), 21_500);
        }
        assert_eq!(GasSchedule::OSAKA.min_gas_limit(&[]), 21_000);
        assert_eq!(GasSchedule::OSAKA.tx_gas_cap, Some(16_777_216));
    }

    #[test]
    fn extras_add_up() {
        let create = TxExtras { is_create: true, ..TxExtras::default() };
        // 33 bytes of init code are two words.
        assert_eq!(GasSchedule::CANCUN.intrinsic_gas_with(&[1; 33], &create), 21_000 + 32_000 + 33 * 16 + 2 * 2);
        let lists =
            TxExtras { access_list_addresses: 2, access_list_keys: 3, authorizations: 1, ..TxExtras::default() };
        assert_eq!(GasSchedule::PRAGUE.min_gas_limit_with(&[], &lists), 21_000 + 4_800 + 5_700 + 25_000);
        let absurd = TxExtras { authorizations: u64::MAX, ..TxExtras::default() };
        assert_eq!(GasSchedule::PRAGUE.intrinsic_gas_with(&[], &absurd), u64::MAX);
    }

    #[test]
    fn forks_are_ordered() {
        assert!(Fork::Shanghai < Fork::Cancun && Fork::Prague < Fork::Osaka);
        assert_eq!(Fork::Osaka.gas_schedule(), &GasSchedule::OSAKA);
    }
}
