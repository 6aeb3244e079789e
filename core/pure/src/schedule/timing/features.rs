//! Features of the fitted policies: a fixed row of numbers per step, free of the chain's price level.

use std::{collections::VecDeque, time::Duration};

/// Numbers in a row.
pub const FEATURES: usize = 36;
/// Features of one step.
pub(super) type Row = [f64; FEATURES];

/// Time constants of the moving averages, in units.
const AVERAGES: [f64; 7] = [2.0, 5.0, 12.5, 33.0, 83.0, 208.0, 600.0];
/// Time constants of the mean absolute moves, in units.
const MOVES: [f64; 3] = [5.0, 33.0, 208.0];
/// Lengths of the sorted windows, in units. The rules use them, too.
pub(super) const WINDOWS: [f64; 6] = [10.0, 25.0, 75.0, 150.0, 300.0, 600.0];
/// Windows whose minimum, rank and lower quartile are features (indices of [`WINDOWS`]).
const RANKED: [usize; 3] = [1, 3, 5];
/// Windows whose range is a feature.
const RANGED: [usize; 4] = [0, 2, 3, 5];
/// Windows whose median is a feature.
const CENTRED: [usize; 4] = [1, 2, 3, 5];
/// Index of the unit in a [`Row`]: the usual log move per unit of time. All distances are measured in it, and it is no
/// feature itself, so that calm and rough markets look alike.
pub(super) const UNIT: usize = FEATURES - 1;
/// Lower bound of the unit: a constant price has no scale.
const LEAST_UNIT: f64 = 2e-4;
/// A time unit is an L1 slot or the step, whichever is longer: EIP-1559 chains with shorter blocks move less per block, and
/// a sub-sampled series is its own clock.
const SLOT_SECONDS: f64 = 12.0;
/// Steps from which a series spans days, so that the hour of day is informative.
const DAILY_FROM_SECONDS: f64 = 100.0;

/// Length of a time unit for a step, seconds.
pub(super) fn unit_seconds(step: Duration) -> f64 {
    step.as_secs_f64().max(SLOT_SECONDS)
}

/// Moving average with bias correction: unbiased from the first value on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Average {
    keep: f64,
    sum: f64,
    weight: f64,
}

impl Average {
    /// An average with time constant `steps`: old values decay by a factor e.
    pub(super) fn new(steps: f64) -> Self {
        Self { keep: libm::exp(-1.0 / steps), sum: 0.0, weight: 0.0 }
    }

    pub(super) fn push(&mut self, value: f64) -> f64 {
        self.sum = self.keep * self.sum + (1.0 - self.keep) * value;
        self.weight = self.keep * self.weight + (1.0 - self.keep);
        self.sum / self.weight
    }
}

/// The most recent values, also in ascending order.
#[derive(Debug, Clone)]
pub(super) struct SortedWindow {
    recent: VecDeque<f64>,
    sorted: Vec<f64>,
    capacity: usize,
}

impl SortedWindow {
    fn new(capacity: usize) -> Self {
        Self { recent: VecDeque::new(), sorted: Vec::new(), capacity }
    }

    fn push(&mut self, value: f64) {
        if self.recent.len() == self.capacity
            && let Some(oldest) = self.recent.pop_front()
        {
            self.sorted.remove(self.sorted.partition_point(|v| *v < oldest));
        }
        self.recent.push_back(value);
        self.sorted.insert(self.sorted.partition_point(|v| *v < value), value);
    }

    /// Linear interpolation between order statistics; 0 without values.
    pub(super) fn quantile(&self, q: f64) -> f64 {
        let Some(last) = self.sorted.len().checked_sub(1) else { return 0.0 };
        #[expect(clippy::cast_precision_loss, reason = "windows are short")]
        let at = q.clamp(0.0, 1.0) * last as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the window")]
        let low = (at as usize).min(last);
        let high = (low + 1).min(last);
        #[expect(clippy::cast_precision_loss, reason = "windows are short")]
        let share = at - low as f64;
        self.sorted[low] + share * (self.sorted[high] - self.sorted[low])
    }

    /// Share of the window at or below `value` (ties count half).
    #[expect(clippy::cast_precision_loss, reason = "windows are short")]
    fn rank(&self, value: f64) -> f64 {
        let below = self.sorted.partition_point(|v| *v < value);
        let upto = self.sorted.partition_point(|v| *v <= value);
        (below + upto) as f64 / (2 * self.sorted.len().max(1)) as f64
    }

