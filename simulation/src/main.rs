//! `slackwater-sim`: runs many seeds and reports violations.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{process::ExitCode, time::Instant};

use slackwater_simulation::{Counts, Protection, Scenario, run_without};

fn main() -> ExitCode {
    let number = |name: &str| {
        let mut args = std::env::args().skip_while(|arg| arg != name);
        args.nth(1).and_then(|text| text.parse::<u64>().ok())
    };
    let only = number("--seed");
    let (first, seeds) =
        only.map_or((number("--first").unwrap_or(1), number("--seeds").unwrap_or(2_000)), |seed| (seed, 1));
    let off: Option<String> = std::env::args().skip_while(|arg| arg != "--without").nth(1);
    let off = Protection::ALL.into_iter().find(|protection| off.as_ref() == Some(&format!("{protection:?}")));
    let wanted: Option<String> = std::env::args().skip_while(|arg| arg != "--scenario").nth(1);
    let is_wanted = |scenario: &Scenario| {
        wanted.as_ref().is_some_and(|wanted| format!("{scenario:?}").eq_ignore_ascii_case(wanted))
    };
    let scenarios: Vec<Scenario> = match &wanted {
        None => Scenario::ALL.to_vec(),
        Some(name) if name == "all" => Scenario::ALL.into_iter().chain(Scenario::HOSTILE).collect(),
        Some(_) => Scenario::ALL.into_iter().chain(Scenario::HOSTILE).filter(is_wanted).collect(),
    };
    if scenarios.is_empty() {
        let names: Vec<String> =
            Scenario::ALL.iter().chain(&Scenario::HOSTILE).map(|scenario| format!("{scenario:?}")).collect();
        println!("no such scenario; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let threads = number("--threads").unwrap_or(threads);
    let shows_all = std::env::args().any(|arg| arg == "--show");
    let started = Instant::now();
    let results: Vec<(Counts, u64, Vec<String>)> = std::thread::scope(|scope| {
        let work = |thread: u64| {
            let scenarios = scenarios.clone();
            move || {
                let (mut counts, mut hash, mut broken) = (Counts::default(), 0u64, Vec::new());
                for seed in (first..first + seeds).filter(|seed| seed % threads == thread) {
                    // Every second seed mixes everything.
                    let scenario = match (scenarios.len(), seed % 2) {
                        (1, _) => scenarios[0],
                        (_, 0) => Scenario::Random,
                        (count, _) => scenarios[1 + (seed as usize / 2) % (count - 1)],
                    };
                    let report = run_without(scenario, seed, off);
                    counts.add(&report.counts);
                    hash ^= report.hash.rotate_left((seed % 64) as u32);
                    if report.violation.is_some() || shows_all {
                        println!("{scenario:?} {report}");
                    }
                    if report.violation.is_some() {
                        broken.push(format!("--scenario {scenario:?} --seed {seed}"));
                    }
                }
                (counts, hash, broken)
            }
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(work(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("a thread that ran seeds")).collect()
    });
    let mut counts = Counts::default();
    let mut hash = 0;
    let mut broken = Vec::new();
    for (of_thread, trace, failed) in results {
        counts.add(&of_thread);
        hash ^= trace;
        broken.extend(failed);
    }
    let took = started.elapsed();
    for (name, count) in counts.iter() {
        println!("{count:>9} {name}");
    }
    let each = took.as_secs_f64() * 1_000.0 * threads as f64 / seeds.max(1) as f64;
    println!("{seeds} seeds in {:.1} s, {each:.0} ms each on one core, trace {hash:016x}", took.as_secs_f64());
    println!("{} broken{}{}", broken.len(), if broken.is_empty() { "" } else { ": " }, broken.join(", "));
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
