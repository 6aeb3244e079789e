//! One service with a real ledger and journal, whose transactions enter and leave blocks.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, B256, Bytes, Log, U256};
use alloy_sol_types::SolEvent as _;
use slackwater_contracts::forwarder::ExecutedForwardRequest;
use tokio_util::sync::CancellationToken;

use crate::{
    chain::Fees,
    lane::{AttemptKey, Event, HeadInfo, Plan, PollPurpose},
    ledger::{BatchRecord, BatchState, GroupCommit, GroupCommitConfig, NewRequest, Write},
    policy::{Budget, OpenLimits, TenantPolicy},
    relay::{
        admission::tenants::Tenants,
        chain::{
            journal::Journal,
            service::{ChainService, Done},
        },
        clock,
        nodes::simulate::tests::{FORWARDER, request},
        start::{assemble::tests::service, restore::queued},
    },
    request::{
        Status, VerifiedRequest,
        outcome::TxReceipt,
        vehicle::{Contracts, VehicleKey},
    },
    sender::{Flight, Input, LeftOut, Price},
};

const GWEI: u128 = 1_000_000_000;
const BLOCK: u64 = 100;
const BUDGET: u128 = 1_000_000_000 * GWEI;
/// Gas that the members use by themselves, as simulated.
const OWN_GAS: [u64; 3] = [30_000, 31_000, 32_000];

/// Three users' requests in a sent transaction.
struct Scene {
    service: ChainService,
    all: Vec<Arc<VerifiedRequest>>,
    tenants: Arc<Tenants>,
    directory: tempfile::TempDir,
    /// The account's nonce at the next start.
    latest: u64,
}

fn tenants() -> Arc<Tenants> {
    let budget = Some(Budget { limit_wei: U256::from(BUDGET), period: std::time::Duration::ZERO });
    let policy = TenantPolicy::new("shop").with(|it| it.budget = budget);
    let tenants = BTreeMap::from([("shop".to_owned(), policy)]);
    Arc::new(Tenants::new(tenants, OpenLimits::default(), false))
}

/// The service on the ledger in `directory`, with its journal at work and its lane ready.
async fn start(directory: &tempfile::TempDir, tenants: &Arc<Tenants>, latest: u64) -> ChainService {
    let (mut service, mut entries) = service(&directory.path().join("ledger.db"), tenants).await;
    let (group, _) = GroupCommit::spawn(service.ledger.clone(), GroupCommitConfig::default());
    let (journal, sender) = Journal::open(group, "test");
    tokio::spawn(journal.run(CancellationToken::new()));
    tokio::spawn(async move {
        while let Some(entry) = entries.recv().await {
            let _ = sender.send(entry).await;
        }
    });
    let quote = Fees { max_fee_per_gas: 2 * GWEI, max_priority_fee_per_gas: 0 };
    service.sender.price = Some(Price { next_base_fee: GWEI, quote });
    let head = HeadInfo { number: BLOCK, timestamp_s: 0, next_base_fee: GWEI, quote, final_block: None };
    service.sender.head = Some(head);
    for event in [
        Event::AccountNonce { latest, finalized: Some(0) },
        Event::Head(head),
        Event::Balance(U256::from(1_000_000_000_000_000_000_u128)),
    ] {
        service.act(|sender| sender.lane_event(clock::now(), 0, event));
    }
    service
}

