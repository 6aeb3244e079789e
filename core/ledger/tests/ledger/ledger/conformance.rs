//! Requirements on every ledger.

mod batches;
mod requests;
mod whole;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alloy_primitives::{Address, B256, U256};
use slackwater_core::{
    Timestamp,
    provenance::{Decision, Entry, Head, verify_chain_from},
    request::{BatchId, LaneId, Reason, Status, TargetRecord, settlement::CostAccount},
};
use slackwater_ledger::{
    AcceptOutcome, AccountEntry, AccountRow, AttemptKind, AttemptRecord, BatchMember, BatchRecord, BatchState, Bill,
    BudgetLimit, DecisionRow, EndedByKey, EventFilter, EventRecord, Fence, KeyUse, Ledger, MarginRow, NewRequest,
    OpenByKey, PlannedBatch, RequestChange, RequestFilter, RequestRecord, SpentRow, Write, WriteOutcome,
};

use crate::ledger::{Store, sample::*};

/// Runs every check against a new store of each kind.
macro_rules! conformance {
    ($($check:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $check() {
                super::checks::$check(&crate::ledger::sqlite::TempStore::new()).await;
            })*
        }

        #[cfg(feature = "simulation")]
        mod on_memory {
            $(#[tokio::test]
            async fn $check() {
                super::checks::$check(&crate::ledger::MemoryKept::new()).await;
            })*
        }

        #[cfg(feature = "postgres")]
        mod on_postgres {
            $(#[tokio::test]
            async fn $check() {
                super::checks::$check(&crate::ledger::postgres::TempSchema::new()).await;
            })*
        }
    };
}

conformance! {
    new_request_reads_back
    same_id_is_a_duplicate_for_ever
    what_ended_untried_is_anothers_to_submit
    a_key_belongs_to_its_own_tenants_request
    idempotency_key_answers_first
    a_missed_promise_is_told_once
    sequence_has_one_holder
    sequence_is_released_and_taken_in_one_commit
    plan_binds_members
    plan_is_refused
    a_plan_names_its_members_that_have_ended
    what_every_node_refused_makes_way
    who_ended_with_a_refused_plan_keeps_no_nonce
    nonces_skip_and_holes_are_filled
    attempts_are_appended
    batch_moves_its_members
    batch_write_repeated_is_harmless
    a_bill_that_does_not_add_up_is_refused
    what_a_stranger_took_is_booked_once
    a_price_stands_beside_the_cost
    costs_add_up_over_transactions
    batch_state_never_goes_back
    reorganisation_takes_back_inclusion
    members_go_back_to_the_queue
    old_batch_cannot_touch_new_membership
    changes_outside_batches
    what_a_transaction_may_yet_execute_is_not_withdrawn
    refused_write_spares_its_neighbours
    decisions_are_a_sequence
    decisions_are_linked_in_the_commit
    of_a_refused_plan_nothing_is_told
    budgets_are_checked_in_the_commit
    writes_without_a_lease_are_fenced
    meta_is_overwritten
    what_targets_showed_survives
    events_have_no_gaps
    requests_are_listed
    a_list_of_few_ends_early_and_goes_on
    use_of_keys_is_counted
    requests_are_found_by_id
    open_requests_are_paged
    running_numbers_agree
    large_commits_cross_chunks
    reopening_changes_nothing
    empty_commit_is_nothing
    closed_ledger_refuses
}

/// All of them, by name.
mod checks {
    pub(super) use super::{batches::*, requests::*, whole::*};
}

/// All readable data of the test chain, for comparison.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    requests: Vec<RequestRecord>,
    open: Vec<RequestRecord>,
    events: Vec<EventRecord>,
    decisions: Vec<DecisionRow>,
    batches: Vec<(BatchRecord, Vec<AttemptRecord>, Vec<BatchMember>)>,
    open_batches: Vec<BatchId>,
    counts: Vec<(u64, Status, u64)>,
    spent: Vec<SpentRow>,
}

pub(crate) async fn snapshot(ledger: &dyn Ledger) -> Snapshot {
    let limit = usize::MAX;
    let mut batches = Vec::new();
    for nonce in 0..ledger.next_nonce(lane()).await.unwrap().unwrap_or_default() {
        batches.extend(ledger.batch(batch_id(nonce)).await.unwrap());
    }
    Snapshot {
        requests: ledger.requests(&RequestFilter { limit, ..RequestFilter::default() }).await.unwrap(),
        open: ledger.open_requests(CHAIN, 0, limit).await.unwrap(),
        events: ledger.events(&EventFilter { limit, ..EventFilter::default() }).await.unwrap(),
        decisions: ledger.decisions(0, limit).await.unwrap(),
        batches,
        open_batches: ledger
            .open_batches(lane(), 0, usize::MAX)
            .await
            .unwrap()
            .into_iter()
            .map(|(batch, _, _)| batch.id)
            .collect(),
        counts: ledger.counts().await.unwrap(),
        spent: ledger.spent(0).await.unwrap(),
    }
}

fn included(state: BatchState, to: Status, block: u64) -> Write {
    Write::Batch {
        id: batch_id(0),
        state,
        included_hash: Some(attempt(0, 0).hash),
        block: Some((block, hash(block))),
        gas_used: Some(90_000),
        cost_wei: Some(U256::from(700)),
        changes: vec![RequestChange {
            detail: Some("fine".to_owned()),
            tx_hash: Some(attempt(0, 0).hash),
            block_number: Some(block),
            gas_used: Some(45_000),
            charged_wei: if state.is_final() { U256::from(350) } else { U256::ZERO },
            ..RequestChange::to(id(1), to)
        }],
        bill: state.is_final().then(|| {
            let wei = U256::from(350);
            let entry = AccountEntry { account: CostAccount::Overrun, tenant: Some("acme".to_owned()), wei };
            Box::new(Bill { value_wei: U256::ZERO, accounts: vec![entry] })
        }),
        at: Timestamp(NOW.0 + block),
    }
}
