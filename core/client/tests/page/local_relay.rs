//! The local relay on a scripted chain: lost, late, duplicate and malformed answers, failing writes, crashes between
//! any two commands, reorgs, evictions, fee spikes, third-party transactions with the same key. Invariants are checked
//! as it goes; once the faults stop, every request must end.
//!
//! A run is determined by its seed: every failure prints it.

use std::time::Duration;

use alloy_primitives::{Bytes, U256};
use slackwater_client::local::{LocalAsk, LocalConfig, LocalError, LocalRelay, LocalTiming, SessionKey};
use slackwater_core::{
    chain::FinalityRule,
    request::{Call, ForwarderDomain, Reason, Status},
};

use crate::world::{
    Faults, World,
    chain::{self, BROKEN, GWEI, TARGET},
    config,
    random::{Outcome, Plan},
};

const LONG: Duration = Duration::from_secs(600);

fn calm() -> World {
    World::new(1, Faults::default(), config())
}

#[test]
fn several_users_share_a_transaction() {
    let mut world = calm();
    let ids: Vec<_> = [0, 1, 2, 0].into_iter().map(|user| world.forward(user, TARGET, LONG, None)).collect();
    world.until("all final", 5_000, World::all_ended);
    assert!(ids.iter().all(|id| world.status(*id) == Status::Finalized));
    let hashes: std::collections::BTreeSet<_> =
        ids.iter().map(|id| world.relay.request(*id).unwrap().tx_hash).collect();
    assert_eq!(hashes.len(), 1, "one transaction");
    let costs: U256 = ids.iter().map(|id| world.relay.request(*id).unwrap().cost_wei.unwrap()).sum();
    assert!(costs > U256::ZERO);
    world.check_rest();
    assert_eq!(world.relay.next_timeout().map(|at| at > world.now), Some(true), "nothing but forgetting is left");
    assert!(ids.iter().all(|id| world.relay.acknowledge(*id)));
    assert_eq!(world.relay.requests(), []);
    world.until("an idle relay asks nothing", 1_000, |world| world.relay.next_timeout().is_none());
}

#[test]
fn a_poison_item_harms_only_itself() {
    for has_simulate in [true, false] {
        let mut world = calm();
        world.chain.has_simulate = has_simulate;
        let good = [world.forward(0, TARGET, LONG, None), world.forward(1, TARGET, LONG, None)];
        let bad = world.forward(2, BROKEN, LONG, None);
        let behind = world.forward(2, TARGET, LONG, None);
        let call = world.call(BROKEN, LONG, None);
        world.until("all ended", 20_000, World::all_ended);
        assert!(good.iter().all(|id| world.status(*id) == Status::Finalized));
        // If the batch can't be simulated, each member's own call reveals it: nothing is paid for.
        assert_eq!((world.status(bad), world.reason(bad)), (Status::Rejected, Some(Reason::SimulationReverted)));
        assert_eq!(world.status(behind), Status::Rejected);
        assert_eq!((world.status(call), world.reason(call)), (Status::Rejected, Some(Reason::SimulationReverted)));
        world.check_rest();
    }
}

#[test]
fn a_spike_leads_to_a_replacement_within_the_ceiling() {
    let mut world = calm();
    let id = world.call(TARGET, LONG, Some(61_000 * 400 * GWEI + 5));
    world.until("sent", 5_000, |world| world.status(id) == Status::Broadcast);
    world.chain.base_fee = 200 * GWEI;
    world.until("final", 20_000, World::all_ended);
    assert_eq!(world.status(id), Status::Finalized);
    assert!(world.sends > 1);
    assert_eq!(world.chain.refused_replacements, 0, "I6");
    world.check_rest();
}

#[test]
fn a_ceiling_that_is_too_low_waits_and_expires() {
    let mut world = calm();
    let id = world.call(TARGET, Duration::from_secs(30), Some(61_000 * GWEI / 2 + 5));
    world.until("expired", 5_000, World::all_ended);
    assert_eq!((world.status(id), world.sends), (Status::Expired, 0));
    world.check_rest();
}

