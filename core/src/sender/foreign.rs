//! A foreign transaction that used a lane's nonce, and what it took (invariant I12, account `foreign`).

use alloy_primitives::{B256, U256};

use crate::{
    record::{AccountEntry, Bill},
    request::settlement::CostAccount,
};

/// A foreign transaction that used a lane's nonce, in a final block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForeignTransaction {
    pub(crate) hash: B256,
    pub(crate) block: u64,
    /// Its cost; `None` without a majority.
    pub(crate) taken: Option<Taken>,
}

/// Cost of a transaction to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) gas_used: u64,
    /// Gas and data fee, wei.
    pub(crate) cost_wei: U256,
    /// Value moved to other accounts, wei.
    pub(crate) value_wei: U256,
}

impl Taken {
    /// The bill, borne by the operator alone.
    pub(crate) fn bill(&self) -> Bill {
        let wei = self.cost_wei.saturating_add(self.value_wei);
        let entry = AccountEntry { account: CostAccount::Foreign, tenant: None, wei };
        Bill { value_wei: self.value_wei, accounts: vec![entry] }
    }
}