impl Scene {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tenants = tenants();
        let mut service = start(&directory, &tenants, 0).await;
        let all: Vec<_> = (1..4).map(|user| request(user, 0, Address::repeat_byte(0xaa))).collect();
        let params = service.shared.params;
        let lane = service.sender.lanes[0].machine.id();
        for request in &all {
            let new = NewRequest {
                id: request.id(),
                tenant: "shop".to_owned(),
                chain_id: 1,
                kind: "forward",
                sequence: request.sequence(),
                target: request.target(),
                deadline: request.deadline(),
                valid_until: request.valid_until(),
                accepted_at: clock::now(),
                reserved_wei: U256::from(params.reserved_gas(params.member_gas(request))) * U256::from(10 * GWEI),
                price_percent: 100,
                ceiling_wei_per_gas: 10 * GWEI,
                payload: request.to_stored(),
                promise_signature: Bytes::new(),
                quote: "{}".to_owned(),
                idempotency: None,
                submitted_by: None,
                budget: None,
                takes_over: false,
            };
            service.ledger.commit(vec![Write::Accept(Box::new(new))]).await.unwrap();
            let record = service.ledger.request(request.id()).await.unwrap().unwrap();
            let entry = queued(&params, &tenants, "shop".into(), &record, (**request).clone());
            service.sender.queue.push_in_flight(vec![entry], lane, 0);
        }
        let key = VehicleKey::of_members(&all, Contracts::all(true));
        let payload = params.payload(key, &all);
        let plan = Plan {
            payload: payload.clone(),
            deadline: all[0].valid_until(),
            ceiling_wei_per_gas: 10 * GWEI,
            extra_wei: U256::ZERO,
            is_guarded: true,
            is_alone: false,
        };
        let id = service.sender.lanes[0].machine.submit(clock::now(), plan).unwrap();
        let record = BatchRecord {
            id,
            state: BatchState::Signed,
            to: payload.to,
            value: payload.value,
            gas_limit: payload.gas_limit,
            deadline: all[0].valid_until(),
            ceiling_wei_per_gas: 10 * GWEI,
            trigger: "full".to_owned(),
            created_at: clock::now(),
            included_hash: None,
            block: None,
            gas_used: None,
            cost_wei: None,
        };
        let mut flight = Flight::new(key, all.clone(), OWN_GAS.to_vec(), record);
        flight.tenant = service.sender.tenant_of(&all);
        service.sender.lanes[0].flights.insert(0, flight);
        service.act(|sender| sender.drain(0));
        let mut scene = Self { service, all, tenants, directory, latest: 0 };
        scene.go_on().await;
        assert_eq!(scene.attempt().len(), 1, "it is signed and durable");
        scene
    }

    /// Ends the service and starts another on the same ledger.
    async fn restart(&mut self) {
        self.service.ledger.close().await;
        let other = tempfile::tempdir().unwrap();
        drop(std::mem::replace(&mut self.service, start(&other, &self.tenants, 0).await));
        self.tenants = tenants();
        self.service = start(&self.directory, &self.tenants, self.latest).await;
    }

    /// Runs all tasks to their end, with their consequences.
    async fn go_on(&mut self) {
        while let Some(done) = self.service.tasks.join_next().await {
            self.service.on_done(done.unwrap());
        }
    }

    /// Raw bytes of the attempts.
    fn attempt(&self) -> Vec<Bytes> {
        self.service.sender.lanes[0].durable.values().map(|attempt| attempt.get().raw.clone()).collect()
    }

    fn members(&self) -> Vec<Arc<VerifiedRequest>> {
        self.service.sender.lanes[0].flights[&0].members.clone()
    }

    /// A receipt of the transaction in a block that executed `executed`.
    fn receipt(&self, executed: &[usize]) -> TxReceipt {
        let log = |user: &usize| {
            let (_, signer, nonce) = self.all[*user].sequence().unwrap();
            let event = ExecutedForwardRequest { signer, nonce: U256::from(nonce), success: true };
            Log { address: FORWARDER, data: event.encode_log_data() }
        };
        TxReceipt {
            hash: self.service.sender.lanes[0].durable[&AttemptKey { nonce: 0, index: 0 }].get().hash,
            block_number: BLOCK,
            block_hash: B256::repeat_byte(0xb1),
            is_success: true,
            gas_used: 300_000,
            effective_gas_price: GWEI,
            extra_fee_wei: U256::ZERO,
            logs: executed.iter().map(log).collect(),
        }
    }

    async fn told(&mut self, purpose: PollPurpose, receipt: TxReceipt) {
        let event = Event::AccountNonce { latest: 1, finalized: None };
        self.service.act(|sender| sender.lane_event(clock::now(), 0, event));
        let (nonce, found) = (0, Some(Box::new(receipt)));
        let event = Event::Receipts { nonce, purpose, found, is_complete: true, at_block: BLOCK };
        self.service.act(|sender| sender.lane_event(clock::now(), 0, event));
    }

    /// Asserts that only outlines, and no bytes, are in memory.
    fn assert_stowed(&self) {
        assert!(self.members().iter().all(|member| member.is_outline() && member.data().is_empty()));
        for request in &self.all {
            assert!(self.service.sender.queue.get(request.id()).unwrap().request.is_outline());
        }
        assert!(self.attempt().iter().all(|raw| raw.is_empty()));
    }

    /// Time passes without a block that has the transaction, so that it is sent again.
    async fn wait_long(&mut self) {
        let Some(head) = self.service.sender.head else { panic!("a head") };
        let unused = Event::AccountNonce { latest: 0, finalized: Some(0) };
        self.service.act(|sender| sender.lane_event(clock::now(), 0, unused));
        for number in BLOCK + 1..BLOCK + 50 {
            self.service.act(|sender| sender.lane_event(clock::now(), 0, Event::Head(HeadInfo { number, ..head })));
        }
    }

    fn queued(&self, user: usize) -> Arc<VerifiedRequest> {
        self.service.sender.queue.get(self.all[user].id()).unwrap().request.clone()
    }
}

