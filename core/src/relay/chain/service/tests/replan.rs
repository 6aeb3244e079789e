//! Members that leave a transaction before finality, and the amounts drawn for it: one service by itself, without a
//! mining node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alloy_primitives::{Address, B256, Log, U256};
use alloy_sol_types::SolEvent as _;
use slackwater_contracts::forwarder::ExecutedForwardRequest;
use tokio::sync::mpsc;

use crate::{
    chain::Fees,
    lane::{AttemptKind, Command as LaneCommand, HeadInfo},
    ledger::{BatchRecord, BatchState, Bill, Reach, RequestChange, Write},
    policy::{Budget, Claim, OpenLimits, TenantPolicy},
    relay::{
        admission::tenants::Tenants,
        chain::{journal::JournalEntry, service::ChainService},
        clock,
        nodes::simulate::tests::{FORWARDER, request},
        start::assemble::tests::service,
    },
    request::{
        BatchId, Reason, RequestId, Status, VerifiedRequest,
        outcome::{MemberOutcome, TxReceipt},
        settlement::CostAccount,
        vehicle::{Company, Contracts, VehicleKey, decode},
    },
    schedule::{QueuedRequest, Refusals},
    sender::{Content, FeeView as _, Flight, LeftOut, Mined, Price, Settlement},
};

const GWEI: u128 = 1_000_000_000;
/// Price ceiling of the requests' reservations, wei per gas.
const CEILING: u128 = 10 * GWEI;
const BUDGET: u128 = 1_000_000_000 * GWEI;
/// Gas of a transaction within its members' known gas.
const USUAL: u64 = 300_000;
/// The block of the transaction.
const BLOCK: u64 = 100;

/// Three users' requests in one transaction.
struct Scene {
    service: ChainService,
    journal: mpsc::Receiver<JournalEntry>,
    tenants: Arc<Tenants>,
    all: Vec<Arc<VerifiedRequest>>,
    _ledger: tempfile::TempDir,
}

/// Content of a write.
struct Written {
    changes: Vec<RequestChange>,
    bill: Option<Box<Bill>>,
}

impl Written {
    fn of(&self, id: RequestId) -> Option<&RequestChange> {
        self.changes.iter().find(|change| change.id == id)
    }

    /// Amount booked to accounts, wei.
    fn borne(&self) -> U256 {
        let accounts = self.bill.iter().flat_map(|bill| &bill.accounts);
        accounts.fold(U256::ZERO, |sum, entry| sum + entry.wei)
    }

    /// Amount charged to requests, wei.
    fn charged(&self) -> U256 {
        self.changes.iter().fold(U256::ZERO, |sum, change| sum + change.charged_wei)
    }
}

