//! The page's relay over many seeds, and every protection switched off in turn.

use slackwater_simulation::{Counts, Protection, run_page};

/// Number of seeds here; the long run has more.
const SEEDS: u64 = 200;

/// Number of seeds within which the lack of a protection must show.
const MUTANT_SEEDS: u64 = 600;

/// Number of seeds that must be the same without a protection that a page does not have.
const SAME_SEEDS: u64 = 20;

/// Effect of a missing protection on the page's relay.
enum Lack {
    /// A check fails.
    Shows,
    /// Nothing changes, for this reason.
    ChangesNothing(&'static str),
    /// Something changes that no check of the page's world can tell, for this reason.
    IsNotTold(&'static str),
}

const fn lack(protection: Protection) -> Lack {
    use Lack::{ChangesNothing, IsNotTold, Shows};
    match protection {
        Protection::PersistFirst
        | Protection::PollEveryAttempt
        | Protection::ReorgFallback
        | Protection::LostAtFinality
        | Protection::SettleAtFinality
        | Protection::CeilReplacement
        | Protection::AmbiguityIsHeld
        | Protection::Reconcile
        | Protection::Deadline
        | Protection::LowerUserNonce
        | Protection::OutcomeByEvent
        | Protection::Surroundings
        | Protection::SuspectTargets
        | Protection::SpentReservation
        | Protection::DemandedTip
        | Protection::PricedOutYields
        | Protection::BalanceAware => Shows,
        Protection::ReadQuorum | Protection::OwnFinality | Protection::OthersHeads | Protection::AgreedPrices => {
            ChangesNothing("there is one node, which is trusted")
        }
        Protection::SecondWord => ChangesNothing("there is no second node to ask"),
        Protection::Idempotency | Protection::StopInDoubt => ChangesNothing("there is no ledger"),
        Protection::ReserveWorstCase | Protection::RestoreReservations => ChangesNothing("there are no budgets"),
        Protection::EveryWei => ChangesNothing("the key pays for everything, and there are no accounts"),
        Protection::NamedCompany => ChangesNothing("there are no policies, and every target counts as named"),
        Protection::TenantShares | Protection::IgnoredGoesLast => ChangesNothing("there are no tenants"),
        Protection::WatchRemoved => ChangesNothing("there is one key, which is never removed"),
        Protection::IgnoredYields => ChangesNothing("a page never gives up what blocks pass over"),
        Protection::NodeLimits => IsNotTold("what was refused for its size goes on in smaller transactions"),
        Protection::HoldEntangled => IsNotTold("without it a run may never end"),
        _ => panic!("a new protection: what does its lack do in a page?"),
    }
}

#[test]
fn a_page_keeps_its_promises() {
    let mut counts = Counts::default();
    for seed in 1..=SEEDS {
        let report = run_page(seed, None);
        assert!(report.violation.is_none(), "{report}");
        counts.add(&report.counts);
    }
    for name in ["crash", "reorg", "stranger", "user nonce taken back", "earlier attempt back", "had to land"] {
        assert!(counts.of(name) > 0, "no run had `{name}`: {counts:?}");
    }
}

#[test]
fn a_seed_is_a_run_of_a_page() {
    for seed in 1..10 {
        assert_eq!(run_page(seed, None).hash, run_page(seed, None).hash, "{seed}");
    }
    assert_ne!(run_page(1, None).hash, run_page(2, None).hash);
}

#[test]
fn what_a_page_lacks_shows() {
    let mut missed = Vec::new();
    for protection in Protection::ALL {
        match lack(protection) {
            Lack::Shows => {
                let mut reports = (1..=MUTANT_SEEDS).map(|seed| run_page(seed, Some(protection)));
                match reports.find(|report| report.violation.is_some()) {
                    Some(report) => eprintln!("{protection:?}: seed {}", report.seed),
                    None => missed.push(protection),
                }
            }
            Lack::ChangesNothing(why) => {
                for seed in 1..=SAME_SEEDS {
                    let (with, without) = (run_page(seed, None).hash, run_page(seed, Some(protection)).hash);
                    assert_eq!(with, without, "{protection:?} is missed at seed {seed}, although {why}");
                }
            }
            Lack::IsNotTold(why) => eprintln!("{protection:?}: {why}"),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
