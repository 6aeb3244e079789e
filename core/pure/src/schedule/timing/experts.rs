//! Outcome of every policy on the observed past, and the weights that follow from it.
//!
//! A relayer is a price taker, so each policy's cost is known independent of the actual decision. The outcome of a
//! submission is complete after its slack.

use std::collections::VecDeque;

/// Outcomes of all policies for one slack.
#[derive(Debug, Clone)]
pub(super) struct SlackClass {
    /// Steps a submission may wait.
    pub(super) slack: usize,
    slip: usize,
    keep: f64,
    /// Difference in captured share that multiplies a weight by e.
    temperature: f64,
    /// Weight of the prior, as possible saving summed over submissions, in shares of the price.
    start: f64,
    prior: Vec<f64>,
    /// Oldest submission not yet sent, per policy.
    oldest: Vec<u64>,
    /// Submissions decided and not yet included: ranges sent by each policy at the last `slip` steps.
    on_the_way: VecDeque<Vec<(u64, u64)>>,
    /// Per policy, price paid by each of the last `slack + 1` submissions.
    paid: Vec<VecDeque<f64>>,
    /// Prices at the last `slack + 1` steps.
    prices: VecDeque<f64>,
    /// Ascending candidates for the minimum: (step, price).
    lowest: VecDeque<(u64, f64)>,
    pub(super) gains: Vec<f64>,
    pub(super) available: f64,
    /// Weights of the policies; they add up to 1.
    pub(super) weights: Vec<f64>,
    /// Undiscounted, for reports: gains, available, complete submissions.
    pub(super) totals: (Vec<f64>, f64, u64),
}

impl SlackClass {
    /// `prior`: expected captured share per policy. `memory`: submissions after which an outcome counts 1/e.
    pub(super) fn new(slack: usize, slip: usize, prior: Vec<f64>, start: f64, memory: f64, temperature: f64) -> Self {
        let policies = prior.len();
        let mut class = Self {
            slack,
            slip,
            keep: libm::exp(-1.0 / memory),
            temperature,
            start,
            prior,
            oldest: vec![0; policies],
            on_the_way: VecDeque::new(),
            paid: vec![VecDeque::new(); policies],
            prices: VecDeque::new(),
            lowest: VecDeque::new(),
            gains: vec![0.0; policies],
            available: 0.0,
            weights: vec![0.0; policies],
            totals: (vec![0.0; policies], 0.0, 0),
        };
        class.reweigh();
        class
    }

    /// Records a step: its price is known, and each policy sends all submissions with at most `within[policy]` steps
    /// left.
    pub(super) fn step(&mut self, now: u64, price: f64, within: &[usize], counts: bool) {
        self.prices.push_back(price);
        while self.lowest.back().is_some_and(|(_, low)| *low >= price) {
            self.lowest.pop_back();
        }
        self.lowest.push_back((now, price));
        let slack = self.slack as u64;
        let sent = within
            .iter()
            .enumerate()
            .map(|(policy, within)| {
                self.paid[policy].push_back(f64::NAN);
                // Submission s has s + slack − now steps left.
                let within = (*within).max(self.slip).min(self.slack) as u64;
                let end = (now + within + 1).saturating_sub(slack);
                let from = self.oldest[policy];
                self.oldest[policy] = from.max(end);
                (from, self.oldest[policy])
            })
            .collect();
        self.on_the_way.push_back(sent);
        if self.on_the_way.len() > self.slip
            && let Some(included) = self.on_the_way.pop_front()
        {
            let first = now + 1 - self.prices.len() as u64;
            for (paid, (from, to)) in self.paid.iter_mut().zip(included) {
                for submission in from.max(first)..to {
                    #[expect(clippy::cast_possible_truncation, reason = "within the slack")]
                    let at = (submission - first) as usize;
                    if let Some(paid) = paid.get_mut(at) {
                        *paid = price;
                    }
                }
            }
        }
        if self.prices.len() > self.slack {
            self.complete(now, counts);
        }
    }

    /// Completes the oldest submission; its outcome counts unless it was counted before a restart.
    fn complete(&mut self, now: u64, counts: bool) {
        let submission = now - self.slack as u64;
        while self.lowest.front().is_some_and(|(step, _)| *step < submission) {
            self.lowest.pop_front();
        }
        let at_once = self.prices.pop_front().unwrap_or(0.0);
        let lowest = self.lowest.front().map_or(at_once, |(_, low)| *low);
        if !counts {
            self.paid.iter_mut().for_each(|paid| {
                paid.pop_front();
            });
            return;
        }
        // Shares of the price, within -1 and 1: a storm does not outvote a week.
        let scale = at_once.max(1e-9);
        self.available = self.keep * self.available + (at_once - lowest) / scale;
        self.totals.1 += at_once - lowest;
        self.totals.2 += 1;
        for (policy, paid) in self.paid.iter_mut().enumerate() {
            let paid = paid.pop_front().filter(|paid| paid.is_finite()).unwrap_or(at_once);
            let gain = (at_once - paid) / scale.max(paid);
            self.gains[policy] = self.keep * self.gains[policy] + gain;
            self.totals.0[policy] += at_once - paid;
        }
        self.reweigh();
    }

    /// Expected captured share of a policy: the prior, updated by observed outcomes.
    pub(super) fn score(&self, policy: usize) -> f64 {
        (self.gains[policy] + self.start * self.prior[policy]) / (self.available + self.start)
    }

    pub(super) fn reweigh(&mut self) {
        let scores: Vec<f64> = (0..self.prior.len()).map(|policy| self.score(policy)).collect();
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut total = 0.0;
        for (weight, score) in self.weights.iter_mut().zip(&scores) {
            *weight = libm::exp((score - best) / self.temperature);
            total += *weight;
        }
        self.weights.iter_mut().for_each(|weight| *weight /= total);
    }
}
