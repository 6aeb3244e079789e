//! `slackwater-sim`: runs many seeds and reports violations.
//!
//! Without `--scenario`, each seed runs the server's relay in one of its scenarios, and then the page's; with `--scenario all`
//! the hostile scenarios are among them.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{process::ExitCode, time::Instant};

use slackwater_simulation::{Counts, Protection, Report, Scenario, run_page, run_without};

/// What a seed is given to.
#[derive(Clone, Copy)]
enum Subject {
    /// The server's relay.
    Server(Scenario),
    /// The page's relay.
    Page,
}

impl Subject {
    /// Everything that `--scenario` names.
    fn all() -> impl Iterator<Item = Self> {
        Scenario::ALL.into_iter().chain(Scenario::HOSTILE).map(Self::Server).chain([Self::Page])
    }

    fn name(self) -> String {
        match self {
            Self::Server(scenario) => format!("{scenario:?}"),
            Self::Page => "Page".to_owned(),
        }
    }

    fn run(self, seed: u64, off: Option<Protection>) -> Report {
        match self {
            Self::Server(scenario) => run_without(scenario, seed, off),
            Self::Page => run_page(seed, off),
        }
    }
}

/// What `seed` runs if no scenario is named. Every second seed mixes everything; the others take the named scenarios in turn,
/// the `hostile` ones after them.
fn in_turn(seed: u64, hostile: &[Scenario]) -> Vec<Subject> {
    let named = || Scenario::ALL.into_iter().skip(1).chain(hostile.iter().copied());
    let scenario = match seed % 2 {
        0 => Scenario::Random,
        _ => named().nth((seed as usize / 2) % named().count()).unwrap_or(Scenario::Random),
    };
    vec![Subject::Server(scenario), Subject::Page]
}

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
    let hostile: &[Scenario] = if wanted.as_deref() == Some("all") { &Scenario::HOSTILE } else { &[] };
    let wanted = wanted.filter(|wanted| wanted != "all");
    let wanted: Option<Vec<Subject>> =
        wanted.map(|wanted| Subject::all().filter(|subject| subject.name().eq_ignore_ascii_case(&wanted)).collect());
    if wanted.as_ref().is_some_and(Vec::is_empty) {
        let names: Vec<String> = Subject::all().map(Subject::name).collect();
        println!("no such scenario; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let threads = number("--threads").unwrap_or(threads);
    let shows_all = std::env::args().any(|arg| arg == "--show");
    let started = Instant::now();
    let results: Vec<(Counts, u64, Vec<String>)> = std::thread::scope(|scope| {
        let work = |thread: u64| {
            let wanted = wanted.clone();
            move || {
                let (mut counts, mut hash, mut broken) = (Counts::default(), 0u64, Vec::new());
                for seed in (first..first + seeds).filter(|seed| seed % threads == thread) {
                    for subject in wanted.clone().unwrap_or_else(|| in_turn(seed, hostile)) {
                        let (name, report) = (subject.name(), subject.run(seed, off));
                        counts.add(&report.counts);
                        hash ^= report.hash.rotate_left((seed % 64) as u32);
                        if report.violation.is_some() || shows_all {
                            println!("{name} {report}");
                        }
                        if report.violation.is_some() {
                            broken.push(format!("--scenario {name} --seed {seed}"));
                        }
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
