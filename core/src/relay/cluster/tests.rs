//! Open requests, as this instance counts them.

use std::collections::BTreeMap;

use alloy_primitives::{Bytes, U256};

use super::*;
use crate::{
    ledger::{NewRequest, RequestChange, SqliteConfig, SqliteLedger, Write},
    policy::{OpenLimits, TenantPolicy},
    relay::{clock, simulate::tests::request, tenants::claim},
    request::Reason,
};

struct Scene {
    ledger: SqliteLedger,
    tenants: Tenants,
    ids: Vec<RequestId>,
    _dir: tempfile::TempDir,
}

impl Scene {
    /// Three requests of `shop`, which this instance has accepted.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(SqliteConfig::new(dir.path().join("ledger.db"))).await.unwrap();
        let policies = ["shop", "bank"].map(|id| (id.to_owned(), TenantPolicy::new(id)));
        let tenants = Tenants::new(BTreeMap::from(policies), OpenLimits::default(), true);
        let mut scene = Self { ledger, tenants, ids: Vec::new(), _dir: dir };
        for user in 1..4 {
            scene.accept("shop", user).await;
        }
        scene
    }

    async fn accept(&mut self, tenant: &str, user: u8) {
        let request = request(user, 0, Address::repeat_byte(0xaa));
        let tenant = self.tenants.get(tenant).unwrap();
        let claim = claim(&tenant.name, &request, U256::from(1));
        self.tenants.reserve(&tenant, &claim, None, clock::now()).unwrap();
        self.tenants.accepted(&tenant, request.id());
        let new = NewRequest {
            id: request.id(),
            tenant: tenant.policy.id.clone(),
            chain_id: request.chain_id(),
            kind: "forward",
            sequence: request.sequence(),
            target: request.target(),
            deadline: request.deadline(),
            valid_until: request.valid_until(),
            accepted_at: clock::now(),
            reserved_wei: U256::from(1),
            price_percent: 100,
            ceiling_wei_per_gas: 1,
            payload: request.to_stored(),
            promise_signature: Bytes::new(),
            quote: String::new(),
            idempotency: None,
            submitted_by: None,
            budget: None,
            takes_over: true,
        };
        self.ledger.commit(vec![Write::Accept(Box::new(new))]).await.unwrap();
        self.ids.push(request.id());
    }

    async fn cancel(&self, index: usize) -> Arc<[EventRecord]> {
        let change = RequestChange::to(self.ids[index], Status::Cancelled).because(Reason::CancelledByOwner);
        self.ledger.commit(vec![Write::Requests { changes: vec![change], at: clock::now() }]).await.unwrap();
        let after = self.ledger.last_event_seq().await.unwrap() - 1;
        self.ledger.events(&EventFilter { after, limit: 1, ..EventFilter::default() }).await.unwrap().into()
    }

    fn open_of(&self, tenant: &str) -> Vec<RequestId> {
        self.tenants.counted().into_iter().filter(|(of, _)| **of == *tenant).map(|(_, id)| id).collect()
    }
}

#[tokio::test]
async fn whose_end_was_missed_is_not_open_also_where_another_tenant_has_it_now() {
    let mut scene = Scene::new().await;
    scene.cancel(0).await;
    scene.cancel(1).await;
    scene.accept("bank", 2).await;
    look_for_closed(&scene.ledger, &scene.tenants).await.unwrap();
    assert_eq!(scene.open_of("shop"), [scene.ids[2]]);
    assert_eq!(scene.open_of("bank"), [scene.ids[1]]);
    // What can't be read is looked at again.
    scene.ledger.close().await;
    assert!(look_for_closed(&scene.ledger, &scene.tenants).await.is_err());
    assert_eq!(scene.open_of("shop"), [scene.ids[2]]);
}

#[tokio::test]
async fn an_end_between_two_counts_is_noticed() {
    let scene = Scene::new().await;
    let (sender, events) = broadcast::channel(16);
    let pause = RECOUNT * 2;
    let open = || async { Ok((3, vec![("shop".to_owned(), 3)])) };
    let end = async {
        // Counting pauses.
        tokio::time::sleep(RECOUNT + RECOUNT / 2).await;
        sender.send(scene.cancel(0).await).unwrap();
        while scene.open_of("shop").len() > 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = follow_open(&scene.ledger, &scene.tenants, events, pause, open) => panic!("it ended"),
        ended = tokio::time::timeout(Duration::from_secs(20), end) => ended.expect("it is noticed"),
    }
}

#[tokio::test]
async fn after_a_gap_in_the_events_everything_is_looked_at() {
    let scene = Scene::new().await;
    let (sender, events) = broadcast::channel(1);
    for index in 0..2 {
        sender.send(scene.cancel(index).await).unwrap();
    }
    let pause = Duration::from_millis(10);
    let open = || async { Ok((3, vec![("shop".to_owned(), 3)])) };
    let end = async {
        while scene.open_of("shop").len() > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = follow_open(&scene.ledger, &scene.tenants, events, pause, open) => panic!("it ended"),
        ended = tokio::time::timeout(Duration::from_secs(20), end) => ended.expect("it is noticed"),
    }
}
