//! One run: successive processes in one world.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use slackwater::{
    ChainSetup, ForwarderSetup, Relay, RelayConfig, RpcEndpoint, Submission, SubmitError,
    tuning::{ChainTuning, TimingMode},
};
use slackwater_core::{
    chain::ChainSpec,
    policy::{Budget, KindName, TargetRule, TenantPolicy},
    protection::Protection,
    request::{Call, Status},
};
use slackwater_ledger::{GroupCommitConfig, MemoryLedger};
use tokio::time::Instant;

use crate::{
    chain::{BLOCK_GAS, BURNS, FORWARDER, GOOD, REVERTS, TRAP, op_data},
    hostile::{self, FIRST_OP, HostileSigner},
    ledger::FaultyLedger,
    node::{Shared, Wire, lock},
    payments::TOKEN,
    plan::Plan,
    rng::{Rng, mix},
    scenario::Scenario,
    signer::elsewhere,
    world::{Counts, World},
};

/// Time limit after the last deadline for everything to end, ms.
const BOUND_MS: u64 = 120_000;

/// Result of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Hash of everything that happened, in order.
    pub hash: u64,
    /// The first violation; `None` if every check held.
    pub violation: Option<String>,
    /// Events that led to it.
    pub timeline: Vec<String>,
    /// Faults and results by kind.
    pub counts: Counts,
    /// Outcome of honest tenants' operations.
    pub landed: BTreeMap<u64, Landing>,
}

/// Outcome of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landing {
    /// Final status; `None` if it was not accepted.
    pub status: Option<Status>,
    /// Block that executed it; `None` if none did.
    pub block: Option<u64>,
    /// Cost charged to its tenant, as gas at the price of its transaction, data fee included.
    pub charged_gas: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(violation) = &self.violation else { return write!(f, "seed {}: ok", self.seed) };
        writeln!(f, "seed {}: {violation}", self.seed)?;
        self.timeline.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Runs `scenario` with `seed`.
pub fn run_scenario(scenario: Scenario, seed: u64) -> Report {
    run_without(scenario, seed, None)
}

/// Runs `scenario` with `seed`, without the protection `off`. If a tenant is hostile, runs it a second time without
/// that tenant, and compares the outcomes of honest tenants (I14).
pub fn run_without(scenario: Scenario, seed: u64, off: Option<Protection>) -> Report {
    let plan = scenario.plan(seed);
    let is_compared = plan.is_paired && plan.hostility.operations > 0;
    let max_delay_blocks = plan.max_delay_blocks;
    let mut report = run(plan, seed, off);
    if !is_compared || report.violation.is_some() {
        return report;
    }
    let alone = |wants_lines| {
        let mut plan = scenario.plan(seed);
        plan.hostility.operations = 0;
        tell(plan, seed, off, wants_lines)
    };
    let other = alone(false);
    report.hash ^= other.hash.rotate_left(32);
    if other.violation.is_some() {
        return Report { hash: report.hash, ..other };
    }
    if let Some((op, violation)) = report.compare(&other, max_delay_blocks) {
        let name = format!("#{op} ");
        let wants_all = wants_all_lines();
        let is_near = |line: &String| wants_all || line.contains("block ") || format!("{line} ").contains(&name);
        let told = tell(scenario.plan(seed), seed, off, true).timeline;
        report.timeline = told.into_iter().filter(is_near).collect();
        report.timeline.push("without the hostile tenant:".to_owned());
        report.timeline.extend(alone(true).timeline.into_iter().filter(is_near));
        report.violation = Some(violation);
    }
    report
}

/// True if the timeline of a failed run should have every line.
fn wants_all_lines() -> bool {
    std::env::var_os("SIM_ALL_LINES").is_some()
}

