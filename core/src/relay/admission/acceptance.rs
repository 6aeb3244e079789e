//! Current state of an accepted request, even if its id has since passed to another tenant.

use crate::{
    ledger::{EventFilter, Ledger, LedgerError, RequestRecord},
    request::Reason,
};

/// Most events of a request that ended without having been in a transaction.
const EVENTS: usize = 16;

/// The current state of `record`. For a request replaced by another tenant's submission of the same signed request this
/// is its final state, from the events; `None` if they don't show it.
pub(in crate::relay) async fn now(
    ledger: &dyn Ledger,
    record: RequestRecord,
) -> Result<Option<RequestRecord>, LedgerError> {
    let found = ledger.request(record.id).await?;
    if let Some(found) = found.filter(|found| found.seq == record.seq) {
        return Ok(Some(found));
    }
    let filter = EventFilter { request: Some(record.seq), limit: EVENTS, ..EventFilter::default() };
    let events = ledger.events(&filter).await?;
    let late_at = events.iter().find(|event| event.reason == Some(Reason::PromiseMissed)).map(|event| event.at_ms);
    let end = events.last().filter(|event| event.status.is_terminal());
    Ok(end.map(|end| RequestRecord {
        status: end.status,
        reason: end.reason,
        late_at: late_at.map(crate::time::Timestamp),
        updated_at: crate::time::Timestamp(end.at_ms),
        ..record
    }))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256, Bytes, U256};

    use super::*;
    use crate::{
        ledger::{NewRequest, RequestChange, SqliteConfig, SqliteLedger, Write},
        request::{RequestId, Status},
        time::Timestamp,
    };

    const ID: RequestId = RequestId(B256::repeat_byte(7));

    fn accepted_by(tenant: &str) -> Write {
        Write::Accept(Box::new(NewRequest {
            id: ID,
            tenant: tenant.to_owned(),
            chain_id: 1,
            kind: "forward",
            sequence: Some((Address::repeat_byte(1), Address::repeat_byte(2), 0)),
            target: Address::repeat_byte(3),
            deadline: Timestamp(30_000),
            valid_until: Timestamp(90_000),
            accepted_at: Timestamp(1_000),
            reserved_wei: U256::from(5),
            price_percent: 100,
            ceiling_wei_per_gas: 1,
            payload: vec![1],
            promise_signature: Bytes::new(),
            quote: String::new(),
            idempotency: None,
            submitted_by: Some(format!("{tenant}-key")),
            budget: None,
            takes_over: true,
        }))
    }

    #[tokio::test]
    async fn whose_request_made_way_sees_how_it_ended_and_nothing_of_the_other_tenants() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(SqliteConfig::new(dir.path().join("ledger.db"))).await.unwrap();
        ledger.commit(vec![accepted_by("shop")]).await.unwrap();
        let first = ledger.request(ID).await.unwrap().unwrap();
        assert_eq!(now(&ledger, first.clone()).await.unwrap().unwrap(), first);
        let late = Write::Late { requests: vec![ID], at: Timestamp(30_001) };
        let change = RequestChange::to(ID, Status::Cancelled).because(Reason::CancelledByOwner);
        let cancelled = Write::Requests { changes: vec![change], at: Timestamp(40_000) };
        ledger.commit(vec![late, cancelled]).await.unwrap();
        let ended = ledger.request(ID).await.unwrap().unwrap();
        ledger.commit(vec![accepted_by("bank")]).await.unwrap();
        assert_eq!(ledger.request(ID).await.unwrap().unwrap().tenant, "bank");
        let seen = now(&ledger, first).await.unwrap().unwrap();
        let facts = (seen.tenant.as_str(), seen.status, seen.reason, seen.late_at, seen.updated_at);
        assert_eq!(facts, ("shop", ended.status, ended.reason, ended.late_at, ended.updated_at));
        assert_eq!(seen.submitted_by.as_deref(), Some("shop-key"));
        ledger.close().await;
    }
}
