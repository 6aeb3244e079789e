//! Withdrawal of what the session key owns.

use alloy_primitives::U256;

use super::{LocalConfig, LocalRelay};
use crate::request::vehicle::VehicleParams;

/// Gas given to the recipient.
const RECIPIENT_GAS: u64 = 9_000;

/// Multiple of the base fee that the transaction may be charged. Its first offer survives six full blocks, which can
/// double the base fee; the rest is for replacements.
const BASE_FEES: u128 = 3;

/// Tip that is kept where the node suggests none, wei per gas.
const DEFAULT_TIP: u128 = 1_000_000_000;

/// Wei kept for the L1 data fee on chains that charge one.
const L1_RESERVE_WEI: U256 = U256::from_limbs([20_000_000_000_000, 0, 0, 0]);

/// State of the account and the chain that a withdrawal depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WithdrawAsk {
    /// Balance of the session key, wei.
    pub balance_wei: U256,
    /// Wei to leave behind; `None` for the L1 data fee only, where there is one.
    pub leave_wei: Option<U256>,
    /// Base fee of the newest block, wei per gas; 0 on chains without one.
    pub base_fee: u128,
    /// The node's suggestion, wei per gas; `None` without one.
    pub tip: Option<u128>,
    /// Number of requests that have not ended.
    pub open: usize,
}

/// A call that withdraws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawal {
    /// Wei to send.
    pub value_wei: U256,
    /// Gas given to the recipient.
    pub gas: u64,
    /// Maximum cost, wei.
    pub max_cost_wei: U256,
}

/// Refusal of a withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WithdrawError {
    /// Requests have not ended: a caller error.
    #[error("{open} requests have not ended; they may need what would be withdrawn")]
    Busy {
        /// Number of these requests.
        open: usize,
    },
    /// The balance does not pay for the transaction.
    #[error("{balance_wei} wei do not pay for the transaction")]
    Nothing {
        /// The balance, wei.
        balance_wei: U256,
    },
}

impl WithdrawError {
    /// The stable code that callers switch on.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::Nothing { .. } => "nothing_to_withdraw",
        }
    }
}

fn withdrawal(config: &LocalConfig, params: &VehicleParams, ask: &WithdrawAsk) -> Result<Withdrawal, WithdrawError> {
    let WithdrawAsk { balance_wei, leave_wei, base_fee, tip, open } = *ask;
    if open > 0 {
        return Err(WithdrawError::Busy { open });
    }
    let tip = tip.unwrap_or(DEFAULT_TIP).max(config.min_priority_fee_wei_per_gas);
    let max_fee = base_fee.saturating_mul(BASE_FEES).saturating_add(tip);
    // As the call is charged on admission, so that its ceiling is `max_fee`.
    let gas = params.reserved_gas(RECIPIENT_GAS + RECIPIENT_GAS / 63 + 1);
    let reserve = if config.l1_fee_oracle.is_some() { L1_RESERVE_WEI } else { U256::ZERO };
    let kept = leave_wei.unwrap_or(reserve).saturating_add(U256::from(max_fee).saturating_mul(U256::from(gas)));
    let value_wei = balance_wei.saturating_sub(kept);
    if value_wei.is_zero() {
        return Err(WithdrawError::Nothing { balance_wei });
    }
    Ok(Withdrawal { value_wei, gas: RECIPIENT_GAS, max_cost_wei: balance_wei })
}

impl LocalRelay {
    /// The call that sends what the session key owns, but for what the transaction may cost.
    ///
    /// # Errors
    /// [`WithdrawError`].
    pub fn withdrawal(&self, ask: &WithdrawAsk) -> Result<Withdrawal, WithdrawError> {
        withdrawal(&self.config, &self.sender.facts.params, ask)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use alloy_primitives::{Address, Bytes};

    use super::{
        super::{LocalAsk, SessionKey},
        *,
    };
    use crate::{request::Call, time::Timestamp};

    const ASK: WithdrawAsk = WithdrawAsk {
        balance_wei: U256::from_limbs([1_000_000_000_000_000_000, 0, 0, 0]),
        leave_wei: None,
        base_fee: 7_000_000_000,
        tip: Some(2_000_000_000),
        open: 0,
    };

    #[track_caller]
    fn check(ask: WithdrawAsk, has_l1: bool, kept: Result<u64, WithdrawError>) {
        let mut config = LocalConfig::new(1, Duration::from_secs(12));
        config.l1_fee_oracle = has_l1.then_some(Address::ZERO);
        let mut relay = LocalRelay::new(config, SessionKey::from_bytes(&[7; 32]).unwrap()).unwrap();
        let found = relay.withdrawal(&ask).map(|found| {
            let (to, gas) = (Address::repeat_byte(7), U256::from(found.gas));
            let (value, data, salt) = (found.value_wei, Bytes::new(), String::new());
            let call = Call { to, value, gas, data, any_sender: false, salt };
            let admitted = relay.admit(Timestamp(1), LocalAsk::Call(call), None, Some(found.max_cost_wei), 0).unwrap();
            relay.take(Timestamp(1), &admitted.key, &admitted.record).unwrap();
            let ceiling = relay.entries.get(&admitted.id).unwrap().ceiling_wei_per_gas;
            assert!(ceiling >= 3 * ask.base_fee + ask.tip.unwrap_or(DEFAULT_TIP));
            assert_eq!((found.gas, found.max_cost_wei), (RECIPIENT_GAS, ask.balance_wei));
            u64::try_from(ask.balance_wei - found.value_wei).unwrap()
        });
        assert_eq!(found, kept);
    }

    #[test]
    fn all_but_what_the_transaction_may_cost() {
        // A transaction with its margin, 9 000 for the recipient with the part that EIP-150 keeps back, and a cancellation.
        let gas = 51_000 + 9_000 + 143 + 21_000;
        let cost = gas * 23_000_000_000;
        check(ASK, false, Ok(cost));
        check(ASK, true, Ok(cost + 20_000_000_000_000));
        check(WithdrawAsk { leave_wei: Some(U256::from(5)), ..ASK }, true, Ok(cost + 5));
        check(WithdrawAsk { tip: None, base_fee: 0, ..ASK }, false, Ok(gas * 1_000_000_000));
        check(WithdrawAsk { tip: Some(0), base_fee: 0, ..ASK }, false, Ok(gas));
        check(WithdrawAsk { open: 2, ..ASK }, false, Err(WithdrawError::Busy { open: 2 }));
        for (balance, is_enough) in [(0, false), (cost, false), (cost + 1, true)] {
            let balance_wei = U256::from(balance);
            let expected = if is_enough { Ok(cost) } else { Err(WithdrawError::Nothing { balance_wei }) };
            check(WithdrawAsk { balance_wei, ..ASK }, false, expected);
        }
    }
}