#[test]
fn nothing_is_sent_after_the_deadline_and_the_nonce_is_freed() {
    let mut world = World::new(3, Faults { empty_block: 100, ..Faults::default() }, config());
    let id = world.call(TARGET, Duration::from_secs(20), None);
    world.until("sent", 2_000, |world| world.status(id) == Status::Broadcast);
    let late = world.now.saturating_add(Duration::from_secs(30));
    world.until("past the deadline", 5_000, |world| world.now > late);
    world.faults = Faults::default();
    world.until("expired", 5_000, World::all_ended);
    assert_eq!((world.status(id), world.reason(id)), (Status::Expired, Some(Reason::DeadlinePassed)));
    // The nonce is free for the next one.
    let next = world.call(TARGET, LONG, None);
    world.until("final", 5_000, World::all_ended);
    assert_eq!(world.status(next), Status::Finalized);
    world.check_rest();
}

#[test]
fn what_is_stored_after_its_deadline_leaves_nothing_behind() {
    let mut world = World::new(3, Faults { failed_write: 100, ..Faults::default() }, config());
    let id = world.call(TARGET, Duration::from_secs(20), None);
    let late = world.now.saturating_add(Duration::from_secs(30));
    world.until("past the deadline", 5_000, |world| world.now > late);
    assert!(world.alerts.contains("storage_failed"), "{:?}", world.alerts);
    world.faults = Faults::default();
    world.until("expired", 5_000, World::all_ended);
    assert_eq!((world.status(id), world.reason(id)), (Status::Expired, Some(Reason::DeadlinePassed)));
    world.check_rest();
    // Nothing needs a cancel after the next start.
    world.crash();
    world.until("idle", 2_000, |world| world.relay.next_timeout().is_none_or(|at| at > world.now));
    assert_eq!(world.sends, 0);
}

#[test]
fn an_offline_request_expires_by_the_clock() {
    let mut world = World::new(4, Faults { lost_call: 100, ..Faults::default() }, config());
    let id = world.forward(0, TARGET, Duration::from_secs(20), None);
    world.until("expired", 5_000, World::all_ended);
    assert_eq!((world.status(id), world.sends), (Status::Expired, 0));
}

#[test]
fn a_reorg_takes_an_inclusion_back() {
    let mut world = calm();
    let id = world.forward(0, TARGET, LONG, None);
    world.until("included", 5_000, |world| world.status(id) == Status::Included);
    let now_s = world.now.as_secs();
    let depth = world.chain.height() + 1 - world.relay.request(id).unwrap().block_number.unwrap();
    world.chain.reorg(depth, false, now_s);
    world.until("taken back", 5_000, |world| world.status(id) == Status::Broadcast);
    world.until("final", 5_000, World::all_ended);
    assert_eq!(world.status(id), Status::Finalized);
    world.check_rest();
}

#[test]
fn many_blocks_become_final_at_once() {
    let finality = FinalityRule::FinalizedTag { fallback_depth: 0 };
    let mut world = World::new(6, Faults::default(), LocalConfig { finality, ..config() });
    world.chain.epoch = 32;
    let ids = [world.forward(0, TARGET, LONG, None), world.call(TARGET, LONG, None)];
    world.until("included", 5_000, |world| ids.iter().all(|id| world.status(*id) == Status::Included));
    world.until("final", 5_000, World::all_ended);
    assert!(ids.iter().all(|id| world.status(*id) == Status::Finalized));
    world.check_rest();
}

#[test]
fn a_stranger_with_the_key_costs_a_nonce_and_nothing_else() {
    let mut world = World::new(5, Faults { empty_block: 100, ..Faults::default() }, config());
    let call = world.call(TARGET, LONG, None);
    world.until("sent", 2_000, |world| world.status(call) == Status::Broadcast);
    let now_s = world.now.as_secs();
    world.chain.stranger(now_s);
    world.faults = Faults::default();
    world.until("queued again", 5_000, |world| world.status(call) == Status::Queued);
    assert_eq!(world.reason(call), Some(Reason::LaneNonceTaken));
    world.until("final", 5_000, World::all_ended);
    assert_eq!(world.status(call), Status::Finalized);
    assert!(world.alerts.contains("nonce_lost"));
    world.check_rest();
}

#[test]
fn a_user_who_used_the_nonce_elsewhere_is_told_at_finality() {
    let mut world = calm();
    let first = world.forward(0, TARGET, LONG, None);
    world.until("final", 5_000, World::all_ended);
    // The same nonce again, with different content.
    world.users[0].1 = 0;
    let second = world.forward(0, BROKEN, LONG, None);
    assert_ne!(first, second);
    world.until("rejected", 10_000, World::all_ended);
    assert_eq!((world.status(second), world.reason(second)), (Status::Rejected, Some(Reason::NonceUsedElsewhere)));
    world.check_rest();
}

