//! Attribution of a final transaction's cost, exact to the wei (invariants I12, I13).
//!
//! *Example.* Two requests of one tenant used 40 000 and 60 000 gas in separate simulations, beside 21 000 of the empty
//! transaction. A receipt with 121 000 gas charges them 50 500 and 70 500. One with 101 000 gas (shared storage was
//! warm) charges 42 500 and 58 500: both shrink in proportion. One with 500 000 gas charges them 50 500 and 70 500 as
//! well: the unexpected rest is charged to the culprit, or else to their tenant.

use alloy_primitives::U256;

use super::outcome::{MemberOutcome, TxReceipt, shares};

/// An account for the cost of a final transaction beyond the requests' own shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CostAccount {
    /// A tenant's: its transaction used more gas than its members did in simulation, and no culprit was found.
    Overrun,
    /// A tenant's: an empty transaction replaced one of its own.
    Cancel,
    /// The operator's: an unused nonce was filled.
    GapFill,
    /// The operator's: as [`Self::Overrun`], for a transaction of several tenants.
    Unfound,
    /// The operator's: a transaction was skipped, or burnt, because another one of ours had executed its requests.
    Replan,
    /// The operator's: a foreign user of the lane's key sent a transaction that took a nonce of ours.
    Foreign,
}

impl CostAccount {
    /// Every account.
    pub const ALL: [Self; 6] = [Self::Overrun, Self::Cancel, Self::GapFill, Self::Unfound, Self::Replan, Self::Foreign];

    /// Name in the ledger, the API and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overrun => "overrun",
            Self::Cancel => "cancel",
            Self::GapFill => "gap_fill",
            Self::Unfound => "unfound",
            Self::Replan => "replan",
            Self::Foreign => "foreign",
        }
    }

    /// The account with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|account| account.as_str() == name)
    }
}

/// Cost-relevant data of a member of a final transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payer {
    /// Its own gas: the use in a separate simulation, without the empty transaction's; if not simulated, the declared
    /// gas.
    pub own_gas: u64,
    /// Gas cost of being skipped: its calldata and the forwarder's checks. Upper bound of a skipped member's own gas.
    pub skip_gas: u64,
    /// Weight of its bytes in the data fee.
    pub data_bytes: u64,
    /// Value transferred if it executes, wei.
    pub value_wei: U256,
    /// Remaining reservation, wei, value included.
    pub left_wei: U256,
    /// Outcome of the transaction for it.
    pub outcome: MemberOutcome,
}

/// Division of a final transaction's cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribution {
    /// Each member's part, wei, value included.
    pub members: Vec<U256>,
    /// Part borne by no member, wei.
    pub rest_wei: U256,
}

impl Attribution {
    /// Sum of all parts, wei.
    pub fn total(&self) -> U256 {
        self.members.iter().fold(self.rest_wei, |sum, part| sum.saturating_add(*part))
    }
}

/// Value transferred by the executed members, wei.
pub fn value_moved(payers: &[Payer]) -> U256 {
    let executed = payers.iter().filter(|payer| payer.outcome == MemberOutcome::Executed);
    executed.fold(U256::ZERO, |sum, payer| sum.saturating_add(payer.value_wei))
}

/// Own gas charged to a member; for a skipped one at most the gas of a skip.
fn own_gas(receipt: &TxReceipt, payer: &Payer) -> u64 {
    match payer.outcome {
        MemberOutcome::Untouched if receipt.is_success => payer.own_gas.min(payer.skip_gas),
        _ => payer.own_gas,
    }
}

/// A member that used gas which no simulation had shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Culprit {
    /// Index of the member.
    pub place: usize,
    /// Excess gas known to be its doing: it bears no more of the unexpected gas.
    pub excess_gas: u64,
}

/// A surplus of more than one part in this many over the members' own gas has a culprit. A smaller one is due to state
/// changes since the simulation.
const SURPLUS_PART: u64 = 8;