    /// Share of the window within `width` of its minimum.
    #[expect(clippy::cast_precision_loss, reason = "windows are short")]
    pub(super) fn share_near_minimum(&self, width: f64) -> f64 {
        let Some(lowest) = self.sorted.first() else { return 0.0 };
        self.sorted.partition_point(|v| *v <= lowest + width) as f64 / self.sorted.len() as f64
    }

    pub(super) fn minimum(&self) -> f64 {
        self.sorted.first().copied().unwrap_or(0.0)
    }

    fn maximum(&self) -> f64 {
        self.sorted.last().copied().unwrap_or(0.0)
    }
}

/// Running state behind the rows and the rules.
#[derive(Debug, Clone)]
pub(super) struct Features {
    averages: [Average; 7],
    moves: [Average; 3],
    pub(super) windows: [SortedWindow; 6],
    last: Option<f64>,
    deltas: [f64; 3],
    steps_per_unit: f64,
    is_daily: bool,
    /// Moving averages of log price, slowest last.
    pub(super) means: [f64; 7],
    /// Mean absolute move per unit of time, medium memory.
    pub(super) volatility: f64,
}

impl Features {
    pub(super) fn new(step: Duration) -> Self {
        let unit = unit_seconds(step);
        let steps_per_unit = unit / step.as_secs_f64().max(1e-3);
        let steps = |units: f64| (units * steps_per_unit).max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 600 000")]
        let window = |units: f64| SortedWindow::new(libm::round(steps(units)).max(5.0) as usize);
        Self {
            averages: AVERAGES.map(|units| Average::new(steps(units))),
            moves: MOVES.map(|units| Average::new(steps(units))),
            windows: WINDOWS.map(window),
            last: None,
            deltas: [0.0; 3],
            steps_per_unit,
            is_daily: unit >= DAILY_FROM_SECONDS,
            means: [0.0; 7],
            volatility: 0.0,
        }
    }

    /// The row for a step with this log price; `seconds` is its block time, seconds.
    pub(super) fn push(&mut self, log_price: f64, seconds: Option<u64>) -> Row {
        let delta = self.last.map_or(0.0, |last| log_price - last);
        self.last = Some(log_price);
        self.deltas = [delta, self.deltas[0], self.deltas[1]];
        for (average, mean) in self.averages.iter_mut().zip(&mut self.means) {
            *mean = average.push(log_price);
        }
        let scale = libm::sqrt(self.steps_per_unit);
        let mut levels = [0.0; 3];
        for (level, average) in levels.iter_mut().zip(&mut self.moves) {
            *level = average.push(delta.abs()) * scale;
        }
        self.volatility = levels[1];
        for window in &mut self.windows {
            window.push(log_price);
        }
        let [short, medium, long] = levels.map(|level| level + LEAST_UNIT);
        let unit = libm::sqrt(medium * long);

        let mut row = [0.0; FEATURES];
        row[UNIT] = unit;
        let mut at = 0;
        let mut put = |value: f64| {
            row[at] = if value.is_finite() { value } else { 0.0 };
            at += 1;
        };
        for (mean, units) in self.means.iter().zip(AVERAGES) {
            put((log_price - mean) / unit / libm::sqrt(units.min(83.0)));
        }
        for delta in self.deltas {
            put(delta * self.steps_per_unit / unit);
        }
        put(short / medium);
        put(medium / long);
        for index in RANKED {
            let window = &self.windows[index];
            put((log_price - window.minimum()) / unit);
            put(window.rank(log_price));
            put((log_price - window.quantile(0.25)) / unit);
        }
        for index in RANGED {
            let window = &self.windows[index];
            put((window.maximum() - log_price) / unit);
            put((log_price - window.minimum()) / (window.maximum() - window.minimum() + unit));
        }
        for index in CENTRED {
            put((log_price - self.windows[index].quantile(0.5)) / unit);
        }
        #[expect(clippy::cast_precision_loss, reason = "seconds of a day")]
        let hour = seconds.filter(|_| self.is_daily).map(|s| (s % 86_400) as f64 / 86_400.0 * core::f64::consts::TAU);
        put(hour.map_or(0.0, libm::sin));
        put(hour.map_or(0.0, libm::cos));
        row
    }
}
