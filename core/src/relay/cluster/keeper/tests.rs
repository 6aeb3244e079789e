//! Tests of the open request counts of an instance, and of a leader whose requests others withdraw.

use std::collections::BTreeMap;

use alloy_primitives::{Bytes, U256};
use tokio::sync::mpsc;

use super::*;
use crate::relay::cluster::membership::Membership;
use crate::{
    chain::Fees,
    lane::{Event, HeadInfo},
    ledger::{Durable, NewRequest, RequestChange, SqliteConfig, SqliteLedger, Write, WriteOutcome},
    policy::{Claim, OpenLimits, TenantPolicy},
    relay::{
        chain::{
            journal::JournalEntry,
            message::PeerUpdates,
            service::{ChainService, Done},
        },
        clock,
        nodes::simulate::tests::request,
        start::assemble::tests::service,
    },
    request::{
        Reason, RequestId,
        gate::Word,
        simulation::Ahead,
        vehicle::{Company, Contracts, VehicleKey},
    },
    schedule::{Refusals, Selection, Trigger},
    sender::{Candidate, DataQuote, Input, Price, Simulation, UnderWay},
};

struct Scene {
    ledger: SqliteLedger,
    tenants: Tenants,
    ids: Vec<RequestId>,
    _dir: tempfile::TempDir,
}

impl Scene {
    /// Three requests of `shop` accepted by this instance.
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
        let claim = Claim::of(&tenant.name, &request, U256::from(1));
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
    // Failed lookups are retried.
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

const GWEI: u128 = 1_000_000_000;

/// A leader with a lane that can send and requests selected for a transaction: two of the first user, one of each
/// other.
struct Owner {
    service: ChainService,
    journal: mpsc::Receiver<JournalEntry>,
    all: Vec<Arc<VerifiedRequest>>,
    _dir: tempfile::TempDir,
}

impl Owner {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let policies = BTreeMap::from([("shop".to_owned(), TenantPolicy::new("shop"))]);
        let tenants = Arc::new(Tenants::new(policies, OpenLimits::default(), true));
        let (mut service, journal) = service(&dir.path().join("ledger.db"), &tenants).await;
        let mut membership = Membership::new(Arc::default(), Vec::new());
        let fence = Fence { chain_id: service.chain_id(), token: 1 };
        membership.lease = Some(Lease::new(fence, Moment::now(), Duration::from_secs(3_600)));
        service.membership = Some(membership);
        let quote = Fees { max_fee_per_gas: 2 * GWEI, max_priority_fee_per_gas: 1 };
        let head = HeadInfo { number: 1_000, timestamp_s: 0, next_base_fee: GWEI, quote, final_block: None };
        (service.sender.head, service.sender.price) = (Some(head), Some(Price { next_base_fee: GWEI, quote }));
        let latest = service.sender.lanes[0].machine.next_nonce().unwrap_or_default();
        let balance = Event::Balance(U256::from(1_000_000_000 * GWEI));
        for event in [Event::AccountNonce { latest, finalized: None }, balance, Event::Head(head)] {
            service.act(|sender| sender.lane_event(clock::now(), 0, event));
        }
        let all =
            [(1, 0), (1, 1), (2, 0), (3, 0)].map(|(user, nonce)| request(user, nonce, Address::repeat_byte(0xaa)));
        let lane = service.sender.lanes[0].machine.id();
        for (request, seq) in all.iter().zip(1..) {
            let entry = QueuedRequest {
                request: request.clone(),
                tenant: tenants.get("shop").unwrap().name.clone(),
                seq,
                accepted_at: clock::now(),
                gas: 200_000,
                bytes: 100,
                ceiling_wei_per_gas: 10 * GWEI,
                first_ceiling_wei_per_gas: 10 * GWEI,
                reserved_wei: U256::from(10_000_000 * GWEI),
                spent_wei: U256::ZERO,
                price_percent: 100,
                company: Company::Named,
                simulations: 0,
                batch_failures: 0,
                due: request.deadline(),
                is_late: false,
                refusals: Refusals::default(),
            };
            service.sender.queue.push_in_flight(vec![entry], lane, 0);
        }
        Self { service, journal, all: all.into(), _dir: dir }
    }

    fn ids(&self, places: &[usize]) -> Vec<RequestId> {
        places.iter().map(|place| self.all[*place].id()).collect()
    }

    /// A simulation in which all members succeed.
    fn simulated(&mut self) {
        let members = self.all.clone();
        let key = VehicleKey::of_members(&members, Contracts::all(true));
        let selection = Selection {
            key,
            members: self.ids(&[0, 1, 2, 3]),
            trigger: Trigger::Full,
            deadline: members[0].deadline(),
            valid_until: members[0].valid_until(),
            ceiling_wei_per_gas: 10 * GWEI,
        };
        let payload = self.service.sender.lanes[0].params.payload(key, &members);
        let used = (0..4).map(|place| Some(100_000 + place)).collect();
        let words = vec![Word::Executes; 4];
        let (ahead, data_quote) = (Ahead::new(), DataQuote::default());
        let candidate =
            Candidate { selection, members, payload, ahead, data_quote, forecast_ref: None, used: Vec::new() };
        let simulation = Simulation { words, used, ..Simulation::default() };
        let candidate = Box::new(candidate);
        self.service.on_done(Done::Input(Input::Simulated { lane: 0, candidate, simulation, data_quote }));
    }