#[test]
fn only_what_is_queued_can_be_cancelled() {
    let mut world = World::new(6, Faults { lost_call: 100, ..Faults::default() }, config());
    let (first, second) = (world.forward(0, TARGET, LONG, None), world.forward(0, TARGET, LONG, None));
    world.relay.cancel(world.now, first).unwrap();
    assert!(
        matches!(world.relay.cancel(world.now, first), Err(LocalError::TooLate { .. })),
        "it is on its way to its end"
    );
    world.until("ended", 100, World::all_ended);
    assert_eq!((world.status(first), world.status(second)), (Status::Cancelled, Status::Rejected));
    assert_eq!(world.reason(second), Some(Reason::PredecessorFailed));
    world.faults = Faults::default();
    let sent = world.call(TARGET, LONG, None);
    world.until("sent", 2_000, |world| world.status(sent) == Status::Broadcast);
    let refused = world.relay.cancel(world.now, sent).unwrap_err();
    assert_eq!(refused.code(), "too_late");
    world.until("ended", 5_000, World::all_ended);
    world.check_rest();
}

#[test]
fn a_call_is_cancelled_even_while_it_is_simulated() {
    let mut world = calm();
    let id = world.call(TARGET, LONG, None);
    // Until its simulation is requested, at the latest.
    world.until("a look", 200, |world| world.relay.account().waiting == 1 && world.now.0 > 1_000_020_000);
    if world.relay.cancel(world.now, id).is_ok() {
        world.until("ended", 2_000, World::all_ended);
        assert_eq!((world.status(id), world.sends), (Status::Cancelled, 0));
    }
}

#[test]
fn a_top_up_resumes() {
    let mut world = calm();
    world.chain.balance = U256::from(1);
    let id = world.call(TARGET, LONG, None);
    world.until("underfunded", 5_000, |world| world.alerts.contains("underfunded"));
    assert!(world.relay.account().is_underfunded);
    assert_eq!(world.sends, 0);
    world.chain.balance = U256::from(10).pow(U256::from(20));
    world.until("final", 10_000, World::all_ended);
    assert_eq!(world.status(id), Status::Finalized);
    world.check_rest();
}

#[test]
fn a_balance_that_just_pays_for_a_call_is_enough() {
    let mut world = calm();
    // 62 147 gas at twice 10 gwei; a batch would need 30 000 more.
    world.chain.balance = U256::from(1_400_000 * GWEI);
    let id = world.call(TARGET, LONG, None);
    world.until("final", 10_000, World::all_ended);
    assert_eq!(world.status(id), Status::Finalized);
    assert!(!world.alerts.contains("underfunded"));
    world.check_rest();
}

#[test]
fn an_unknown_forwarder_is_refused() {
    let mut world = calm();
    let known = std::mem::replace(&mut world.chain.code, Bytes::from_static(&[0x60, 0x00]));
    let id = world.forward(0, TARGET, LONG, None);
    world.until("rejected", 5_000, World::all_ended);
    assert_eq!((world.status(id), world.reason(id), world.sends), (Status::Rejected, Some(Reason::InvalidOnChain), 0));
    // The node was lagging. It is asked again for the next request.
    world.chain.code = known;
    let id = world.forward(1, TARGET, LONG, None);
    world.until("final", 10_000, World::all_ended);
    assert_eq!(world.status(id), Status::Finalized);
}

#[test]
fn a_patient_request_waits_for_a_price() {
    let patient = LocalConfig { timing: LocalTiming::Percentile, ..config() };
    let mut world = World::new(7, Faults::default(), patient);
    world.chain.base_fee = 5 * GWEI;
    (0..30).for_each(|_| world.chain.mine(0, true));
    world.chain.base_fee = 300 * GWEI;
    let id = world.call(TARGET, Duration::from_secs(3_600), None);
    world.until("final", 50_000, World::all_ended);
    assert_eq!(world.status(id), Status::Finalized);
    let view = world.relay.request(id).unwrap();
    let price = world.chain.blocks[usize::try_from(view.block_number.unwrap()).unwrap()].base_fee;
    assert!(price < 150 * GWEI, "sent at {price}");
    world.check_rest();
}