#[tokio::test]
async fn what_is_in_a_block_keeps_its_bytes_in_the_ledger_until_it_is_sent_again() {
    let mut scene = Scene::new().await;
    let raw = scene.attempt();
    let receipt = scene.receipt(&[0, 1, 2]);
    scene.told(PollPurpose::Inclusion, receipt.clone()).await;
    scene.assert_stowed();
    scene.go_on().await;
    let event = Event::Canonical { number: BLOCK, hash: B256::repeat_byte(0xb2) };
    scene.service.act(|sender| sender.lane_event(clock::now(), 0, event));
    scene.go_on().await;
    let status = scene.service.ledger.request(scene.all[0].id()).await.unwrap().unwrap().status;
    assert_eq!(status, Status::Broadcast, "a reorg removed its block");
    scene.assert_stowed();
    scene.wait_long().await;
    scene.assert_stowed();
    // If the ledger can't be read, the next head retries.
    scene.service.act(|sender| sender.on_fetched(0, 0, None));
    scene.service.act(|sender| sender.fetch_again());
    scene.go_on().await;
    assert_eq!(scene.attempt()[..raw.len()], raw);
    assert!(scene.attempt().iter().all(|raw| !raw.is_empty()), "replacements have bytes too");
    scene.told(PollPurpose::Inclusion, receipt).await;
    scene.assert_stowed();
}

/// It may be from an abandoned branch, or invented: then the other nodes are asked too.
#[tokio::test]
async fn a_receipt_that_does_not_fit_the_chain_is_a_majoritys_matter() {
    let mut scene = Scene::new().await;
    let event = Event::AccountNonce { latest: 1, finalized: None };
    scene.service.act(|sender| sender.lane_event(clock::now(), 0, event));
    let truth = scene.receipt(&[0, 1, 2]);
    let (lane, nonce, at_block) = (0, 0, BLOCK);
    scene.service.sender.canonical.insert(BLOCK, truth.block_hash);
    if let Some(head) = &mut scene.service.sender.head {
        head.final_block = Some(BLOCK - 10);
    }
    let other = TxReceipt { block_hash: B256::repeat_byte(0xb2), ..truth.clone() };
    let tolerance = scene.service.shared.pool.head_rule().tolerance();
    let above = TxReceipt { block_number: BLOCK + tolerance + 1, ..truth.clone() };
    let below = TxReceipt { block_number: BLOCK - 10, ..truth.clone() };
    for odd in [other.clone(), above, below] {
        let (purpose, found) = (PollPurpose::Inclusion, Some(Box::new(odd)));
        let before = scene.service.tasks.len();
        let told =
            Done::Input(Input::Receipts { lane, nonce, purpose, found, is_complete: true, at_block, stranger: None });
        scene.service.on_done(told);
        assert_eq!((scene.service.sender.lanes[0].machine.unfinal(), scene.service.tasks.len()), (0, before + 1));
    }
    // A majority is on the abandoned branch.
    for (found, is_believed) in [(other, false), (truth, true)] {
        scene.service.on_done(Done::Input(Input::Agreed { lane, nonce, at_block, found: Some(Box::new(found)) }));
        assert_eq!(scene.service.sender.lanes[0].machine.unfinal(), usize::from(is_believed));
    }
}

/// Another block left it out, and a majority confirms it.
#[tokio::test]
async fn the_payload_of_a_request_that_returns_is_read_when_it_is_composed() {
    let mut scene = Scene::new().await;
    scene.told(PollPurpose::Inclusion, scene.receipt(&[0, 1, 2])).await;
    scene.go_on().await;
    let block_hash = B256::repeat_byte(0xb2);
    let receipt = TxReceipt { block_hash, ..scene.receipt(&[0, 1]) };
    scene.told(PollPurpose::Inclusion, receipt).await;
    scene.go_on().await;
    scene.assert_stowed();
    let (forwarder, signer, nonce) = scene.all[2].sequence().unwrap();
    let unused = vec![((forwarder, signer), nonce)];
    let left_out = LeftOut { lane: 0, nonce: 0, block_hash, is_shown: true, unused };
    scene.service.act(|sender| sender.on_left_out(clock::now(), &left_out));
    scene.go_on().await;
    assert!(scene.service.sender.queue.is_waiting(scene.all[2].id()) && scene.queued(2).is_outline());
    scene.service.on_done(Done::Input(Input::Rechecked(vec![((forwarder, signer), nonce)])));
    let due = scene.service.sender.queue.get(scene.all[2].id()).unwrap().due;
    scene.service.sender.dispatch(due.saturating_sub(std::time::Duration::from_millis(1)));
    scene.service.go_on();
    assert!(scene.service.sender.lanes[0].is_composing, "its payload is read");
    let done = scene.service.tasks.join_next().await.unwrap().unwrap();
    assert!(matches!(&done, Done::Input(Input::Loaded { found: Some(found), .. }) if *found == [scene.all[2].clone()]));
    // The ledger could not be read, or has lost the payload: it waits, and neither stops the lane.
    for found in [None, Some(Vec::new())] {
        let Done::Input(Input::Loaded { lane, selection, .. }) = &done else { panic!("{done:?}") };
        let selection = selection.clone();
        scene.service.on_done(Done::Input(Input::Loaded { lane: *lane, selection, found }));
        assert!(scene.queued(2).is_outline() && !scene.service.sender.lanes[0].is_composing);
    }
    assert_eq!(scene.service.sender.held, [scene.all[2].id()]);
    scene.service.on_done(done);
    assert_eq!(scene.queued(2), scene.all[2]);
    assert!(scene.queued(0).is_outline() && scene.queued(1).is_outline(), "the others are in a block");
}