impl Report {
    /// I14 and I13: the first operation of an honest tenant with a worse outcome than in the run `alone`.
    fn compare(&self, alone: &Self, max_delay_blocks: u64) -> Option<(u64, String)> {
        let worse = |op: u64, is: &Landing, was: &Landing| {
            if is.status != was.status {
                return Some(format!(
                    "I14: op #{op} ends {:?}, without the hostile tenant {:?}",
                    is.status, was.status
                ));
            }
            let (block, before) = (is.block?, was.block?);
            if block > before + max_delay_blocks {
                return Some(format!(
                    "I14: op #{op} is executed in block {block}, without the hostile tenant in {before}"
                ));
            }
            // Its share of an empty transaction's gas depends on the other members.
            let most = was.charged_gas + was.charged_gas / 20 + 21_000;
            let (is, was) = (is.charged_gas, was.charged_gas);
            (is > most).then(|| format!("I13: op #{op} is charged {is} gas, without the hostile tenant {was}"))
        };
        alone.landed.iter().find_map(|(op, was)| Some((*op, worse(*op, self.landed.get(op)?, was)?)))
    }
}

/// Runs `plan` with `seed`, without the protection `off`.
pub fn run(plan: Plan, seed: u64, off: Option<Protection>) -> Report {
    tell(plan, seed, off, false)
}

/// As [`run`]; with all its lines even without a violation.
fn tell(plan: Plan, seed: u64, off: Option<Protection>, wants_lines: bool) -> Report {
    Protection::switch_off(off);
    let spec = plan.spec();
    let mut world = World::new(mix(seed ^ 0x7071), hostile::generator(!seed), plan, spec.clone());
    let mut rng = Rng::new(mix(seed ^ 0x0935));
    let mut signatures = std::mem::take(&mut world.signatures);
    world.operations = world.plan.operations(&mut rng, spec.chain_id, &mut signatures);
    let mut of_payments = Rng::new(mix(seed ^ 0x3009));
    let payments = world.plan.payment_operations(&mut of_payments, spec.chain_id, &mut signatures);
    world.operations.extend(payments);
    let mut second = hostile::generator(seed);
    let others = world.plan.hostile_operations(&mut second, spec.chain_id, &mut signatures);
    world.operations.extend(others);
    world.signatures = signatures;
    let world: Shared = Arc::new(Mutex::new(world));
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O");
        let is_over = runtime.block_on(live(&world, &spec));
        // As after `kill -9`: no task completes.
        drop(runtime);
        if is_over {
            break;
        }
    }
    Protection::switch_off(None);
    let mut world = lock(&world);
    if world.violation.is_none() {
        world.epilogue();
        world.check_final();
    }
    tally(&mut world);
    let wants_lines = wants_lines || (world.violation.is_some() && wants_all_lines());
    let timeline = if wants_lines {
        world.all_lines().cloned().collect()
    } else if world.violation.is_some() {
        world.timeline()
    } else {
        Vec::new()
    };
    let landed = world.landed();
    let (violation, counts) = (world.violation.clone(), world.counts.clone());
    Report { seed, hash: world.hash, violation, timeline, counts, landed }
}

fn tally(world: &mut World) {
    for record in world.store.requests() {
        world.count(record.status.as_str());
    }
    for place in 0..world.operations.len() {
        world.count("operation");
        if world.operations[place].accepted.is_empty() {
            world.count("not accepted");
        }
    }
    let blocks = world.head.number - 1_000;
    *world.counts.0.entry("block").or_default() += blocks;
}

/// Runs one process from start to end. Returns true if the run is over.
async fn live(world: &Shared, spec: &ChainSpec) -> bool {
    let (crash, delay) = {
        let world_of = world;
        let mut world = lock(world);
        world.start_clock();
        let delay = if world.incarnation == 1 { 0 } else { world.rng.within(50, 3_000) };
        let chance = world.faults.crash_at_command;
        let step = (chance > 0).then(|| crash_between_commands(world_of.clone(), chance));
        slackwater::internal::simulated::set_step(step);
        (world.crash.clone(), delay)
    };
    let driver = tokio::spawn(drive(world.clone()));
    // A crash from outside ends all tasks.
    let outcome = tokio::select! {
        biased;
        () = crash.notified() => None,
        is_over = serve(world.clone(), spec.clone(), delay) => Some(is_over),
    };
    driver.abort();
    slackwater::internal::simulated::set_step(None);
    let mut world = lock(world);
    world.stop_clock();
    world.violation.is_some() || outcome.unwrap_or(false)
}

