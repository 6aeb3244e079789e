//! Result of a run, for people and for programs.

use std::{collections::BTreeMap, fmt, time::Duration};

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value, json};

use super::{Deaths, Plan, Verdict, callers::Calls, outage::LATE_PERCENT};
use crate::{
    proxy::Injected,
    report::{Latencies, duration, grouped},
};

/// Result of a run.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    plan: Plan,
    calls: Calls,
    deaths: Deaths,
    node_calls: u64,
    sends: u64,
    faults: BTreeMap<&'static str, u64>,
    /// Comparison with the chain.
    pub verdict: Verdict,
    /// Fault that `slackwater audit verify --chain` found; `None` if it found none.
    pub audit: Option<String>,
}

impl Report {
    pub(super) fn new(
        name: &'static str,
        plan: &Plan,
        calls: Calls,
        deaths: Deaths,
        injected: impl IntoIterator<Item = Injected>,
        verdict: Verdict,
        audit: Option<String>,
    ) -> Self {
        let mut report = Self {
            name,
            plan: plan.clone(),
            calls,
            deaths,
            node_calls: 0,
            sends: 0,
            faults: BTreeMap::new(),
            verdict,
            audit,
        };
        for injected in injected {
            report.node_calls += injected.calls.values().sum::<u64>();
            report.sends += injected.calls.get("eth_sendRawTransaction").copied().unwrap_or(0);
            for (name, count) in injected.faults {
                *report.faults.entry(name).or_default() += count;
            }
        }
        report
    }

    /// True if no request was lost, executed twice, stuck or misreported, and all planned kills, outages and faults
    /// happened.
    pub fn is_good(&self) -> bool {
        self.verdict.is_good()
            && self.audit.is_none()
            && self.deaths.kills.max(self.deaths.outages) >= u64::from(self.plan.rounds)
            && (self.deaths.outages == 0 || self.verdict.late_after * 100 <= self.after() * LATE_PERCENT)
            && (self.plan.faults_bps == 0 || self.injected() > 0)
    }

