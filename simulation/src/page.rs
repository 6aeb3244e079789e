//! The page's relay in its world: the files that its own tests run too, with the switches of the simulator.

use slackwater_core::protection::Protection;

use crate::{run::Report, world::Counts};

/// The world of one key in one browser. It stays with the tests of the client, whose package must be whole.
#[path = "../../core/client/tests/page/world/mod.rs"]
#[expect(dead_code, reason = "the named tests of the client use the rest")]
mod world;

/// Runs the page's relay with `seed`, without the protection `off`.
pub fn run_page(seed: u64, off: Option<Protection>) -> Report {
    Protection::switch_off(off);
    let outcome = world::random::Plan::of(seed).run();
    Protection::switch_off(None);
    let world::random::Outcome { hash, violation, lines: timeline, counts } = outcome;
    Report { seed, hash, violation, timeline, counts: Counts(counts), landed: Default::default() }
}
