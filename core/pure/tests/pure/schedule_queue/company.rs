//! Waiting for further members, and joining a batch that is sent anyway.

use super::*;

const GWEI: u128 = 1_000_000_000;
const HOUR: u64 = 3_600_000;

/// 21 000 gas of setup, 35 000 for each member; waiting through all slack costs as much as going alone.
fn usual() -> ComposeLimits {
    ComposeLimits {
        max_batch: 100,
        setup_wei: 21_000 * GWEI,
        price_wei_per_gas: GWEI,
        waiting_cost_percent: 100,
        linger: Duration::from_secs(3_600),
        urgent: Duration::ZERO,
        next_base_fee: GWEI,
        quote_max_fee: 2 * GWEI,
        ..limits()
    }
}

fn request(salt: u64, at: u64, slack: u64) -> QueuedRequest {
    QueuedRequest {
        gas: 35_000,
        accepted_at: Timestamp(at),
        ceiling_wei_per_gas: 9 * GWEI,
        ..call(salt, at + slack, "t", true)
    }
}

/// Queues requests at these instants, ms, each with this slack. Returns the time of each batch, and its number of
/// members.
fn run(queue: &mut Queue, limits: &ComposeLimits, arrivals: &[u64], slack: u64, salt: u64) -> Vec<(u64, usize)> {
    let mut left = Vec::new();
    let mut coming = arrivals.iter().copied().zip(salt..).peekable();
    let mut now = arrivals[0];
    loop {
        while let Some((at, salt)) = coming.next_if(|(at, _)| *at <= now) {
            queue.push(request(salt, at, slack));
        }
        while let Some(chosen) = queue.compose(Timestamp(now), lane(0), limits, &ANY_PRICE) {
            left.push((now, chosen.members.len()));
            chosen.members.iter().for_each(|id| drop(queue.remove(*id, true)));
        }
        let due = queue.next_due(Timestamp(now), limits, &ANY_PRICE).map(|due| due.0);
        now = match (coming.peek().map(|(at, _)| *at), due) {
            (Some(next), Some(due)) => next.min(due),
            (Some(next), None) => next,
            (None, Some(due)) => due,
            (None, None) => return left,
        };
    }
}

/// Deterministic: an exponential gap with this mean, by inverting a low-discrepancy sequence.
fn poisson(count: u64, mean_ms: f64) -> Vec<u64> {
    let mut at = 0.0;
    (0..count)
        .map(|index| {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let uniform = (index as f64 + 0.5) * 0.618_033_988_749_894_9 % 1.0;
            at -= mean_ms * (1.0 - uniform).ln();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "never negative, an hour at most"
            )]
            let at = at as u64;
            at
        })
        .collect()
}

#[test]
fn the_worked_example_holds() {
    let mut queue = super::with_multicall();
    let regular: Vec<u64> = (0..400).map(|index| index * 200).collect();
    let left = run(&mut queue, &usual(), &regular, 60_000, 0);
    let usual_batches = left.iter().filter(|(_, members)| *members == 15).count();
    assert!(usual_batches >= 24, "{left:?}");
    assert!((2_900..3_200).contains(&(left[10].0 - left[9].0)), "{left:?}");
    // A first lone request may wait for a while; once all requests came alone, the next does not.
    let mut queue = super::with_multicall();
    let lonely: Vec<u64> = (0..20).map(|index| index * 60_000).collect();
    let left = run(&mut queue, &usual(), &lonely, 60_000, 0);
    assert_eq!(left.len(), 20);
    assert!((1..=22_500).contains(&left[0].0), "{left:?}");
    assert!(left[10..].iter().zip(&lonely[10..]).all(|((left, _), came)| left - came < 150), "{left:?}");
}