impl Scene {
    async fn new() -> Self {
        let budget = Some(Budget { limit_wei: U256::from(BUDGET), period: std::time::Duration::ZERO });
        let policy = TenantPolicy::new("shop").with(|it| it.budget = budget);
        let tenants = BTreeMap::from([("shop".to_owned(), policy)]);
        let tenants = Arc::new(Tenants::new(tenants, OpenLimits::default(), false));
        let ledger = tempfile::tempdir().unwrap();
        let (mut service, journal) = service(&ledger.path().join("ledger.db"), &tenants).await;
        let quote = Fees { max_fee_per_gas: 2 * GWEI, max_priority_fee_per_gas: 0 };
        service.sender.price = Some(Price { next_base_fee: GWEI, quote });
        let all: Vec<_> = (1..4).map(|user| request(user, 0, Address::repeat_byte(0xaa))).collect();
        let tenant = tenants.get("shop").unwrap();
        let lane = service.sender.lanes[0].machine.id();
        for (request, seq) in all.iter().zip(1..) {
            let params = service.shared.params;
            let gas = params.member_gas(request);
            let reserved_wei = U256::from(params.reserved_gas(gas)) * U256::from(CEILING);
            tenants.reserve(&tenant, &Claim::of(&tenant.name, request, reserved_wei), None, clock::now()).unwrap();
            tenants.accepted(&tenant, request.id());
            let entry = QueuedRequest {
                request: Arc::clone(request),
                tenant: tenant.name.clone(),
                seq,
                accepted_at: clock::now(),
                gas,
                bytes: params.member_bytes(request),
                ceiling_wei_per_gas: CEILING,
                first_ceiling_wei_per_gas: CEILING,
                reserved_wei,
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
        Self { service, journal, tenants, all, _ledger: ledger }
    }

    fn id(&self, user: usize) -> RequestId {
        self.all[user].id()
    }

    fn batch(&self, nonce: u64) -> BatchId {
        BatchId { lane: self.service.sender.lanes[0].machine.id(), nonce }
    }

    /// A receipt in a block that executed `executed`.
    fn receipt(nonce: u64, gas_used: u64, price: u128, executed: &[&Arc<VerifiedRequest>]) -> TxReceipt {
        let log = |request: &&Arc<VerifiedRequest>| {
            let (_, signer, nonce) = request.sequence().unwrap();
            let event = ExecutedForwardRequest { signer, nonce: U256::from(nonce), success: true };
            Log { address: FORWARDER, data: event.encode_log_data() }
        };
        TxReceipt {
            hash: B256::with_last_byte(u8::try_from(nonce).unwrap() + 1),
            block_number: BLOCK,
            block_hash: B256::repeat_byte(0xb1),
            is_success: true,
            gas_used,
            effective_gas_price: price,
            extra_fee_wei: U256::ZERO,
            logs: executed.iter().map(log).collect(),
        }
    }

    /// Puts `members` into an included transaction under `nonce`.
    fn included(&mut self, nonce: u64, members: &[usize], receipt: &TxReceipt) {
        let members: Vec<_> = members.iter().map(|user| Arc::clone(&self.all[*user])).collect();
        let weights = members.iter().map(|member| self.service.shared.params.member_gas(member)).collect();
        let record = BatchRecord {
            id: self.batch(nonce),
            state: BatchState::Included,
            to: FORWARDER,
            value: U256::ZERO,
            gas_limit: 10_000_000,
            deadline: members[0].deadline(),
            ceiling_wei_per_gas: CEILING,
            trigger: "full".to_owned(),
            created_at: clock::now(),
            included_hash: Some(receipt.hash),
            block: Some((receipt.block_number, receipt.block_hash)),
            gas_used: None,
            cost_wei: None,
        };
        let key = VehicleKey::of_members(&members, Contracts::all(true));
        let outcomes = decode(key, &members, receipt.is_success, &receipt.logs);
        let mut flight = Flight::new(key, members, weights, record);
        flight.is_planned = true;
        flight.tenant = self.service.sender.tenant_of(&flight.members);
        let (kind, receipt) = (AttemptKind::Payload, receipt.clone());
        flight.mined = Some(Mined { kind, receipt, outcomes, ask_at: None });
        self.service.sender.lanes[0].flights.insert(nonce, flight);
        self.service.act(|sender| sender.pend(clock::now(), 0, nonce));
    }

    fn flight(&mut self) -> &mut Flight {
        self.service.sender.lanes[0].flights.get_mut(&0).unwrap()
    }

    /// Delivers a majority's confirmation of the first transaction, with these users' nonces unused.
    fn shown(&mut self, unused: &[usize]) -> Option<Written> {
        let user = |user: &usize| {
            let (forwarder, signer, nonce) = self.all[*user].sequence().unwrap();
            ((forwarder, signer), nonce)
        };
        let unused = unused.iter().map(user).collect();
        let block_hash = self.flight().mined.as_ref().unwrap().receipt.block_hash;
        self.shown_in(block_hash, unused)
    }

    fn shown_in(&mut self, block_hash: B256, unused: Vec<((Address, Address), u64)>) -> Option<Written> {
        self.service.act(|sender| {
            sender.on_left_out(clock::now(), &LeftOut { lane: 0, nonce: 0, block_hash, is_shown: true, unused })
        });
        self.told()
    }

    /// All members leave the transaction under `nonce`, as after a refusal by every node or a restart that forgot its
    /// block.
    fn vacated(&mut self, nonce: u64) {
        let flight = self.service.sender.lanes[0].flights.get_mut(&nonce).unwrap();
        let content = Content { until: 1, ..flight.content() };
        let record = flight.record.clone();
        *flight = Flight::new(content.key, Vec::new(), Vec::new(), record);
        let left: Vec<RequestId> = content.members.iter().map(|member| member.id()).collect();
        flight.earlier.push(content);
        left.into_iter().for_each(|id| self.service.sender.queue.put_back(id));
    }

    /// Settles a nonce, used by `receipt` or by a foreign transaction. No user's nonce is used.
    fn settled(&mut self, nonce: u64, receipt: Option<TxReceipt>) -> Written {
        let flight = self.service.sender.lanes[0].flights.remove(&nonce).unwrap();
        let earlier = (!flight.earlier.is_empty()).then_some(0);
        let kind = receipt.as_ref().map(|_| AttemptKind::Payload);
        let nonces = flight.members.iter().filter_map(|member| member.sequence());
        let nonces = nonces.map(|(forwarder, signer, nonce)| ((forwarder, signer), nonce)).collect();
        let receipt = receipt.map(Box::new);
        let outcomes = match &receipt {
            Some(receipt) => decode(flight.key, &flight.members, receipt.is_success, &receipt.logs),
            None => vec![MemberOutcome::Untouched; flight.members.len()],
        };
        let settlement = Settlement { id: self.batch(nonce), flight, kind, receipt, outcomes, culprit: None, earlier };
        self.service.act(|sender| sender.conclude(clock::now(), settlement, &nonces, &[]));
        self.told().expect("a write")
    }

    /// The next write, made durable.
    fn told(&mut self) -> Option<Written> {
        let entry = self.journal.try_recv().ok()?;
        let _ = entry.done.send(Vec::new());
        let mut writes = entry.writes.into_iter();
        let Some(Write::Batch { changes, bill, .. }) = writes.next() else { panic!("what a batch did") };
        Some(Written { changes, bill })
    }

    /// Requests ended without a transaction since the last call.
    fn ended(&mut self) -> Vec<(RequestId, Status, Option<Reason>)> {
        let mut ended = Vec::new();
        while let Ok(entry) = self.journal.try_recv() {
            for write in entry.writes {
                let Write::Requests { changes, .. } = write else { continue };
                ended.extend(changes.into_iter().map(|change| (change.id, change.to, change.reason)));
            }
        }
        ended
    }

    fn spent(&self, user: usize) -> U256 {
        self.service.sender.queue.get(self.id(user)).unwrap().spent_wei
    }

    fn ceiling(&self, user: usize) -> u128 {
        self.service.sender.queue.get(self.id(user)).unwrap().ceiling_wei_per_gas
    }

    /// The tenant's free budget beyond reservations, wei.
    fn free(&self) -> U256 {
        self.tenants.free("shop", 1, clock::now())
    }

    /// Runs the tasks that wait for a durable write.
    async fn go_on(&mut self) {
        while self.service.tasks.join_next().await.is_some() {}
    }

    fn head(&mut self, number: u64) {
        let quote = self.service.sender.price.unwrap().quote;
        let head = HeadInfo { number, timestamp_s: 0, next_base_fee: GWEI, quote, final_block: None };
        self.service.sender.head = Some(head);
    }

    /// True if the nodes are queried at this head.
    fn asks(&mut self, number: u64) -> bool {
        self.head(number);
        let before = self.service.tasks.len();
        self.service.act(|sender| sender.look_at_left_out(clock::now()));
        self.service.tasks.len() > before
    }
}

#[tokio::test]
async fn what_is_held_for_the_next_block_ends_with_its_time() {
    let mut scene = Scene::new().await;
    let (id, until) = (scene.id(0), scene.all[0].valid_until());
    scene.service.sender.held.push(id);
    scene.service.act(|sender| sender.expire(until.saturating_sub(std::time::Duration::from_millis(1))));
    assert_eq!(scene.service.sender.held, [id]);
    scene.service.act(|sender| sender.expire(until));
    assert_eq!(scene.ended(), [(id, Status::Expired, Some(Reason::DeadlinePassed))]);
    assert!(scene.service.sender.held.is_empty());
}

/// Work is proportional to the changes, not to the number of waiting requests.
#[tokio::test]
async fn who_waits_to_know_is_looked_at_again_when_a_transaction_is_settled() {
    for is_held in [false, true] {
        let mut scene = Scene::new().await;
        let receipt = Scene::receipt(0, USUAL, GWEI, &[&scene.all[0], &scene.all[1]]);
        scene.included(0, &[0, 1, 2], &receipt);
        scene.shown(&[2]).expect("it leaves");
        let (id, until) = (scene.id(2), scene.all[2].valid_until());
        if is_held {
            scene.service.sender.queue.set_aside(id);
            scene.service.sender.held.push(id);
        }
        for _ in 0..2 {
            scene.service.act(|sender| sender.expire(until));
            assert!(scene.service.sender.queue.expired(until).is_empty() && scene.service.sender.held.is_empty());
            assert_eq!((scene.ended(), scene.service.sender.is_loosened), (Vec::new(), false));
        }
        scene.settled(0, Some(receipt));
        assert_eq!(scene.ended(), []);
        scene.service.act(|sender| sender.expire(until));
        assert_eq!(scene.ended(), [(id, Status::Expired, Some(Reason::DeadlinePassed))]);
        assert!(scene.service.sender.undecided.is_empty() && scene.service.sender.queue.get(id).is_none());
    }
}

/// No other event would ever reveal their outcome.
#[tokio::test]
async fn a_nonce_that_is_left_later_is_used_up_for_those_who_wait_to_know() {
    let mut scene = Scene::new().await;
    let receipt = Scene::receipt(0, USUAL, GWEI, &[]);
    scene.included(0, &[0], &receipt);
    let content = Content { until: 1, members: vec![Arc::clone(&scene.all[1])], ..scene.flight().content() };
    scene.flight().earlier.push(content);
    let (id, until) = (scene.id(1), scene.all[1].valid_until());
    scene.service.sender.queue.put_back(id);
    scene.service.act(|sender| sender.expire(until));
    assert_eq!(scene.flight().filled_for, None, "the present one uses it");
    scene.service.act(|sender| sender.obey(0, LaneCommand::ReportRefused { nonce: 0, class: None }));
    scene.service.act(|sender| sender.expire(until));
    assert_eq!(scene.flight().filled_for, Some(0));
    assert!(scene.service.sender.undecided.contains(&id));
}

fn wei(gas: u64, price: u128) -> U256 {
    U256::from(gas) * U256::from(price)
}

/// The only skipped member bears the cost that no simulation showed: its whole reservation.
#[tokio::test]
async fn who_can_pay_no_other_try_stays_and_ends_with_its_transaction() {
    let mut scene = Scene::new().await;
    let receipt = Scene::receipt(0, 6_000_000, GWEI, &[&scene.all[0], &scene.all[1]]);
    scene.included(0, &[0, 1, 2], &receipt);
    let told = scene.shown(&[2]).expect("what was drawn");
    assert_eq!(told.changes, [], "it stays where it is");
    assert!(!scene.service.sender.queue.is_waiting(scene.id(2)));
    let reserved = scene.service.sender.queue.get(scene.id(2)).unwrap().reserved_wei;
    assert_eq!((scene.spent(2), scene.ceiling(2)), (reserved, 0));
    let id = scene.id(2);
    let told = scene.settled(0, Some(receipt));
    let change = told.of(id).unwrap();
    assert_eq!((change.to, change.reason), (Status::Rejected, Some(Reason::ReservationSpent)));
    assert_eq!((change.reach, change.charged_wei), (Reach::Batch, reserved), "once");
    assert_eq!(told.charged() + told.borne(), wei(6_000_000, GWEI));
    assert!(scene.service.sender.queue.get(id).is_none());
}

/// After a reorg a foreign transaction takes the nonce, so the amount drawn was never paid.
#[tokio::test]
async fn what_was_drawn_is_given_back_where_nothing_was_paid() {
    let mut scene = Scene::new().await;
    let receipt = Scene::receipt(0, USUAL, GWEI, &[&scene.all[0], &scene.all[1]]);
    scene.included(0, &[0, 1, 2], &receipt);
    let told = scene.shown(&[2]).expect("it leaves");
    let id = scene.id(2);
    assert_eq!(told.of(id).map(|change| (change.to, change.charged_wei)), Some((Status::Queued, U256::ZERO)));
    assert!(scene.spent(2) > U256::ZERO && scene.ceiling(2) < CEILING);
    let told = scene.settled(0, None);
    assert_eq!((told.charged(), told.borne()), (U256::ZERO, U256::ZERO));
    assert_eq!((scene.spent(2), scene.ceiling(2)), (U256::ZERO, CEILING));
    assert!(scene.service.sender.queue.is_waiting(id));
}

/// The other branch includes it at another price, or executes it: the first price no longer counts.
#[tokio::test]
async fn what_was_drawn_is_set_anew_by_the_branch_that_stays() {
    for is_executed in [false, true] {
        let mut scene = Scene::new().await;
        let first = Scene::receipt(0, USUAL, 8 * GWEI, &[&scene.all[0], &scene.all[1]]);
        scene.included(0, &[0, 1, 2], &first);
        scene.shown(&[2]).expect("it leaves");
        let drawn = scene.spent(2);
        let (held, id) = (scene.free(), scene.id(2));
        let executed: Vec<_> = scene.all.iter().take(if is_executed { 3 } else { 2 }).collect();
        let second = Scene::receipt(0, USUAL, GWEI, &executed);
        let told = scene.settled(0, Some(second));
        assert_eq!(told.charged() + told.borne(), wei(USUAL, GWEI));
        let change = told.of(id).unwrap().clone();
        assert!(!change.charged_wei.is_zero() && change.charged_wei < drawn);
        scene.go_on().await;
        if is_executed {
            assert_eq!((change.to, change.reach), (Status::Finalized, Reach::Anywhere));
            assert_eq!(scene.free() + wei(USUAL, GWEI), U256::from(BUDGET), "what it cost, and nothing else");
        } else {
            assert_eq!((change.to, change.reach), (Status::Queued, Reach::Cost));
            assert_eq!(scene.spent(2), change.charged_wei, "not {drawn} too");
            let reserved = scene.service.sender.queue.get(id).unwrap().reserved_wei;
            assert_eq!(scene.free() + reserved + told.charged() - change.charged_wei, U256::from(BUDGET));
            assert!(scene.free() > held);
        }
    }
}

/// A transaction that all members had left is mined all the same and skips them: they and their tenant pay for it. The
/// operator pays only if another transaction of ours had executed all of them before.
#[tokio::test]
async fn who_left_before_it_was_in_a_block_pays_for_its_skip() {
    for before in [0, 1, 3] {
        let mut scene = Scene::new().await;
        let skipped = Scene::receipt(0, USUAL, GWEI, &[]);
        scene.included(0, &[0, 1, 2], &skipped);
        scene.vacated(0);
        scene.flight().record.block = None;
        let ids: Vec<_> = (0..3).map(|user| scene.id(user)).collect();
        if before > 0 {
            let executed: Vec<_> = scene.all.iter().take(before).collect();
            let another = Scene::receipt(1, USUAL, GWEI, &executed);
            scene.included(1, &(0..before).collect::<Vec<_>>(), &another);
            scene.settled(1, Some(another));
        }
        let told = scene.settled(0, Some(skipped));
        assert_eq!(told.charged() + told.borne(), wei(USUAL, GWEI));
        for id in &ids[before..] {
            let change = told.of(*id).unwrap();
            assert_eq!((change.to, change.reach), (Status::Queued, Reach::Cost));
            assert!(change.charged_wei > U256::ZERO);
            assert_eq!(scene.service.sender.queue.get(*id).unwrap().spent_wei, change.charged_wei);
        }
        let replan =
            told.bill.iter().flat_map(|bill| &bill.accounts).filter(|entry| entry.account == CostAccount::Replan);
        let replan: Vec<U256> = replan.map(|entry| entry.wei).collect();
        assert_eq!(replan, if before == 3 { vec![wei(USUAL, GWEI)] } else { vec![] }, "{before} executed before");
    }
}

/// A request is sent again under the nonce under which every node refused it; then the first bytes are mined all the
/// same and skip it. The charge for that is not an end: it waits again.
#[tokio::test]
async fn who_is_in_both_contents_of_a_nonce_is_not_forgotten() {
    let mut scene = Scene::new().await;
    let skipped = Scene::receipt(0, USUAL, GWEI, &[]);
    scene.included(0, &[0, 1, 2], &skipped);
    scene.vacated(0);
    let (again, lane) = (Arc::clone(&scene.all[0]), scene.service.sender.lanes[0].machine.id());
    let id = again.id();
    let entry = scene.service.sender.queue.remove(id, false).unwrap();
    scene.service.sender.queue.push_in_flight(vec![entry], lane, 0);
    let flight = scene.flight();
    (flight.members, flight.weights) = (vec![again], vec![100_000]);
    let told = scene.settled(0, Some(skipped));
    assert!(scene.service.sender.queue.is_waiting(id));
    assert_eq!(told.charged() + told.borne(), wei(USUAL, GWEI));
    let of_it: Vec<_> = told.changes.iter().filter(|change| change.id == id).map(|change| change.to).collect();
    assert_eq!(of_it, [Status::Queued, Status::Queued]);
}

/// The cost that no member bears is the tenant's: reserved after inclusion, charged once at finality.
#[tokio::test]
async fn an_account_is_charged_once_however_early_somebody_leaves() {
    let mut scene = Scene::new().await;
    // Two are skipped, so that neither is found to be the culprit.
    let receipt = Scene::receipt(0, 3_000_000, GWEI, &[&scene.all[0]]);
    let before = scene.free();
    scene.included(0, &[0, 1, 2], &receipt);
    let held = scene.free();
    assert!(held < before, "nothing else is paid with it");
    let told = scene.shown(&[1, 2]).expect("both leave");
    assert_eq!(told.changes.len(), 2);
    assert_eq!((scene.free(), told.bill.is_none()), (held, true), "nothing is charged yet");
    let drawn = [scene.spent(1), scene.spent(2)];
    let ids = [scene.id(1), scene.id(2)];
    let told = scene.settled(0, Some(receipt));
    assert!(told.borne() > U256::ZERO);
    assert_eq!((before - scene.free(), before - held), (told.borne(), told.borne()), "once");
    assert_eq!(told.charged() + told.borne(), wei(3_000_000, GWEI));
    assert_eq!(ids.map(|id| told.of(id).unwrap().charged_wei), drawn, "as was drawn");
    assert_eq!([scene.spent(1), scene.spent(2)], drawn, "not twice");
    // They are executed in a transaction of their own.
    let again = Scene::receipt(1, USUAL, GWEI, &[&scene.all[1], &scene.all[2]]);
    scene.included(1, &[1, 2], &again);
    scene.settled(1, Some(again));
    scene.go_on().await;
    assert_eq!(scene.free() + wei(3_000_000 + USUAL, GWEI), U256::from(BUDGET), "all that left the lane, once");
}

/// A user's nonce without a majority may get one later: it is queried again, at growing intervals.
#[tokio::test]
async fn a_nonce_that_no_majority_tells_is_asked_for_again() {
    let mut scene = Scene::new().await;
    let receipt = Scene::receipt(0, USUAL, GWEI, &[&scene.all[0]]);
    scene.included(0, &[0, 1, 2], &receipt);
    scene.flight().mined.as_mut().unwrap().ask_at = Some(BLOCK + 2);
    assert!(!scene.asks(BLOCK + 1), "not deep enough");
    assert!(scene.asks(BLOCK + 2));
    assert!(!scene.asks(BLOCK + 3), "while it is being asked");
    scene.head(BLOCK + 2);
    let told = scene.shown(&[1]).expect("one leaves");
    assert_eq!(told.changes.len(), 1);
    // Once per doubling of the depth: eight times more up to 1 000 blocks.
    let mut asked = Vec::new();
    for head in BLOCK + 3..BLOCK + 1_000 {
        if scene.asks(head) {
            asked.push(head + 1 - BLOCK);
            assert!(scene.shown(&[]).is_none());
        }
    }
    assert_eq!(asked, [6, 12, 24, 48, 96, 192, 384, 768]);
    assert!(scene.asks(BLOCK + 2_000));
    let told = scene.shown(&[2]).expect("the other one leaves at last");
    assert_eq!(told.changes.iter().map(|change| change.id).collect::<Vec<_>>(), [scene.id(2)]);
    assert!(!scene.asks(BLOCK + 10_000), "nothing is left to ask");
}

/// An answer to a query before a reorg does not apply to the block that holds the transaction now, which is not deep
/// yet.
#[tokio::test]
async fn an_answer_about_another_block_lets_nobody_go() {
    let mut scene = Scene::new().await;
    let receipt = Scene::receipt(0, USUAL, GWEI, &[&scene.all[0]]);
    scene.included(0, &[0, 1, 2], &receipt);
    let user = |user: usize| scene.all[user].sequence().map(|(forwarder, signer, nonce)| ((forwarder, signer), nonce));
    let unused: Vec<_> = [1, 2].into_iter().filter_map(user).collect();
    assert!(scene.shown_in(B256::repeat_byte(0xb0), unused.clone()).is_none());
    assert!(scene.flight().gone.is_empty());
    assert!(scene.shown_in(receipt.block_hash, unused).is_some());
}

/// A member that left may be in another transaction by now, whatever is queried about the remaining ones.
#[tokio::test]
async fn who_left_is_not_taken_out_of_where_it_is() {
    let mut scene = Scene::new().await;
    let receipt = Scene::receipt(0, USUAL, GWEI, &[&scene.all[0]]);
    scene.included(0, &[0, 1, 2], &receipt);
    scene.shown(&[1]).expect("it leaves");
    let (spent, id) = (scene.spent(1), scene.id(1));
    assert!(scene.service.sender.queue.is_waiting(id));
    let entry = scene.service.sender.queue.remove(id, false).unwrap();
    let lane = scene.service.sender.lanes[0].machine.id();
    scene.service.sender.queue.push_in_flight(vec![entry], lane, 0);
    // Its user is in the answer again.
    let told = scene.shown(&[1, 2]).expect("the other one leaves");
    assert_eq!(told.changes.iter().map(|change| change.id).collect::<Vec<_>>(), [scene.id(2)]);
    assert!(!scene.service.sender.queue.is_waiting(id));
    assert_eq!(scene.spent(1), spent);
}

/// Two transactions of one target surprise at the same time: each counts once, though reported again at finality.
#[tokio::test]
async fn surprises_that_overlap_count_once_each() {
    let mut scene = Scene::new().await;
    let receipts = [0, 1].map(|nonce| Scene::receipt(nonce, USUAL, GWEI, &[]));
    for (nonce, receipt) in (0_u8..).zip(&receipts) {
        scene.included(nonce.into(), &[nonce.into()], receipt);
        scene.service.act(|sender| sender.show(clock::now(), 0, nonce.into(), &[MemberOutcome::Untouched], receipt));
    }
    for (nonce, receipt) in (0_u8..).zip(&receipts) {
        let (forwarder, signer, own) = scene.all[usize::from(nonce)].sequence().unwrap();
        let unused = vec![((forwarder, signer), own)];
        let shown = LeftOut { lane: 0, nonce: nonce.into(), block_hash: receipt.block_hash, is_shown: true, unused };
        scene.service.act(|sender| sender.on_left_out(clock::now(), &shown));
        scene.told().expect("it leaves");
    }
    for (nonce, receipt) in (0..).zip(receipts) {
        scene.settled(nonce, Some(receipt));
    }
    // Two 64ths of a day, not eight.
    let in_minutes = |minutes: u64| clock::now().saturating_add(std::time::Duration::from_secs(60 * minutes));
    let is_suspect = |at| scene.service.sender.queue.is_suspect(Address::repeat_byte(0xaa), at);
    assert!(is_suspect(in_minutes(44)));
    assert!(!is_suspect(in_minutes(46)));
}

/// Several transactions burn gas before any is final: budget that pays for one is not available for the next, which
/// uses its members' remaining reservations.
#[tokio::test]
async fn the_same_free_budget_pays_for_one_transaction_only() {
    let mut scene = Scene::new().await;
    let (all, before) = (wei(3_500_000, GWEI), scene.free());
    // The first uses up nearly all of the free budget: its lone member is the culprit, and pays its remaining
    // reservation.
    let burnt = u64::try_from(before / U256::from(GWEI)).unwrap();
    let first = Scene::receipt(0, burnt, GWEI, &[]);
    scene.included(0, &[0], &first);
    let left = scene.free();
    assert!(left > U256::ZERO && left < all, "{left}");
    let second = Scene::receipt(1, 3_500_000, GWEI, &[]);
    scene.included(1, &[1, 2], &second);
    assert_eq!(scene.free(), U256::ZERO);
    // A reorg releases it, and so does the settlement.
    scene.service.act(|sender| sender.unpend(0, 1));
    assert_eq!(scene.free(), left);
    scene.service.act(|sender| sender.pend(clock::now(), 0, 1));
    let told = scene.settled(0, Some(first));
    assert_eq!(told.charged() + told.borne(), wei(burnt, GWEI));
    assert_eq!(scene.free(), U256::ZERO);
    let told = scene.settled(1, Some(second));
    assert_eq!((told.charged(), told.borne()), (all - left, left), "its members bear what is not free");
}

/// The forwarder executes a user's requests in order: a request behind one in no transaction would be skipped, and pay
/// for it.
#[tokio::test]
async fn nobody_is_sent_behind_who_is_held_or_waits_to_know() {
    let mut scene = Scene::new().await;
    let (first, now) = (scene.id(0), clock::now());
    let next = request(1, 1, Address::repeat_byte(0xaa));
    let (forwarder, signer, nonce) = next.sequence().unwrap();
    assert_eq!(scene.all[0].sequence(), Some((forwarder, signer, nonce - 1)));
    let entry = scene.service.sender.queue.get(first).unwrap().clone();
    scene.service.sender.queue.push(QueuedRequest { request: Arc::clone(&next), seq: 9, ..entry });
    scene.service.sender.queue.set_chain_nonce(forwarder, signer, 0);
    scene.head(100);
    let lane = scene.service.sender.lanes[0].machine.id();
    let limits = scene.service.sender.limits(now).unwrap();
    let mut kept = |held: Vec<RequestId>, undecided: BTreeSet<RequestId>| {
        let service = &mut scene.service;
        (service.sender.held, service.sender.undecided) = (held, undecided);
        let later = now.saturating_add(std::time::Duration::from_secs(5));
        let selection =
            service.sender.queue.compose(later, lane, &limits, service.sender.fees.outlook()).expect("it waits");
        assert_eq!(selection.members, [next.id()]);
        let candidate = service.sender.candidate(now, 0, selection);
        let is_kept = service.sender.keep_valid(now, candidate).is_none();
        assert_eq!(service.sender.held.contains(&next.id()), is_kept);
        service.sender.queue.put_back(next.id());
        is_kept
    };
    assert!(kept(vec![first], BTreeSet::new()));
    assert!(kept(Vec::new(), BTreeSet::from([first])));
    assert!(!kept(Vec::new(), BTreeSet::new()), "in a transaction it may be followed");
}