/// Crashes the process between two commands of its sender, with a chance in thousandths before each.
fn crash_between_commands(world: Shared, chance: u32) -> slackwater::internal::simulated::Step {
    Box::new(move || {
        let mut world = lock(&world);
        if !world.is_crashed && !world.is_calm && world.rng.permille(chance) {
            world.crash_now("between two commands");
        }
    })
}

/// Executes scheduled events.
async fn drive(world: Shared) {
    loop {
        let (wake, at, now) = {
            let mut world = lock(&world);
            world.step();
            (world.wake.clone(), world.next_event(), world.now())
        };
        let until = Instant::now() + Duration::from_millis(at.saturating_sub(now).max(1));
        tokio::select! {
            biased;
            () = wake.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

async fn serve(world: Shared, spec: ChainSpec, delay: u64) -> bool {
    tokio::time::sleep(Duration::from_millis(delay)).await;
    let config = config(&world, spec);
    let ledger = {
        let mut locked = lock(&world);
        locked.note(format_args!("start"));
        locked.count("start");
        for operation in &mut locked.operations {
            operation.under_way = 0;
        }
        FaultyLedger { world: world.clone(), inner: MemoryLedger::open(locked.store.clone()) }
    };
    let relay = match Relay::start_on(config, Arc::new(ledger)).await {
        Ok(relay) => relay,
        Err(error) => {
            let mut world = lock(&world);
            world.note(format_args!("start failed: {error}"));
            if world.elapsed() > world.plan.calm_after_ms + 600_000 {
                world.violate(format!("the relay does not start: {error}"));
            }
            return false;
        }
    };
    let pace = lock(&world).plan.block_ms / 40;
    let callers = tokio::spawn(call(world.clone(), relay.clone(), pace.max(50)));
    let is_over = loop {
        tokio::select! {
            biased;
            () = relay.stopped() => {
                lock(&world).note(format_args!("the relay stopped"));
                break false;
            }
            () = tokio::time::sleep(Duration::from_millis(pace.max(100))) => {}
        }
        if lock(&world).plan.top_up_after_ms > 0 {
            lock(&world).look_at_lanes(&relay.lanes());
        }
        if lock(&world).wants_stop {
            lock(&world).note(format_args!("orderly stop, then start"));
            relay.shutdown().await;
            break false;
        }
        let mut world = lock(&world);
        if world.is_settled() {
            break true;
        }
        let limit = world.plan.calm_after_ms + world.plan.slack_ms.end + BOUND_MS;
        if world.elapsed() > limit {
            world.note(format_args!("time is over"));
            break true;
        }
    };
    callers.abort();
    is_over
}

impl World {
    /// True if every caller has an answer, and every request has ended.
    fn is_settled(&self) -> bool {
        let is_answered = |operation: &crate::plan::Operation| {
            operation.under_way == 0
                && (operation.end.is_some() || (!operation.accepted.is_empty() && operation.tries == 0))
        };
        self.is_calm
            && self.events.values().all(|event| !matches!(event, crate::world::Event::Backup))
            && self.operations.iter().all(is_answered)
            && self.store.requests().iter().all(|record| record.status.is_terminal())
    }
}

fn config(world: &Shared, spec: ChainSpec) -> RelayConfig {
    let locked = lock(world);
    let plan = &locked.plan;
    let mut tuning = ChainTuning::for_spec(&spec);
    tuning.heads.poll_interval = Duration::from_millis(if plan.block_ms > 0 { plan.block_ms / 4 } else { 300 });
    tuning.rpc.rpc_timeout = Duration::from_secs(2);
    tuning.batch.linger = Duration::from_millis(200);
    tuning.lane.max_in_flight = plan.max_in_flight;
    tuning.batch.max_batch = plan.max_batch;
    tuning.lane.bump_after_blocks = plan.bump_after;
    tuning.fees.fee_history_blocks = 64;
    tuning.admission.min_slack = Duration::from_millis(1_500);
    tuning.timing.mode = if plan.has_forecast { TimingMode::Forecast } else { TimingMode::Immediate };
    tuning.queue.payload_memory_bytes = plan.payload_memory.unwrap_or(tuning.queue.payload_memory_bytes);
    let chain_id = spec.chain_id;
    let mut setup = ChainSetup::new(spec);
    setup.tuning = tuning;
    // For calls of both tenants, on any lane.
    let mut keys = locked.keys.clone();
    if (locked.is_signer_removed || locked.is_signer_missing) && keys.len() > 1 {
        keys.pop();
    }
    let identity = plan.hostility.asks_signers.then(|| keys.last().cloned()).flatten();
    let has_dead = plan.hostility.has_dead_signer && keys.len() > 1;
    for (place, key) in keys.into_iter().enumerate() {
        let is_dead = has_dead && place == 0;
        let asked = plan.hostility.asks_signers.then(|| elsewhere(key.clone(), world, is_dead));
        setup = setup.signer_for(asked.unwrap_or_else(|| key.into()), ["alpha", "beta"]);
    }
    setup.forwarders = vec![ForwarderSetup::new(FORWARDER)];
    if plan.payments > 0 {
        setup = setup.token(TOKEN);
    }
    setup.endpoints = (0..locked.nodes.len())
        .map(|node| RpcEndpoint::over(format!("node-{node}"), Arc::new(Wire { world: world.clone(), node })))
        .collect();
    let tenant = |id: &str, budget: Option<Budget>| {
        let mut policy = TenantPolicy::new(id);
        policy.kinds = [KindName::Forward, KindName::Call].into();
        if plan.payments > 0 {
            policy.kinds.insert(KindName::Authorization);
        }
        if id == hostile::TENANT {
            // Calls need named targets.
            policy.kinds.remove(&KindName::Call);
            policy.max_gas = BLOCK_GAS;
        }
        policy.price_percent = if budget.is_some() && id == "alpha" { plan.price_percent() } else { 100 };
        policy.budget = budget;
        // Named, so that they share transactions.
        let named = [GOOD, REVERTS, TRAP, BURNS].into_iter().chain((plan.payments > 0).then_some(TOKEN));
        let targets: BTreeMap<_, _> = named.map(|target| (target, TargetRule::default())).collect();
        // Not for the hostile tenant: it may use every target and names none, or names one that it should not.
        policy.targets = match plan.hostility.named_target() {
            _ if id != hostile::TENANT => Some([(chain_id, targets)].into()),
            Some(target) => Some([(chain_id, [(target, TargetRule::default())].into())].into()),
            None => None,
        };
        // Rates are counted by the wall clock, which does not follow simulated time.
        (policy.rate_per_s, policy.nonce_lookups_per_s) = (None, None);
        policy
    };
    let budget = plan.budget.map(|limit_wei| Budget { limit_wei, period: Duration::ZERO });
    let mut builder = Relay::builder().chain(setup).tenant(tenant("alpha", budget)).tenant(tenant("beta", None));
    if plan.hostility.operations > 0 {
        let limit_wei = plan.hostile_budget();
        builder = builder.tenant(tenant(hostile::TENANT, Some(Budget { limit_wei, period: Duration::ZERO })));
    }
    let mut config =
        builder.database("nowhere").max_within(Duration::from_secs(3_600)).build().expect("a valid configuration");
    if let Some(key) = identity {
        config.identity = elsewhere(key, world, false);
    }
    config.group_commit = GroupCommitConfig::default().with(|it| {
        it.queue_len = 256;
        it.max_group = 64;
        it.event_backlog = 16;
    });
    config
}

/// The callers: they submit, and retry until there is an answer.
async fn call(world: Shared, relay: Relay, pace_ms: u64) {
    loop {
        let due = lock(&world).due();
        for (place, tenant, item, is_impostor) in due {
            tokio::spawn(submit(world.clone(), relay.clone(), place, tenant, item, is_impostor));
        }
        let withdrawn = lock(&world).due_withdrawals();
        for (tenant, id) in withdrawn {
            let relay = relay.clone();
            tokio::spawn(async move {
                let _ = relay.tenant(tenant).cancel(id).await;
            });
        }
        tokio::time::sleep(Duration::from_millis(pace_ms)).await;
    }
}

async fn submit(world: Shared, relay: Relay, place: usize, tenant: &'static str, item: Submission, is_impostor: bool) {
    let answer = relay.tenant(tenant).submit(item).await;
    let mut world = lock(&world);
    if world.is_crashed {
        return;
    }
    world.answered(place, is_impostor, answer.map(|accepted| accepted.id()));
}

impl World {
    fn due(&mut self) -> Vec<(usize, &'static str, Submission, bool)> {
        let now = self.now();
        let mut due = Vec::new();
        let hostility = self.plan.hostility;
        let next_base_fee = self.head.next_base_fee(&self.spec);
        for place in 0..self.operations.len() {
            let operation = &mut self.operations[place];
            if operation.end.is_some() || operation.under_way > 0 || operation.tries == 0 || operation.next_at > now {
                continue;
            }
            if operation.op >= FIRST_OP && matches!(hostility.signer, HostileSigner::Tight | HostileSigner::PricedOut) {
                let ceiling = Plan::tight_ceiling(next_base_fee, operation.item.kind.gas(), &mut self.hostile_rng);
                operation.item.max_cost_wei.get_or_insert(ceiling);
            }
            for _ in 0..operation.tries {
                due.push((place, operation.tenant, operation.item.clone(), false));
                operation.under_way += 1;
            }
            let (item, op, tenant) = (operation.item.clone(), operation.op, operation.tenant);
            // The same key with another request.
            if self.plan.twins > 0
                && item.idempotency_key.is_some()
                && self.operations[place].accepted.is_empty()
                && self.rng.permille(300)
            {
                let mut other = item;
                if let Some(call) = other.kind.as_call() {
                    let call = Call { data: op_data(op + 10_000), ..call.clone() };
                    other.kind = call.into();
                    due.push((place, tenant, other, true));
                }
            }
        }
        due
    }

    fn due_withdrawals(&mut self) -> Vec<(&'static str, slackwater_core::request::RequestId)> {
        let now = self.now();
        let mut due = Vec::new();
        for operation in &mut self.operations {
            if operation.withdraw_at.is_some_and(|at| at <= now)
                && let Some(id) = operation.accepted.first()
            {
                operation.withdraw_at = None;
                due.push((operation.tenant, *id));
            }
        }
        due
    }

    fn answered(
        &mut self,
        place: usize,
        is_impostor: bool,
        answer: Result<slackwater_core::request::RequestId, SubmitError>,
    ) {
        let now = self.now();
        let op = self.operations[place].op;
        if is_impostor {
            if let Ok(id) = answer {
                let wanted = self.op_of_request(id).unwrap_or(u64::MAX);
                // The first submission has the key: the other one must be refused.
                self.operations[place].accepted.insert(id);
                self.note(format_args!("#{op}: the key's other wish #{wanted} is accepted"));
            }
            return;
        }
        let pause = self.rng.within(200, 1_500);
        match answer {
            Ok(id) => {
                match self.operations[place].item.kind.sequence() {
                    Some((_, user, nonce)) => {
                        self.note(format_args!("#{op} is acknowledged: nonce {nonce} of {user}"));
                    }
                    None => self.note(format_args!("#{op} is acknowledged: a call")),
                }
                if self.store.request(id).is_none() {
                    self.violate(format!("I2: op #{op} is acknowledged before it is durable"));
                }
                let operation = &mut self.operations[place];
                operation.under_way = operation.under_way.saturating_sub(1);
                operation.tries = operation.tries.saturating_sub(1);
                operation.accepted.insert(id);
                self.count("acknowledged");
            }
            Err(error) => {
                let is_again = error.is_retryable() || error.is_ambiguous();
                self.note(format_args!("#{op} is refused: {error}"));
                let operation = &mut self.operations[place];
                operation.under_way = operation.under_way.saturating_sub(1);
                operation.next_at = now + pause;
                if !is_again || now > operation.gives_up_at {
                    operation.tries = operation.tries.saturating_sub(1);
                    if operation.accepted.is_empty() && operation.tries == 0 {
                        operation.end = Some(error.to_string());
                    }
                }
            }
        }
    }
}