#[test]
fn who_has_less_slack_waits_less() {
    let mut size = Vec::new();
    for slack in [6_000, 60_000, 600_000, 6_000_000] {
        let left = run(&mut super::with_multicall(), &usual(), &poisson(600, 200.0), slack, 0);
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        size.push(600.0 / left.len() as f64);
    }
    assert!(size.is_sorted_by(|a, b| a * 1.5 < *b), "members by slack: {size:?}");
    // One urgent request takes the others along.
    let mut queue = super::with_multicall();
    let patient: Vec<u64> = (0..50).map(|index| index * 100).collect();
    run(&mut queue, &usual(), &patient, HOUR, 0);
    let now = 100_000;
    (100..110).for_each(|salt| queue.push(request(salt, now, HOUR)));
    assert!(queue.compose(Timestamp(now), lane(0), &usual(), &ANY_PRICE).is_none());
    let patient_until = queue.next_due(Timestamp(now), &usual(), &ANY_PRICE).unwrap();
    queue.push(request(200, now, 4_000));
    let short = ComposeLimits { linger: Duration::from_secs(1), ..usual() };
    assert!(queue.compose(Timestamp(now), lane(0), &short, &ANY_PRICE).is_none());
    let hurried_until = queue.next_due(Timestamp(now), &short, &ANY_PRICE).unwrap();
    assert!(hurried_until < patient_until, "{hurried_until} {patient_until}");
    let chosen = queue.compose(hurried_until, lane(0), &short, &ANY_PRICE).unwrap();
    assert_eq!((chosen.members.len(), chosen.trigger), (11, Trigger::Company));
}

#[test]
fn what_data_costs_counts() {
    let batches =
        |limits: &ComposeLimits| run(&mut super::with_multicall(), limits, &poisson(600, 200.0), 60_000, 0).len();
    let usual = usual();
    // Calldata costs ten times the gas: a setup is a small part of the total, and not worth the same wait.
    let data = ComposeLimits { data_wei_per_byte: 700 * GWEI, ..usual };
    assert!(batches(&data) > batches(&usual) * 3 / 2, "{} {}", batches(&data), batches(&usual));
    // An expensive setup.
    let envelope = ComposeLimits { setup_wei: 210_000 * GWEI, ..usual };
    assert!(batches(&envelope) * 5 / 4 < batches(&usual), "{} {}", batches(&envelope), batches(&usual));
    // The price level does not matter, only the proportions.
    let dear = ComposeLimits {
        setup_wei: usual.setup_wei * 1_000,
        price_wei_per_gas: usual.price_wei_per_gas * 1_000,
        ..usual
    };
    assert_eq!(batches(&dear), batches(&usual));
    let free = ComposeLimits { setup_wei: 0, price_wei_per_gas: 0, ..usual };
    assert!(batches(&free) > 590, "nothing to save, but some come in the same millisecond");
    let patient = ComposeLimits { waiting_cost_percent: 0, linger: Duration::from_secs(10), ..usual };
    assert_eq!(batches(&patient), 12, "the longest wait");
}

#[test]
fn a_burst_after_a_quiet_time_is_recognised() {
    let mut queue = super::with_multicall();
    let lonely: Vec<u64> = (0..60).map(|index| index * 60_000).collect();
    run(&mut queue, &usual(), &lonely, 60_000, 0);
    let burst: Vec<u64> = (0..90).map(|index| 7_200_000 + index * 5).collect();
    let left = run(&mut queue, &usual(), &burst, 60_000, 1_000);
    assert!(left.len() <= 4, "{left:?}");
    assert!(left.last().unwrap().0 < burst[89] + 200, "{left:?}");
}