/// True if the gas beyond the empty transaction's and the members' own is so much that one of them must have caused it.
pub fn has_culprit(receipt: &TxReceipt, base_gas: u64, payers: &[Payer]) -> bool {
    let own = payers.iter().fold(base_gas, |sum, payer| sum.saturating_add(own_gas(receipt, payer)));
    receipt.gas_used.saturating_sub(own) > own / SURPLUS_PART
}

/// The only member, or the only skipped one: unexpected gas is its doing, unless another culprit is found.
pub fn lone_culprit(outcomes: &[MemberOutcome], is_success: bool) -> Option<Culprit> {
    let mut skipped = outcomes.iter().enumerate().filter(|(_, outcome)| **outcome == MemberOutcome::Untouched);
    let place = match (outcomes.len(), skipped.next(), skipped.next()) {
        (1, ..) => 0,
        (_, Some((place, _)), None) if is_success => place,
        _ => return None,
    };
    Some(Culprit { place, excess_gas: u64::MAX })
}

/// The member whose excess over its own gas is larger than all others' together; `None` if there is none. `used`:
/// actual gas of each member, without the empty transaction's.
pub fn culprit(receipt: &TxReceipt, payers: &[Payer], used: &[u64]) -> Option<Culprit> {
    let excess = |(payer, used): (&Payer, &u64)| used.saturating_sub(own_gas(receipt, payer));
    let excess: Vec<u64> = payers.iter().zip(used).map(excess).collect();
    let sum = excess.iter().fold(0_u64, |sum, gas| sum.saturating_add(*gas));
    let place = excess.iter().position(|gas| *gas > sum - gas)?;
    Some(Culprit { place, excess_gas: excess[place] })
}

/// Divides the total charge of a transaction: [`TxReceipt::cost_wei`] and the value transferred.
///
/// Each member pays its own gas and an equal part of the empty transaction, at the price paid; if the receipt has less
/// gas than the sum, all shrink in proportion. The data fee is divided by bytes. No member pays more than its remaining
/// reservation. The rest is borne first by `culprit`, up to its excess and its remaining reservation; then by the
/// tenant, up to `free_wei`; then by the other members in proportion to their remaining reservations; and the tenant
/// bears the part that even they can't.
///
/// `base_gas`: gas of an empty transaction (21 000 on most chains).
pub fn attribute(
    receipt: &TxReceipt,
    base_gas: u64,
    payers: &[Payer],
    culprit: Option<Culprit>,
    free_wei: U256,
) -> Attribution {
    let cost = receipt.cost_wei();
    if payers.is_empty() {
        return Attribution { members: Vec::new(), rest_wei: cost };
    }
    let price = U256::from(receipt.effective_gas_price);
    let wei = |gas: u64| U256::from(gas).saturating_mul(price);
    let base = base_gas.min(receipt.gas_used);
    let own: Vec<u64> = payers.iter().map(|payer| own_gas(receipt, payer)).collect();
    let sum = own.iter().fold(0u64, |sum, gas| sum.saturating_add(*gas));
    let beyond_base = receipt.gas_used - base;
    let equal = shares(wei(base), &vec![1; payers.len()]);
    let gas_parts =
        if beyond_base <= sum { shares(wei(beyond_base), &own) } else { own.iter().map(|gas| wei(*gas)).collect() };
    let bytes: Vec<u64> = payers.iter().map(|payer| payer.data_bytes).collect();
    let data_parts = shares(receipt.extra_fee_wei, &bytes);

    let mut members = Vec::with_capacity(payers.len());
    let mut left = Vec::with_capacity(payers.len());
    let mut rest = cost;
    for (index, payer) in payers.iter().enumerate() {
        let value = if payer.outcome == MemberOutcome::Executed { payer.value_wei } else { U256::ZERO };
        let payable = payer.left_wei.saturating_sub(value);
        let part = equal[index].saturating_add(gas_parts[index]).saturating_add(data_parts[index]);
        // Rounding may make the parts a few wei more than the whole.
        let part = part.min(payable).min(rest);
        rest -= part;
        left.push(payable - part);
        members.push(part.saturating_add(value));
    }
    let culprit = culprit.map(|culprit| (culprit.place, wei(culprit.excess_gas)));
    let rest_wei = spread(rest, &mut left, &mut members, culprit, free_wei);
    Attribution { members, rest_wei }
}

