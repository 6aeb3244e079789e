//! A foreign transaction that used a lane's nonce, and what it took (invariant I12, account `foreign`).

use alloy_primitives::{B256, U256};

use crate::{
    record::{AccountEntry, Bill},
    request::settlement::CostAccount,
};

/// A foreign transaction that used a lane's nonce, in a final block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignTransaction {
    /// Transaction hash.
    pub hash: B256,
    /// Block number.
    pub block: u64,
    /// Its cost; `None` without a majority.
    pub taken: Option<Taken>,
}

/// Cost of a transaction to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Gas used.
    pub gas_used: u64,
    /// Gas and data fee, wei.
    pub cost_wei: U256,
    /// Value moved to other accounts, wei.
    pub value_wei: U256,
}

impl Taken {
    /// The bill, borne by the operator alone.
    pub fn bill(&self) -> Bill {
        let wei = self.cost_wei.saturating_add(self.value_wei);
        let entry = AccountEntry { account: CostAccount::Foreign, tenant: None, wei };
        Bill { value_wei: self.value_wei, accounts: vec![entry] }
    }
}
