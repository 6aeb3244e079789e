//! Random writes: the ledger stays consistent.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::U256;
use proptest::{collection::vec, prelude::*};
use slackwater_core::{Timestamp, request::Status};
use slackwater_ledger::{
    BatchState, EventFilter, EventRecord, Ledger, RequestChange, RequestFilter, Write, WriteOutcome,
};

use crate::ledger::{Store, conformance::snapshot, sample::*};

fn status() -> impl Strategy<Value = Status> {
    proptest::sample::select(Status::ALL.to_vec())
}

/// Few requests, signers and nonces, so that they collide.
fn write() -> impl Strategy<Value = Write> {
    let changes = || {
        let change = (0..8_u64, status(), any::<bool>(), proptest::option::of(0..500_u64)).prop_map(
            |(n, to, batch_failed, cost)| RequestChange {
                batch_failed,
                charged_wei: U256::from(cost.unwrap_or(0)),
                ..RequestChange::to(id(n), to)
            },
        );
        vec(change, 0..4)
    };
    let state = proptest::sample::select(BatchState::ALL.to_vec());
    let accepts = (0..8_u64, 1..3_u8, 0..2_u64, proptest::option::of((0..3_u8, 0..2_u64)), 0..3_u64).prop_map(
        |(n, signer, nonce, key, hours)| {
            let mut new = with_sequence(n, signer, nonce);
            new.idempotency = key.map(|(key, body)| with_key(n, &key.to_string(), body).idempotency.unwrap());
            new.accepted_at = Timestamp(NOW.0 + hours * HOUR_MS);
            accept(new)
        },
    );
    prop_oneof![
        4 => accepts,
        3 => (0..5_u64, vec(0..8_u64, 0..4)).prop_map(|(nonce, members)| plan(nonce, &members)),
        1 => (0..5_u64, 0..4_u32).prop_map(|(nonce, index)| Write::Attempt(Box::new(attempt(nonce, index)))),
        4 => (0..5_u64, state, changes()).prop_map(|(nonce, state, changes)| Write::Batch {
            id: batch_id(nonce),
            state,
            included_hash: None,
            block: None,
            gas_used: None,
            cost_wei: Some(changes.iter().map(|change| change.charged_wei).sum()),
            changes,
            bill: None,
            at: NOW,
        }),
        1 => changes().prop_map(|changes| Write::Requests { changes, at: NOW }),
    ]
}

/// Checks all invariants that hold after any commit.
async fn check(ledger: &dyn Ledger, told: &[EventRecord]) -> Result<(), TestCaseError> {
    let events = ledger.events(&EventFilter { limit: usize::MAX, ..EventFilter::default() }).await.unwrap();
    prop_assert_eq!(&events, told, "what was told is what is stored");
    prop_assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64));

    let mut last = BTreeMap::new();
    for event in &events {
        match last.insert(event.request_id, (event.request_seq, event.status)) {
            None => prop_assert_eq!((event.request_seq, event.status), (1, Status::Queued)),
            Some((seq, status)) => {
                prop_assert_eq!(event.request_seq, seq + 1);
                prop_assert!(status.can_become(event.status), "{} to {}", status, event.status);
            }
        }
    }

    let requests = ledger.requests(&RequestFilter { limit: usize::MAX, ..RequestFilter::default() }).await.unwrap();
    prop_assert_eq!(requests.len(), last.len());
    let mut holders = BTreeSet::new();
    let mut counts = BTreeMap::new();
    let (mut reserved, mut spent) = (U256::ZERO, U256::ZERO);
    for request in &requests {
        prop_assert_eq!(last[&request.id].1, request.status);
        if !matches!(request.status, Status::Rejected | Status::Expired | Status::Cancelled) {
            prop_assert!(holders.insert(request.sequence), "two hold {:?}", request.sequence);
        }
        *counts.entry((request.chain_id, request.status)).or_insert(0) += 1;
        match request.status.is_terminal() {
            true => spent += request.cost_wei.unwrap_or_default(),
            false => reserved += request.reserved_wei,
        }
        // In a batch exactly while the status implies it, and the batch lists it.
        let needs_batch = matches!(request.status, Status::Batched | Status::Broadcast | Status::Included);
        prop_assert!(request.batch.is_some() || !needs_batch);
        prop_assert!(request.batch.is_none() || request.status != Status::Queued);
        if let Some(batch) = request.batch {
            let (_, attempts, members) = ledger.batch(batch).await.unwrap().expect("exists");
            prop_assert!(members.iter().any(|member| member.id == request.id) && !attempts.is_empty());
        }
    }
    let stored: BTreeMap<_, _> =
        ledger.counts().await.unwrap().into_iter().map(|(chain, status, count)| ((chain, status), count)).collect();
    prop_assert_eq!(stored, counts);
    let sums = ledger.spent(0).await.unwrap();
    prop_assert!(sums.len() <= 1);
    let sums = sums.first().map_or((U256::ZERO, U256::ZERO), |sum| (sum.reserved_wei, sum.spent_wei));
    prop_assert_eq!(sums, (reserved, spent));
    Ok(())
}

macro_rules! random {
    ($module:ident, $store:path, $cases:literal) => {
        mod $module {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig { cases: $cases, ..ProptestConfig::default() })]


                #[test]
                fn random_writes_keep_the_ledger_consistent(commits in vec(vec(write(), 1..12), 1..12)) {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let store = <$store>::new();
                        let ledger = store.open().await;
                        let mut told = Vec::new();
                        for writes in commits {
                            for outcome in commit(&*ledger, writes).await {
                                match &outcome {
                                    WriteOutcome::Accept(slackwater_ledger::AcceptOutcome::Accepted { event, .. }) => told.push(event.clone()),
                                    WriteOutcome::Applied(events) => told.extend_from_slice(events),
                                    WriteOutcome::Accept(_)
                                    | WriteOutcome::Refused(_)
                                    | WriteOutcome::MembersEnded(_)
                                    | WriteOutcome::Fenced { .. } => {}
                                }
                            }
                        }
                        check(&*ledger, &told).await?;
                        let before = snapshot(&*ledger).await;
                        ledger.close().await;
                        prop_assert_eq!(snapshot(&*store.open().await).await, before);
                        Ok(())
                    })?;
                }

                #[test]
                fn one_commit_or_many_is_the_same(writes in vec(write(), 1..40)) {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let (together, apart) = (<$store>::new(), <$store>::new());
                        let (together, apart) = (together.open().await, apart.open().await);
                        let outcomes = commit(&*together, writes.clone()).await;
                        for (write, outcome) in writes.into_iter().zip(outcomes) {
                            prop_assert_eq!(one(&*apart, write).await, outcome);
                        }
                        prop_assert_eq!(snapshot(&*together).await, snapshot(&*apart).await);
                        Ok(())
                    })?;
                }
            }
        }
    };
}

random!(on_sqlite, crate::ledger::sqlite::TempStore, 48);
#[cfg(feature = "postgres")]
random!(on_postgres, crate::ledger::postgres::TempSchema, 12);
