//! A text-mode fan chart.

use std::{fmt::Write as _, time::Duration};

use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use slackwater_core::forecast::Forecast;

/// Columns of history, and of the forecast.
pub(super) const PAST: usize = 40;
const AHEAD: usize = 40;
/// Lines of the chart.
const LINES: usize = 15;

/// A fee in readable form.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn fee(wei: u128) -> String {
    match wei {
        0..1_000_000 => format!("{wei} wei"),
        _ => {
            let gwei = wei as f64 / 1e9;
            let digits = if gwei >= 100.0 {
                1
            } else if gwei >= 1.0 {
                3
            } else {
                6
            };
            format!("{gwei:.digits$} gwei")
        }
    }
}

/// A time in readable form.
pub(super) fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

/// Log quantiles .1, .5, .9 some steps ahead, linear between two horizons.
fn levels(forecast: &Forecast, steps: f64) -> [f64; 3] {
    let of = |at: usize| [0.1, 0.5, 0.9].map(|p| forecast.horizons[at].log_quantile(p));
    let above = forecast.horizons.iter().position(|horizon| f64::from(horizon.steps) >= steps);
    match above {
        None => of(forecast.horizons.len() - 1),
        Some(0) => of(0),
        Some(at) => {
            let (low, high) = (f64::from(forecast.horizons[at - 1].steps), f64::from(forecast.horizons[at].steps));
            let (from, to, share) = (of(at - 1), of(at), (steps - low) / (high - low));
            [0, 1, 2].map(|level| from[level] + share * (to[level] - from[level]))
        }
    }
}

/// The last fees, then the forecast: median and 80 % band. Horizons are ascending.
#[expect(clippy::cast_precision_loss, reason = "a picture")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the lines")]
pub(super) fn draw(past: &[u128], forecast: &Forecast, is_coloured: bool) -> String {
    let Some(last) = forecast.horizons.last() else { return String::new() };
    let log = |wei: u128| (wei.max(1) as f64).ln();
    let past: Vec<f64> = past.iter().rev().take(PAST).rev().map(|wei| log(*wei)).collect();
    let reach = f64::from(last.steps);
    // Denser at the start, where it matters.
    let ahead: Vec<(f64, [f64; 3])> = (1..=AHEAD)
        .map(|column| {
            let share = column as f64 / AHEAD as f64;
            let steps = (share * share * reach).max(1.0);
            (steps, levels(forecast, steps))
        })
        .collect();
    let all = past.iter().copied().chain(ahead.iter().flat_map(|(_, levels)| *levels));
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let (low, high) = if high - low < 0.01 { (low - 0.005, high + 0.005) } else { (low, high) };
    let line = |value: f64| {
        (((high - value) / (high - low)) * (LINES - 1) as f64).round().clamp(0.0, (LINES - 1) as f64) as usize
    };
    let mut cells = vec![vec![' '; PAST + AHEAD + 1]; LINES];
    for (column, value) in past.iter().enumerate() {
        cells[line(*value)][PAST - past.len() + column] = '•';
    }
    for row in &mut cells {
        row[PAST] = '│';
    }
    for (column, (_, [bottom, median, top])) in ahead.iter().enumerate() {
        for row in &mut cells[line(*top)..=line(*bottom)] {
            row[PAST + 1 + column] = '░';
        }
        cells[line(*median)][PAST + 1 + column] = '━';
    }
    let mut out = String::new();
    for (index, row) in cells.iter().enumerate() {
        let label = if index % 7 == 0 {
            fee((high - (high - low) * index as f64 / (LINES - 1) as f64).exp().round() as u128)
        } else {
            String::new()
        };
        let (before, after): (String, String) = (row[..PAST].iter().collect(), row[PAST..].iter().collect());
        let (colour, plain) = if is_coloured { ("\x1b[36m", "\x1b[0m") } else { ("", "") };
        // Writing to a String does not fail.
        let _ = writeln!(out, "{label:>16} {before}{colour}{after}{plain}");
    }
    let _ = writeln!(out, "{:>16} {:<PAST$}now{:>37}", "", format!("−{}", past.len()), format!("+{}", last.steps));
    out
}

/// The same as a table.
pub(super) fn table(forecast: &Forecast, step: Duration) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["ahead", "in", "10 %", "median", "90 %"]);
    for horizon in &forecast.horizons {
        table.add_row([
            horizon.steps.to_string(),
            time((step * horizon.steps).as_secs()),
            fee(horizon.q10),
            fee(horizon.q50),
            fee(horizon.q90),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use slackwater_core::{
        forecast::{ForecastConfig, Forecaster},
        market::{FeePoint, Tips},
    };

    use super::*;

    #[test]
    fn a_chart_has_past_and_future() {
        let mut forecaster = Forecaster::new(ForecastConfig::default()).unwrap();
        let mut past = Vec::new();
        for number in 0..300_u64 {
            let base_fee = 20_000_000_000 + u128::from(number % 17) * 900_000_000;
            let (timestamp, utilisation, tips) = (None, None, Tips::default());
            forecaster.observe(&FeePoint { number, timestamp, base_fee, utilisation, tips, next_base_fee: None });
            past.push(base_fee);
        }
        let forecast = forecaster.forecast().unwrap();
        let chart = draw(&past, &forecast, false);
        assert_eq!(chart.matches('•').count(), PAST);
        assert_eq!(chart.matches('━').count(), AHEAD);
        assert_eq!(chart.lines().count(), LINES + 1);
        assert!(chart.contains("gwei") && !chart.contains('\x1b'), "{chart}");
        assert!(draw(&past, &forecast, true).contains('\x1b'));
        assert!(table(&forecast, Duration::from_secs(12)).to_string().contains("30 min"));
        // One row, and a floor of 0.
        assert!(draw(&[0], &forecast, false).contains('•'));
    }

    #[test]
    fn fees_for_people() {
        assert_eq!(fee(7), "7 wei");
        assert_eq!(fee(50_665_748), "0.050666 gwei");
        assert_eq!(fee(20_123_456_789), "20.123 gwei");
        assert_eq!(fee(1_352_000_000_000), "1352.0 gwei");
        assert_eq!((time(60), time(1_800), time(43_200)), ("60 s".into(), "30 min".into(), "12 h".into()));
    }
}