/// Divides the cost of an empty transaction that replaced the members': the tenant's account bears it, up to
/// `free_wei`, then the members in proportion to their remaining reservations.
pub fn attribute_cancel(receipt: &TxReceipt, payers: &[Payer], free_wei: U256) -> Attribution {
    let mut left: Vec<U256> = payers.iter().map(|payer| payer.left_wei).collect();
    let mut members = vec![U256::ZERO; payers.len()];
    let rest_wei = spread(receipt.cost_wei(), &mut left, &mut members, None, free_wei);
    Attribution { members, rest_wei }
}

/// Adds `rest` to the members' parts as far as they must bear it; returns the remainder, which goes to an account.
/// `culprit`: its index, and the most it bears, wei.
fn spread(
    mut rest: U256,
    left: &mut [U256],
    members: &mut [U256],
    culprit: Option<(usize, U256)>,
    free_wei: U256,
) -> U256 {
    let mut take = |index: usize, rest: &mut U256, most: U256, left: &mut [U256]| {
        let more = left[index].min(*rest).min(most);
        left[index] -= more;
        *rest -= more;
        members[index] = members[index].saturating_add(more);
    };
    if let Some((index, most)) = culprit.filter(|(index, _)| *index < left.len()) {
        take(index, &mut rest, most, left);
    }
    let free = rest.min(free_wei);
    let mut beyond = rest - free;
    let (asked, weights) = (beyond, left.to_vec());
    let sum = weights.iter().fold(U256::ZERO, |sum, weight| sum.saturating_add(*weight));
    if !sum.is_zero() {
        for (index, weight) in weights.iter().enumerate() {
            // Rounded up, so that no wei is left over.
            take(index, &mut beyond, asked.saturating_mul(*weight).div_ceil(sum), left);
        }
    }
    free + beyond
}

/// Price charged to a tenant for a request that cost `cost_wei`, wei: `percent` of it, rounded up, and at most
/// `reserved_wei` (invariants I12, I13). 100 % is the cost itself.
pub fn price_of(cost_wei: U256, percent: u32, reserved_wei: U256) -> U256 {
    match percent {
        100 => cost_wei,
        percent => part_of(cost_wei, percent).min(reserved_wei),
    }
}

/// Amount that a budget reserves for a request that costs at most `worst_wei`, wei: the larger of its cost and its
/// price.
pub fn with_price(worst_wei: U256, percent: u32) -> U256 {
    if percent > 100 { part_of(worst_wei, percent) } else { worst_wei }
}

/// Highest cost of a request covered by a reservation of `reserved_wei`, wei: a mark-up pays for no gas. Inverse of
/// [`with_price`].
pub fn cost_within(reserved_wei: U256, percent: u32) -> U256 {
    match percent {
        ..=100 => reserved_wei,
        percent => reserved_wei.saturating_mul(U256::from(100)) / U256::from(percent),
    }
}

/// `percent` of `wei`, rounded up.
fn part_of(wei: U256, percent: u32) -> U256 {
    wei.saturating_mul(U256::from(percent)).div_ceil(U256::from(100))
}

/// Highest gas price still covered by a request's reservation, wei per gas, after `spent_wei` of it went into
/// transactions that did not complete it. `gas` is the reserved gas: its own transaction, and a cancel of it.
pub fn ceiling_left(ceiling_wei_per_gas: u128, gas: u64, spent_wei: U256) -> u128 {
    let reserved = U256::from(gas).saturating_mul(U256::from(ceiling_wei_per_gas));
    let left = reserved.saturating_sub(spent_wei) / U256::from(gas.max(1));
    u128::try_from(left).unwrap_or(u128::MAX).min(ceiling_wei_per_gas)
}