    /// Number of injected faults of all kinds.
    pub fn injected(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Number of kills.
    pub const fn kills(&self) -> u64 {
        self.deaths.kills
    }

    /// Time from the death of the lanes' driver to the takeover by another instance.
    pub const fn takeovers(&self) -> &Latencies {
        &self.deaths.takeovers
    }

    /// Requests that were due after the last outage.
    const fn after(&self) -> usize {
        self.calls.requests.len().saturating_sub(self.calls.before)
    }

    /// Requests that were made per second.
    fn rate(&self) -> f64 {
        self.calls.requests.len() as f64 / self.calls.took.as_secs_f64().max(1e-9)
    }

    /// The report as JSON.
    pub fn json(&self) -> Value {
        let Verdict { lost, doubled, stuck, misreported, refused, disordered, events, .. } = &self.verdict;
        json!({
            "run": self.name,
            "seed": self.plan.seed,
            "rounds": self.plan.rounds,
            "kills": self.deaths.kills,
            "outages": self.deaths.outages,
            "late": self.verdict.late.len(),
            "after_outages": self.after(),
            "late_after_outages": self.verdict.late_after,
            "requests": self.calls.requests.len(),
            "seconds": self.calls.took.as_secs_f64(),
            "per_second": self.rate(),
            "accepted": self.verdict.accepted,
            "executed_once": self.verdict.once,
            "lost": lost,
            "doubled": doubled,
            "stuck": stuck,
            "misreported": misreported,
            "refused": refused,
            "disordered": disordered,
            "event_faults": events,
            "ends": self.verdict.ends,
            "events": self.verdict.told,
            "audit": self.audit,
            "transactions": self.verdict.transactions,
            "calls_to_node": self.node_calls,
            "sends": self.sends,
            "faults": self.faults,
            "calls_repeated": self.calls.repeated,
            "recognised": self.calls.recognised,
            "accepted_after": self.calls.latencies.json(),
            "ready_after": self.deaths.ready.json(),
            "takeover_after": self.deaths.takeovers.json(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners());
        let mut row = |name: &str, value: String| {
            table.add_row(vec![name.to_owned(), value]);
        };
        let count = |number: usize| grouped(number as u64);
        let spread = |latencies: &Latencies| match latencies.len() {
            0 => "none".to_owned(),
            many => {
                let at = |percent| duration(latencies.percentile(percent));
                format!("{} / {} ({many})", at(50.0), duration(latencies.max()))
            }
        };
        let Verdict { accepted, once, told, transactions, requests_per_transaction_x100: per, .. } = &self.verdict;
        row("seed", self.plan.seed.to_string());
        let seconds = Duration::from_millis(u64::try_from(self.calls.took.as_millis()).unwrap_or(u64::MAX));
        row("requests", format!("{} in {}, {:.0}/s", count(self.calls.requests.len()), duration(seconds), self.rate()));
        if self.deaths.outages > 0 {
            row("times that the node stood still", format!("{}, {}", self.deaths.outages, duration(self.plan.outage)));
            let (late, after) = (self.verdict.late.len(), self.verdict.late_after);
            row("late, of all", format!("{} of {}", count(late), count(self.calls.requests.len())));
            row("late, of those after the last outage", format!("{} of {}", count(after), count(self.after())));
        } else {
            row("rounds, kill -9", format!("{}, {}", self.plan.rounds, self.deaths.kills));
        }
        row("calls of the relayer to the node", grouped(self.node_calls));
        let share = self.injected() as f64 * 100.0 / (self.node_calls as f64).max(1.0);
        row("faults injected", format!("{} ({share:.1} %)", grouped(self.injected())));
        for (name, count) in &self.faults {
            row(&format!("  {name}"), grouped(*count));
        }
        row("submissions repeated by callers", grouped(self.calls.repeated));
        row("  recognised as accepted before", grouped(self.calls.recognised));
        row("accepted, p50 / longest", spread(&self.calls.latencies));
        row("ready after its start, p50 / longest", spread(&self.deaths.ready));
        if !self.deaths.takeovers.is_empty() {
            row("another drives the lanes, p50 / longest", spread(&self.deaths.takeovers));
        }
        row("transactions", format!("{}, {}.{:02} requests each", count(*transactions), per / 100, per % 100));
        for (end, times) in &self.verdict.ends {
            row(&format!("  {end}"), count(*times));
        }
        row("events, without gap", grouped(*told));
        row("executed exactly once", format!("{} of {}", count(*once), count(*accepted)));
        let Verdict { lost, doubled, stuck, misreported, refused, disordered, events, .. } = &self.verdict;
        row("lost / doubled / stuck", format!("{} / {} / {}", lost.len(), doubled.len(), stuck.len()));
        row("told otherwise than it is", count(misreported.len()));
        row("refused / out of order", format!("{} / {}", refused.len(), disordered.len()));
        row("audit of the ledger against the chain", if self.audit.is_none() { "passed" } else { "FAILED" }.to_owned());
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        // At most ten of each kind.
        for (what, ids) in
            [("lost", lost), ("doubled", doubled), ("stuck", stuck), ("told otherwise than it is", misreported)]
        {
            for id in ids.iter().take(10) {
                writeln!(f, "{what}: {id}")?;
            }
        }
        refused.iter().take(10).try_for_each(|(id, code)| writeln!(f, "refused: {id} {code}"))?;
        disordered.iter().take(10).try_for_each(|who| writeln!(f, "out of order: {who}"))?;
        events.iter().take(10).try_for_each(|what| writeln!(f, "events: {what}"))?;
        self.audit.iter().try_for_each(|what| writeln!(f, "audit: {what}"))?;
        write!(f, "{}", if self.is_good() { "PASSED" } else { "FAILED" })
    }
}
