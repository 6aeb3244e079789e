//! The ledger with storage faults, and crashes of the process around a commit.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use alloy_primitives::Address;
use async_trait::async_trait;
use slackwater_core::{
    Timestamp,
    request::{BatchId, LaneId, RequestId, Status, TargetRecord},
};
use slackwater_ledger::{
    AccountRow, AttemptRecord, BatchMember, BatchRecord, CostRow, DecisionRow, Durable, EventFilter, EventRecord,
    KeyUse, Ledger, LedgerError, MarginRow, MemoryLedger, RequestFilter, RequestRecord, SpentRow, Write, WriteOutcome,
};

use crate::node::{Shared, lock};

#[derive(Debug)]
pub(crate) struct FaultyLedger {
    pub(crate) world: Shared,
    pub(crate) inner: MemoryLedger,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dead,
    Good,
    CrashBefore,
    CrashAfter,
    Storage,
    DoubtLost,
    DoubtKept,
}

impl FaultyLedger {
    fn fate(&self) -> (Fate, u64) {
        let mut world = lock(&self.world);
        let faults = world.faults;
        let wait = world.rng.within(1, 8);
        let fate = if world.is_crashed {
            Fate::Dead
        } else if world.rng.permille(faults.crash_at_commit) {
            if world.rng.permille(500) { Fate::CrashBefore } else { Fate::CrashAfter }
        } else if world.rng.permille(faults.storage_errors) {
            world.count("storage error");
            Fate::Storage
        } else if world.rng.permille(faults.in_doubt) {
            world.count("commit in doubt");
            if world.rng.permille(500) { Fate::DoubtLost } else { Fate::DoubtKept }
        } else {
            Fate::Good
        };
        (fate, wait)
    }
}

#[async_trait]
impl Ledger for FaultyLedger {
    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Durable<WriteOutcome>>, LedgerError> {
        let (fate, wait) = self.fate();
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let is_dead = {
            let mut world = lock(&self.world);
            if fate == Fate::CrashBefore {
                world.crash_now("before a commit");
            }
            world.is_crashed || fate == Fate::Dead
        };
        if is_dead {
            return std::future::pending().await;
        }
        match fate {
            Fate::Storage => return Err(LedgerError::Storage("disk full".to_owned().into())),
            Fate::DoubtLost => {
                lock(&self.world).note(format_args!("commit in doubt, lost"));
                return Err(LedgerError::InDoubt("sync failed".to_owned()));
            }
            _ => {}
        }
        let outcomes = self.inner.commit(writes).await;
        let is_dead = {
            let mut world = lock(&self.world);
            world.check_commit();
            match fate {
                Fate::DoubtKept => {
                    world.note(format_args!("commit in doubt, kept"));
                    return Err(LedgerError::InDoubt("sync failed".to_owned()));
                }
                Fate::CrashAfter => world.crash_now("after a commit"),
                _ => {}
            }
            world.is_crashed
        };
        if is_dead { std::future::pending().await } else { outcomes }
    }

    async fn request(&self, id: RequestId) -> Result<Option<RequestRecord>, LedgerError> {
        self.inner.request(id).await
    }

    async fn requests_by_id(&self, ids: &[RequestId]) -> Result<Vec<RequestRecord>, LedgerError> {
        let (is_refused, wait) = {
            let mut world = lock(&self.world);
            world.count("payloads read");
            let chance = world.faults.storage_errors;
            (world.rng.permille(chance), world.rng.within(1, 8))
        };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        match is_refused {
            true => Err(LedgerError::Storage("read error".to_owned().into())),
            false => self.inner.requests_by_id(ids).await,
        }
    }

    async fn requests(&self, filter: &RequestFilter) -> Result<Vec<RequestRecord>, LedgerError> {
        self.inner.requests(filter).await
    }

    async fn open_requests(&self, chain_id: u64, after: u64, limit: usize) -> Result<Vec<RequestRecord>, LedgerError> {
        self.inner.open_requests(chain_id, after, limit).await
    }

    async fn batch(
        &self,
        id: BatchId,
    ) -> Result<Option<(BatchRecord, Vec<AttemptRecord>, Vec<BatchMember>)>, LedgerError> {
        self.inner.batch(id).await
    }

    async fn open_batches(
        &self,
        lane: LaneId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(BatchRecord, Vec<Durable<AttemptRecord>>, Vec<BatchMember>)>, LedgerError> {
        self.inner.open_batches(lane, from, limit).await
    }

    async fn earlier_members(&self, id: BatchId) -> Result<Vec<(u32, Vec<BatchMember>)>, LedgerError> {
        self.inner.earlier_members(id).await
    }

    async fn next_nonce(&self, lane: LaneId) -> Result<Option<u64>, LedgerError> {
        self.inner.next_nonce(lane).await
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, LedgerError> {
        self.inner.events(filter).await
    }

    async fn last_event_seq(&self) -> Result<u64, LedgerError> {
        self.inner.last_event_seq().await
    }

    async fn spent(&self, since_ms: u64) -> Result<Vec<SpentRow>, LedgerError> {
        self.inner.spent(since_ms).await
    }

    async fn accounts(&self) -> Result<Vec<AccountRow>, LedgerError> {
        self.inner.accounts().await
    }

    async fn margins(&self) -> Result<Vec<MarginRow>, LedgerError> {
        self.inner.margins().await
    }

    async fn costs_of(
        &self,
        tenant: &str,
        since: Timestamp,
        after: u64,
        limit: usize,
    ) -> Result<Vec<CostRow>, LedgerError> {
        self.inner.costs_of(tenant, since, after, limit).await
    }

    async fn used_by_keys(
        &self,
        tenant: &str,
        keys: &BTreeSet<Arc<str>>,
        since: [Timestamp; 2],
    ) -> Result<KeyUse, LedgerError> {
        self.inner.used_by_keys(tenant, keys, since).await
    }

    async fn nonces_of(&self, chain_id: u64, forwarder: Address, signer: Address) -> Result<Vec<u64>, LedgerError> {
        self.inner.nonces_of(chain_id, forwarder, signer).await
    }

    async fn decisions(&self, after: u64, limit: usize) -> Result<Vec<DecisionRow>, LedgerError> {
        self.inner.decisions(after, limit).await
    }

    async fn last_decision(&self) -> Result<Option<DecisionRow>, LedgerError> {
        self.inner.last_decision().await
    }

    async fn counts(&self) -> Result<Vec<(u64, Status, u64)>, LedgerError> {
        self.inner.counts().await
    }

    async fn targets(&self, chain_id: u64) -> Result<Vec<TargetRecord>, LedgerError> {
        self.inner.targets(chain_id).await
    }

    async fn meta(&self, key: &str) -> Result<Option<String>, LedgerError> {
        self.inner.meta(key).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