/// True if a request's remaining reservation covers its L1 data fee, currently `fee_wei`, even if the L1 price rises
/// before the data is posted.
///
/// The reservation holds the fee at acceptance with `margin_percent` on top. Of that, thirteen sixteenths must be
/// available when it is first sent: with the usual 300 %, 3.25 times the current fee, which is more than the next ten
/// L1 blocks can demand (each raises the base fee by at most an eighth, EIP-1559).
///
/// `gas_wei`: highest cost of its gas under its ceiling, a cancel included. `value_wei`: value transferred.
pub fn covers_data(left_wei: U256, gas_wei: U256, value_wei: U256, fee_wei: U256, margin_percent: u32) -> bool {
    data_needed(fee_wei, margin_percent) <= left_wei.saturating_sub(gas_wei).saturating_sub(value_wei)
}

/// Amount needed for L1 data when a request is first sent, wei, as in [`covers_data`], rounded up.
pub fn data_needed(fee_wei: U256, margin_percent: u32) -> U256 {
    let parts = (U256::from(margin_percent) + U256::from(100)).saturating_mul(U256::from(13));
    fee_wei.saturating_mul(parts).div_ceil(U256::from(1_600))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use proptest::prelude::*;

    use super::*;

    fn receipt(gas_used: u64, price: u128, extra: u64, is_success: bool) -> TxReceipt {
        TxReceipt {
            hash: B256::ZERO,
            block_number: 1,
            block_hash: B256::ZERO,
            is_success,
            gas_used,
            effective_gas_price: price,
            extra_fee_wei: U256::from(extra),
            logs: Vec::new(),
        }
    }

    fn payer(own_gas: u64, left: u64, outcome: MemberOutcome) -> Payer {
        Payer { own_gas, skip_gas: 20_000, data_bytes: 100, value_wei: U256::ZERO, left_wei: U256::from(left), outcome }
    }

    const RICH: u64 = u64::MAX;

    #[track_caller]
    fn check(receipt: &TxReceipt, payers: &[Payer], culprit: Option<usize>, free: u64, members: &[u64], rest: u64) {
        let culprit = culprit.map(|place| Culprit { place, excess_gas: u64::MAX });
        let found = attribute(receipt, 21_000, payers, culprit, U256::from(free));
        let members: Vec<U256> = members.iter().map(|wei| U256::from(*wei)).collect();
        assert_eq!(found, Attribution { members, rest_wei: U256::from(rest) });
        assert_eq!(found.total(), receipt.cost_wei() + value_moved(payers));
    }

    #[test]
    fn each_pays_what_it_used_alone() {
        use MemberOutcome::{Executed, Failed};
        let both = [payer(40_000, RICH, Executed), payer(60_000, RICH, Failed)];
        check(&receipt(121_000, 1, 0, true), &both, None, RICH, &[50_500, 70_500], 0);
        check(&receipt(71_000, 1, 0, true), &both, None, RICH, &[30_500, 40_500], 0);
        // Gas that no simulation showed is in no member's own gas.
        check(&receipt(500_000, 1, 0, true), &both, None, RICH, &[50_500, 70_500], 379_000);
        check(&receipt(500_000, 1, 0, true), &both, Some(1), RICH, &[50_500, 449_500], 0);
    }

    #[test]
    fn the_culprit_took_more_than_all_others_of_what_nobody_expected() {
        use MemberOutcome::{Executed, Untouched};
        let all = [payer(40_000, RICH, Executed), payer(60_000, RICH, Untouched), payer(50_000, RICH, Executed)];
        let burnt = receipt(921_000, 1, 0, true);
        // The skipped member owes a skip, 20 000.
        let took = |place, excess_gas| Some(Culprit { place, excess_gas });
        assert_eq!(culprit(&burnt, &all, &[40_000, 810_000, 50_000]), took(1, 790_000));
        assert_eq!(culprit(&burnt, &all, &[440_000, 410_000, 50_000]), took(0, 400_000));
        // It bears its known excess, and not the unexplained rest.
        let found = attribute(&burnt, 21_000, &all, took(1, 300_000), U256::from(RICH));
        let parts = [47_000, 327_000, 57_000].map(U256::from);
        assert_eq!(found, Attribution { members: parts.to_vec(), rest_wei: U256::from(490_000) });
        assert_eq!(culprit(&burnt, &all, &[435_000, 415_000, 50_000]), None, "half each");
        assert_eq!(culprit(&burnt, &all, &[0, 0, 0]), None);
        assert_eq!(culprit(&burnt, &all, &[]), None);
        assert!(has_culprit(&burnt, 21_000, &all));
        // An eighth of 131 000.
        assert!(!has_culprit(&receipt(147_375, 1, 0, true), 21_000, &all));
        assert!(has_culprit(&receipt(147_376, 1, 0, true), 21_000, &all));
    }

    /// Ninety-nine skipped members do not add to the charge of the executed one.
    #[test]
    fn a_skip_is_paid_by_who_was_skipped() {
        let mut all = vec![payer(60_000, 200_000, MemberOutcome::Executed)];
        all.extend(std::iter::repeat_n(payer(60_000, 200_000, MemberOutcome::Untouched), 99));
        let found = attribute(&receipt(2_061_000, 1, 0, true), 21_000, &all, None, U256::from(RICH));
        assert!(found.members[0] <= U256::from(61_000), "{}", found.members[0]);
        assert_eq!(found.total(), U256::from(2_061_000));
        assert!(found.members.iter().all(|part| *part <= U256::from(200_000)));
    }

    /// A transaction that fails as a whole: the free budget pays first, then the members with a remaining reservation,
    /// and never more than that.
    #[test]
    fn a_burnt_transaction_stays_within_reservations() {
        let both = [payer(40_000, 300_000, MemberOutcome::Untouched), payer(60_000, 100_000, MemberOutcome::Untouched)];
        let burnt = receipt(400_000, 1, 0, false);
        check(&burnt, &both, None, RICH, &[50_500, 70_500], 279_000);
        check(&burnt, &both, None, 0, &[300_000, 100_000], 0);
        check(&burnt, &both, Some(0), 0, &[300_000, 100_000], 0);
        check(&burnt, &both[..1], Some(0), 10, &[300_000], 100_000);
    }

    #[test]
    fn the_data_fee_goes_by_bytes() {
        let mut both = [payer(2_000_000, RICH, MemberOutcome::Executed), payer(100_000, RICH, MemberOutcome::Executed)];
        both[1].data_bytes = 9_900;
        check(&receipt(21_000, 0, 1_000_000, true), &both, None, RICH, &[10_000, 990_000], 0);
    }

    #[test]
    fn data_goes_only_while_a_rise_would_be_paid_too() {
        let wei = |wei: u64| U256::from(wei);
        // Four times 100 were reserved, beside 50 000 for gas and 7 of value.
        let covers = |fee: u64| covers_data(wei(50_407), wei(50_000), wei(7), wei(fee), 300);
        assert!(covers(100) && covers(123));
        assert!(!covers(124), "403 of 400");
        // For every margin, the fee at acceptance is covered.
        for margin in [0, 1, 100, 225, 300, 10_000] {
            let reserved = wei(1_000) * wei(100 + u64::from(margin)) / wei(100);
            assert!(covers_data(reserved, U256::ZERO, U256::ZERO, wei(1_000), margin));
            assert!(!covers_data(reserved, U256::ZERO, U256::ZERO, wei(1_240), margin));
        }
        assert!(covers_data(U256::ZERO, U256::ZERO, U256::ZERO, U256::ZERO, 300));
    }

    #[test]
    fn value_counts_only_where_it_moved() {
        let mut both = [payer(0, RICH, MemberOutcome::Executed), payer(0, RICH, MemberOutcome::Failed)];
        both[0].value_wei = U256::from(7);
        both[1].value_wei = U256::from(9);
        check(&receipt(21_000, 2, 0, true), &both, None, RICH, &[21_007, 21_000], 0);
    }

    #[test]
    fn a_price_is_a_part_of_the_cost() {
        let price = |cost: u64, percent, reserved: u64| price_of(U256::from(cost), percent, U256::from(reserved));
        assert_eq!(price(7, 100, 0), U256::from(7), "the cost itself, whatever was reserved");
        assert_eq!((price(7, 150, 100), price(7, 150, 10)), (U256::from(11), U256::from(10)));
        assert_eq!((price(7, 50, 100), price(7, 0, 100), price(0, 150, 100)), (U256::from(4), U256::ZERO, U256::ZERO));
        assert_eq!((with_price(U256::from(7), 50), with_price(U256::from(7), 150)), (U256::from(7), U256::from(11)));
        assert_eq!(cost_within(U256::from(10), 150), U256::from(6), "maxCost 10: seven would be charged eleven");
        assert_eq!(price_of(U256::MAX, 150, U256::MAX), U256::MAX.div_ceil(U256::from(100)), "no overflow");
    }

    #[test]
    fn a_ceiling_falls_with_what_was_burnt() {
        assert_eq!(ceiling_left(10, 100, U256::ZERO), 10);
        assert_eq!(ceiling_left(10, 100, U256::from(501)), 4);
        assert_eq!(ceiling_left(10, 100, U256::from(5_000)), 0);
        assert_eq!(ceiling_left(10, 0, U256::ZERO), 0);
    }

    proptest! {
        /// A reservation for a worst case covers it, and the price of every lower cost.
        #[test]
        fn a_reservation_holds_cost_and_price(worst in 0u64..=u64::MAX, percent in 0u32..=1_000, part in 0u32..=1_000) {
            let worst = U256::from(worst);
            let reserved = with_price(worst, percent);
            prop_assert_eq!(cost_within(reserved, percent), worst);
            prop_assert!(with_price(cost_within(worst, percent), percent) <= worst);
            let cost = worst * U256::from(part) / U256::from(1_000);
            let price = price_of(cost, percent, reserved);
            prop_assert!(price.max(cost) <= reserved);
            prop_assert_eq!(price, (cost * U256::from(percent)).div_ceil(U256::from(100)), "nothing is cut off");
        }

        #[test]
        fn the_parts_are_the_whole(
            gas_used in 0u64..30_000_000, price in 0u128..1_000, extra in 0u64..1_000_000, is_success in any::<bool>(),
            members in proptest::collection::vec((0u64..2_000_000, 0u64..2_000_000_000, 0u64..1_000, 0u8..3), 0..12),
            culprit in proptest::option::of(0usize..12), excess: u64, free in 0u64..3_000_000_000,
        ) {
            let receipt = receipt(gas_used, price, extra, is_success);
            let payers: Vec<Payer> = members.into_iter().map(|(own, left, value, outcome)| {
                let outcome = match outcome {
                    0 if is_success => MemberOutcome::Executed,
                    1 if is_success => MemberOutcome::Failed,
                    _ => MemberOutcome::Untouched,
                };
                // Value is reserved with the rest.
                Payer { value_wei: U256::from(value), ..payer(own, left + value, outcome) }
            }).collect();
            let culprit = culprit.map(|place| Culprit { place, excess_gas: excess });
            let found = attribute(&receipt, 21_000, &payers, culprit, U256::from(free));
            prop_assert_eq!(found.total(), receipt.cost_wei() + value_moved(&payers));
            let mut left = U256::ZERO;
            for (payer, part) in payers.iter().zip(&found.members) {
                prop_assert!(*part <= payer.left_wei);
                left += payer.left_wei - *part;
            }
            // The tenant bears more than is free only if its members have nothing left.
            prop_assert!(found.rest_wei <= U256::from(free) || left.is_zero());
        }
    }
}