#[tokio::test]
async fn a_restart_reads_outlines_of_what_is_in_a_block_and_sends_the_same_bytes_again() {
    let mut scene = Scene::new().await;
    let raw = scene.attempt();
    let receipt = scene.receipt(&[0, 1, 2]);
    scene.told(PollPurpose::Inclusion, receipt).await;
    scene.go_on().await;
    scene.restart().await;
    scene.assert_stowed();
    // No node shows it in a block any more.
    scene.wait_long().await;
    scene.go_on().await;
    assert_eq!(scene.attempt()[..raw.len()], raw);
}

/// As before the restart, each member pays its own gas, and the tenant's free budget pays for the gas burnt beyond
/// that.
#[tokio::test]
async fn a_restart_divides_a_transactions_cost_as_before() {
    let mut scene = Scene::new().await;
    let receipt = scene.receipt(&[0, 1, 2]);
    scene.told(PollPurpose::Inclusion, receipt.clone()).await;
    scene.go_on().await;
    let held = |scene: &Scene| scene.service.sender.lanes[0].flights[&0].pending.as_ref().map(|pending| pending.wei);
    let (base_gas, before) = (scene.service.shared.params.schedule.tx_base_gas, held(&scene));
    let burnt = receipt.gas_used - base_gas - OWN_GAS.iter().sum::<u64>();
    assert_eq!(before, Some(U256::from(burnt) * U256::from(GWEI)));
    scene.latest = 1;
    scene.restart().await;
    assert_eq!(scene.service.sender.lanes[0].flights[&0].weights, OWN_GAS);
    let reserved = scene.all.iter().map(|member| scene.service.sender.queue.get(member.id()).unwrap().reserved_wei);
    let left = U256::from(BUDGET) - reserved.fold(U256::ZERO, |sum, wei| sum + wei) - before.unwrap();
    assert_eq!(held(&scene), before, "before a node tells the receipt again");
    assert_eq!(scene.tenants.free("shop", 1, clock::now()), left);
    let decisions = async |scene: &Scene| scene.service.ledger.decisions(0, 1_000).await.unwrap().len();
    scene.go_on().await;
    let written = decisions(&scene).await;
    scene.told(PollPurpose::Inclusion, receipt).await;
    assert_eq!((held(&scene), scene.tenants.free("shop", 1, clock::now())), (before, left), "held once");
    scene.go_on().await;
    assert_eq!(decisions(&scene).await, written, "what the ledger has is not written again");
}

#[tokio::test]
async fn a_start_remembers_who_had_left_a_block_that_was_taken_back() {
    for left in [&[2][..], &[0, 1, 2]] {
        let mut scene = Scene::new().await;
        let executed: Vec<usize> = (0..3).filter(|user| !left.contains(user)).collect();
        let receipt = scene.receipt(&executed);
        let block_hash = receipt.block_hash;
        scene.told(PollPurpose::Inclusion, receipt).await;
        let user = |user: &usize| {
            let (forwarder, signer, nonce) = scene.all[*user].sequence().unwrap();
            ((forwarder, signer), nonce)
        };
        let unused = left.iter().map(user).collect();
        scene.service.act(|sender| {
            sender.on_left_out(clock::now(), &LeftOut { lane: 0, nonce: 0, block_hash, is_shown: true, unused })
        });
        scene.go_on().await;
        let event = Event::Canonical { number: BLOCK, hash: B256::repeat_byte(0xb2) };
        scene.service.act(|sender| sender.lane_event(clock::now(), 0, event));
        scene.go_on().await;
        scene.restart().await;
        for (user, request) in scene.all.iter().enumerate() {
            let (id, has_left) = (request.id(), left.contains(&user));
            assert_eq!(scene.service.sender.queue.is_waiting(id), has_left, "{left:?}, {user}");
            assert_eq!(
                scene.service.sender.is_entangled(id),
                has_left,
                "that transaction may still execute it: {left:?}, {user}"
            );
        }
    }
}