#[test]
fn what_is_refused_at_the_door() {
    let relay = LocalRelay::new(config(), SessionKey::from_bytes(&[7; 32]).unwrap()).unwrap();
    let world = calm();
    let call = |gas: u64| {
        let (value, data, salt) = (U256::ZERO, Bytes::new(), String::new());
        LocalAsk::Call(Call { to: TARGET, value, gas: U256::from(gas), data, any_sender: false, salt })
    };
    let code = |ask, within, most, open| relay.admit(world.now, ask, within, most, open).unwrap_err().code();
    assert_eq!(code(call(0), None, None, 0), "gas_out_of_range");
    assert_eq!(code(call(1 << 30), None, None, 0), "request_too_large");
    assert_eq!(code(call(1), None, Some(U256::from(5)), 0), "ceiling_too_low");
    assert_eq!(code(call(1), Some(Duration::from_millis(1)), None, 0), "deadline_unreachable");
    assert_eq!(code(call(1), None, None, 1_000), "queue_full");
    let (signer, _) = world.users[0].clone();
    let forward = slackwater_client::ForwardBuilder::new(World::domain(), signer.address(), TARGET)
        .nonce(U256::ZERO)
        .deadline_s(world.now.as_secs() + 100)
        .build()
        .unwrap()
        .sign(&signer)
        .unwrap();
    let other = ForwarderDomain::new("Other", chain::CHAIN_ID, chain::FORWARDER);
    assert_eq!(code(LocalAsk::Forward { forward: forward.clone(), domain: other }, None, None, 0), "invalid_signature");
    let elsewhere = ForwarderDomain::new("Slackwater", 1, chain::FORWARDER);
    assert_eq!(code(LocalAsk::Forward { forward, domain: elsewhere }, None, None, 0), "wrong_chain");
    let mut bad = config();
    bad.lane.max_in_flight = 0;
    assert_eq!(LocalRelay::new(bad, SessionKey::from_bytes(&[7; 32]).unwrap()).unwrap_err().key, "max_in_flight");
}

#[test]
fn damage_is_told_and_stops_what_is_not_safe() {
    let load = |key: &str, record: &str| {
        let mut relay = LocalRelay::new(config(), SessionKey::from_bytes(&[7; 32]).unwrap()).unwrap();
        relay.load(calm().now, [(key.to_owned(), record.to_owned())])
    };
    assert_eq!(load("r:0x00", "{}").unwrap().damaged, ["r:0x00"]);
    for (key, record) in [("a:1:0", "{}"), ("a:x", "{}"), ("l", "7")] {
        assert_eq!(load(key, record).unwrap_err().code(), "storage_damaged", "{key}");
    }
    assert_eq!(load("other", "?").unwrap(), Default::default());
}

/// A few of the runs that the simulator makes by the thousand.
#[test]
fn whatever_happens_everything_ends_once() {
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..96 {
        for (what, count) in run(Plan::of(seed)).counts {
            *counts.entry(what).or_insert(0) += count;
        }
    }
    for what in ["crash", "reorg", "stranger", "user nonce spent", "earlier attempt back", "had to land"] {
        assert!(counts.contains_key(what), "no run had `{what}`: {counts:?}");
    }
}

#[test]
fn a_seed_is_a_run() {
    assert_eq!(run(Plan::of(7)).hash, run(Plan::of(7)).hash);
    assert_ne!(run(Plan::of(7)).hash, run(Plan::of(8)).hash);
}

/// Seeds that once failed: an inclusion removed by a reorg unnoticed, a nonce that a stranger had used before the batch
/// was planned, a cost that was shared again after a restart; a batch stored after its deadline, an attempt that the pool
/// dropped while its replacement was too dear for the node, a final block of another branch than the head's.
#[test]
fn old_failures() {
    for seed in
        [11_418_276_962_230_741_474, 11_764_662_679_927_963_168, 17_517_853_607_335_920_068, 3_729_202_903_239_476_154]
    {
        run(Plan::old(seed));
    }
    for seed in [2_000_292, 2_002_206, 2_010_812] {
        run(Plan::of(seed));
    }
}

fn run(plan: Plan) -> Outcome {
    let seed = plan.seed;
    let outcome = plan.run();
    let Some(violation) = &outcome.violation else { return outcome };
    panic!("{}\nseed {seed}: {violation}", outcome.lines.join("\n"))
}