#[test]
fn who_saves_by_joining_does_not_wait_for_the_price() {
    // For slack above a minute the price is too high, but if it were a tenth lower it would do for slack up to two
    // minutes.
    let outlook = Within(Duration::from_secs(60), Duration::from_secs(600));
    let limits = ComposeLimits { linger: Duration::ZERO, ..usual() };
    let queued = |slacks: &[u64]| {
        let mut queue = super::with_multicall();
        slacks.iter().zip(1..).for_each(|(slack, salt)| queue.push(request(salt, 0, *slack)));
        queue
    };
    let sent = |queue: &mut Queue| {
        let chosen = queue.compose(Timestamp(0), lane(0), &limits, &outlook);
        chosen.map_or(0, |chosen| chosen.members.len())
    };
    assert_eq!(sent(&mut queued(&[120_000, 250_000])), 0, "nobody goes for the company alone");
    // Alone later, each would pay 21 of 56 more: that is worth 60 + 600 · 0.375 s.
    assert_eq!(sent(&mut queued(&[30_000, 120_000, 284_000, 286_000])), 3);
    // If ten travel together anyway, a later batch costs little more than this one.
    let mut queue = queued(&[30_000; 10]);
    assert_eq!(sent(&mut queue), 10);
    for round in 1..40 {
        (0..10).for_each(|salt| queue.push(request(round * 10 + salt + 1_000, 0, 30_000)));
        assert_eq!(sent(&mut queue), 10);
    }
    [30_000, 90_000, 120_000].iter().zip(1..).for_each(|(slack, salt)| queue.push(request(salt + 9_000, 0, *slack)));
    assert_eq!(sent(&mut queue), 2, "worth 60 + 600 · 2.1 / (35 + 2.1) s");
    // A request that does not fit into the same transaction stays.
    let mut queue = queued(&[30_000]);
    queue.push(QueuedRequest { ceiling_wei_per_gas: GWEI, ..request(50, 0, 120_000) });
    assert_eq!(sent(&mut queue), 1);
}

/// Cost of setups and waiting, in setups; and the lowest cost possible in hindsight.
fn costs(left: &[(u64, usize)], arrivals: &[u64], rate: f64) -> (f64, f64) {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let waited =
        |from: usize, to: usize, at: u64| arrivals[from..to].iter().map(|came| (at - came) as f64).sum::<f64>() * rate;
    let mut first = 0;
    let mut paid = 0.0;
    for (at, members) in left {
        paid += 1.0 + waited(first, first + members, *at);
        first += members;
    }
    let mut best = vec![0.0];
    for end in 1..=arrivals.len() {
        let ends = (0..end).map(|start| best[start] + 1.0 + waited(start, end, arrivals[end - 1]));
        best.push(ends.fold(f64::INFINITY, f64::min));
    }
    (paid, best[arrivals.len()])
}

#[test]
fn it_is_near_what_foresight_would_cost() {
    let rate = (56.0 / 21.0) / 60_000.0;
    let mut bursts = Vec::new();
    for burst in 0..30_u64 {
        bursts.extend((0..12).map(|index| burst * 30_000 + index * index * 3));
    }
    let cases = [
        ("0.1 per second", poisson(300, 10_000.0), 1.4),
        ("1 per second", poisson(300, 1_000.0), 1.6),
        ("10 per second", poisson(300, 100.0), 1.6),
        ("100 per second", poisson(300, 10.0), 1.6),
        ("bursts", bursts, 1.4),
    ];
    for (name, arrivals, most) in cases {
        let limits = ComposeLimits { max_batch: 1_000, ..usual() };
        let left = run(&mut super::with_multicall(), &limits, &arrivals, 60_000, 0);
        let (paid, best) = costs(&left, &arrivals, rate);
        #[allow(clippy::print_stdout, reason = "docs/scheduling.md shows it")]
        {
            println!("{name}: {} batches, {paid:.1} setups, {best:.1} in hindsight: {:.2}", left.len(), paid / best);
        }
        assert!(paid <= most * best, "{name}: {paid} against {best}");
        assert!(paid >= best - 1e-6, "{name}: {paid} below the least {best}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// For any arrivals, waiting and setups together cost at most two and a half times the optimum in hindsight, plus a
    /// few setups while the gaps are learned.
    #[test]
    fn no_pattern_makes_it_expensive(gaps in prop::collection::vec(prop_oneof![0u64..5, 0u64..500, 0u64..20_000], 1..120)) {
        let rate = (56.0 / 21.0) / 60_000.0;
        let arrivals: Vec<u64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
        let limits = ComposeLimits { max_batch: 1_000, ..usual() };
        let left = run(&mut super::with_multicall(), &limits, &arrivals, 60_000, 0);
        prop_assert_eq!(left.iter().map(|(_, members)| members).sum::<usize>(), arrivals.len());
        let (paid, best) = costs(&left, &arrivals, rate);
        prop_assert!(paid <= 2.5 * best + 3.0, "{} against {}", paid, best);
    }
}