    fn withdrawn(&mut self, places: &[usize]) {
        let withdrawn = self.ids(places);
        self.service.on_peer_updates(clock::now(), PeerUpdates { token: 1, accepted: Vec::new(), withdrawn });
    }

    /// Members of the plan that waits to be written.
    fn planned(&mut self) -> Option<(Vec<RequestId>, JournalEntry)> {
        let entry = self.journal.try_recv().ok()?;
        let Write::Plan(plan) = &entry.writes[0] else { panic!("a plan") };
        Some((plan.members.iter().map(|member| member.id).collect(), entry))
    }

    /// The ledger refuses a plan.
    async fn refuse(&mut self, entry: JournalEntry, outcome: WriteOutcome) {
        entry.done.send(vec![(Durable::committed(outcome), None)]).unwrap();
        let done = self.service.tasks.join_next().await.expect("a task").expect("what it brings back");
        self.service.on_done(done);
    }

    fn waiting(&self) -> Vec<RequestId> {
        self.all.iter().map(|request| request.id()).filter(|id| self.service.sender.queue.is_waiting(*id)).collect()
    }
}

#[tokio::test]
async fn who_was_withdrawn_during_the_simulation_keeps_nobody_else() {
    let mut owner = Owner::new().await;
    owner.withdrawn(&[0]);
    owner.simulated();
    let (members, _) = owner.planned().expect("the others go");
    assert_eq!(members, owner.ids(&[2, 3]));
    let weights = &owner.service.sender.lanes[0].flights.values().next().unwrap().weights;
    assert_eq!(weights[1] - weights[0], 1, "as each was simulated");
    assert!(owner.service.sender.queue.get(owner.all[0].id()).is_none());
    assert_eq!(owner.service.sender.held, owner.ids(&[1]), "without its predecessor");
}

#[tokio::test]
async fn whom_the_ledger_knows_to_be_withdrawn_keeps_the_others_for_no_block() {
    let mut owner = Owner::new().await;
    owner.simulated();
    let (members, entry) = owner.planned().expect("a plan");
    assert_eq!(members, owner.ids(&[0, 1, 2, 3]));
    owner.refuse(entry, WriteOutcome::MembersEnded(owner.ids(&[2]))).await;
    assert_eq!(owner.waiting(), owner.ids(&[0, 1, 3]));
    assert!(owner.service.sender.held.is_empty() && owner.service.sender.queue.get(owner.all[2].id()).is_none());
    assert!(owner.service.sender.lanes[0].machine.ready().is_ok());
    // A later report of it changes nothing.
    owner.withdrawn(&[2]);
    assert!(owner.service.sender.withdrawn.is_empty());
}

#[tokio::test]
async fn a_plan_that_is_refused_for_another_reason_waits_for_a_block() {
    let mut owner = Owner::new().await;
    owner.simulated();
    let (_, entry) = owner.planned().expect("a plan");
    owner.refuse(entry, WriteOutcome::Refused("it exists".to_owned())).await;
    assert_eq!((owner.waiting(), owner.service.sender.held.clone()), (Vec::new(), owner.ids(&[0, 1, 2, 3])));
}

/// A withdrawn request is removed however it returned to the queue.
#[tokio::test]
async fn who_was_withdrawn_on_the_way_is_not_chosen_again() {
    let mut owner = Owner::new().await;
    owner.withdrawn(&[2, 3]);
    owner.service.sender.queue.put_back(owner.all[2].id());
    owner.service.act(|sender| sender.dispatch_now(clock::now()));
    assert!(owner.service.sender.queue.get(owner.all[2].id()).is_none());
    let withdrawn: Vec<RequestId> = owner.service.sender.withdrawn.iter().copied().collect();
    assert_eq!(withdrawn, owner.ids(&[3]), "still on its way");
}

/// Pending lookups end with the lease, so they are started again.
#[tokio::test]
async fn who_lost_the_lease_looks_again_at_everything() {
    let mut owner = Owner::new().await;
    let service = &mut owner.service;
    service.act(|sender| sender.ask_tip());
    assert!(service.sender.under_way.tip);
    service.sender.under_way = UnderWay { nonces: true, gaps: true, suspects: true, payments: true, tip: true };
    service.lease().unwrap().revoke();
    service.watch_lease();
    assert_eq!((service.tasks.len(), service.sender.under_way), (0, UnderWay::default()));
    service.act(|sender| sender.ask_tip());
    assert_eq!(service.tasks.len(), 1);
}
