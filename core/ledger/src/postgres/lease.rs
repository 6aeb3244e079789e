//! Leases as rows.

use std::time::Duration;

use async_trait::async_trait;

use super::{Cells, PostgresLedger};
use crate::{Fence, InstanceRecord, LeaseOutcome, LeaseRecord, Leases, LedgerError, request::LaneId};

const MILLIS_LEFT: &str = "greatest(0, ceil(extract(epoch FROM (expires_at - clock_timestamp())) * 1000))::BIGINT";

#[async_trait]
impl Leases for PostgresLedger {
    async fn acquire(&self, chain_id: u64, owner: &str, period: Duration) -> Result<LeaseOutcome, LedgerError> {
        let taken = sqlx::query(
            "INSERT INTO leases AS l (chain_id, owner, token, expires_at) \
             VALUES ($1, $2, 1, clock_timestamp() + $3 * INTERVAL '1 millisecond') \
             ON CONFLICT (chain_id) DO UPDATE SET owner = excluded.owner, token = l.token + 1, \
             expires_at = excluded.expires_at WHERE l.expires_at <= clock_timestamp() RETURNING token",
        )
        .bind(chain_id.cast_signed())
        .bind(owner.to_owned())
        .bind(millis(period));
        if let Some(row) = self.read_on(&self.leasing, taken).await?.first() {
            return Ok(LeaseOutcome::Taken(Fence { chain_id, token: Cells::of("lease", row).u64()? }));
        }
        let held = self.leases().await?.into_iter().find(|lease| lease.fence.chain_id == chain_id);
        held.map(LeaseOutcome::Held).ok_or(LedgerError::Damaged { what: "lease", detail: "has vanished".to_owned() })
    }

    async fn renew(&self, fence: Fence, period: Duration) -> Result<bool, LedgerError> {
        let query = sqlx::query(
            "UPDATE leases SET expires_at = clock_timestamp() + $3 * INTERVAL '1 millisecond' \
             WHERE chain_id = $1 AND token = $2 RETURNING token",
        )
        .bind(fence.chain_id.cast_signed())
        .bind(fence.token.cast_signed())
        .bind(millis(period));
        Ok(!self.read_on(&self.leasing, query).await?.is_empty())
    }

    async fn release(&self, fence: Fence) -> Result<(), LedgerError> {
        let query = sqlx::query("UPDATE leases SET expires_at = clock_timestamp() WHERE chain_id = $1 AND token = $2")
            .bind(fence.chain_id.cast_signed())
            .bind(fence.token.cast_signed());
        self.read_on(&self.leasing, query).await.map(drop)
    }

    async fn leases(&self) -> Result<Vec<LeaseRecord>, LedgerError> {
        let text = format!("SELECT chain_id, token, owner, {MILLIS_LEFT} FROM leases ORDER BY chain_id");
        let rows = self.read_on(&self.leasing, sqlx::query(sqlx::AssertSqlSafe(text))).await?;
        rows.iter()
            .map(|row| {
                let mut cells = Cells::of("lease", row);
                Ok(LeaseRecord {
                    fence: Fence { chain_id: cells.u64()?, token: cells.u64()? },
                    owner: cells.text()?,
                    remaining: Duration::from_millis(cells.u64()?),
                })
            })
            .collect()
    }

    async fn open_by_tenant(&self) -> Result<(u64, Vec<(String, u64)>), LedgerError> {
        // One statement, so one moment.
        let query = sqlx::query(
            "SELECT (SELECT coalesce(max(seq), 0) FROM events), t.tenant, t.open FROM (VALUES (1)) AS v (one) \
             LEFT JOIN (SELECT tenant, count(*) AS open FROM requests WHERE status < 3 GROUP BY tenant) AS t ON TRUE",
        );
        let (mut newest, mut open) = (0, Vec::new());
        for row in self.read_on(&self.readers, query).await? {
            let mut cells = Cells::of("open requests", &row);
            newest = cells.u64()?;
            if let (Some(tenant), Some(count)) = (cells.optional_text()?, cells.optional_u64()?) {
                open.push((tenant, count));
            }
        }
        Ok((newest, open))
    }

    async fn open_lanes(&self) -> Result<Vec<(LaneId, u64)>, LedgerError> {
        let query = sqlx::query(
            "SELECT chain_id, sender, count(*) FROM batches WHERE state < 3 GROUP BY chain_id, sender \
             ORDER BY chain_id, sender",
        );
        let rows = self.read_on(&self.readers, query).await?;
        let lane = |row| {
            let mut cells = Cells::of("lane", row);
            Ok((LaneId { chain_id: cells.u64()?, sender: cells.fixed()? }, cells.u64()?))
        };
        rows.iter().map(|row| lane(row)).collect()
    }

    async fn members(&self) -> Result<Vec<InstanceRecord>, LedgerError> {
        let query = sqlx::query(
            "SELECT instance, told, greatest(0, extract(epoch FROM (clock_timestamp() - seen_at)) * 1000)::BIGINT \
             FROM members ORDER BY instance",
        );
        let rows = self.read_on(&self.readers, query).await?;
        let member = |row| {
            let mut cells = Cells::of("member", row);
            let (instance, text) = (cells.text()?, cells.text()?);
            Ok(InstanceRecord { instance, text, age: Duration::from_millis(cells.u64()?) })
        };
        rows.iter().map(|row| member(row)).collect()
    }

    async fn tell(&self, instance: &str, text: &str) -> Result<(), LedgerError> {
        let query = match text {
            "" => sqlx::query("DELETE FROM members WHERE instance = $1").bind(instance.to_owned()),
            text => sqlx::query(
                "INSERT INTO members AS m (instance, told, seen_at) VALUES ($1, $2, clock_timestamp()) \
                 ON CONFLICT (instance) DO UPDATE SET told = excluded.told, seen_at = excluded.seen_at",
            )
            .bind(instance.to_owned())
            .bind(text.to_owned()),
        };
        self.read_on(&self.leasing, query).await.map(drop)
    }
}

fn millis(period: Duration) -> i64 {
    i64::try_from(period.as_millis()).unwrap_or(i64::MAX)
}
