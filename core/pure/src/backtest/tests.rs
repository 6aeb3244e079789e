use super::{
    score::{lowest_within, random_total},
    *,
};
use crate::{
    forecast::Forecast,
    market::csv::{CsvOptions, parse},
};

/// A chain by the EIP-1559 rule whose demand falls with the price and swings; with header gas, or the base fees alone.
fn file(rows: u64, is_gas: bool, seed: u64) -> String {
    let mut text = "chain,block_number,timestamp,base_fee_wei,gas_used,gas_limit\n".to_owned();
    let (mut base, mut state) = (20_000_000_000_u64, seed.wrapping_mul(2).wrapping_add(1));
    for row in 0..rows {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let noise = (state >> 40) % 10_000_000;
        let swing = if (row / 40) % 2 == 0 { 3_000_000 } else { 0 };
        // A quarter of a million gas less for each additional gwei.
        let wanted = (13_500_000 + noise + swing).saturating_sub(base / 4_000);
        let used = wanted.min(30_000_000);
        let gas = if is_gas { format!("{used},30000000") } else { ",".to_owned() };
        text.push_str(&format!("ethereum,{},{},{base},{gas}\n", 20_000_000 + row, 1_700_000_000 + 12 * row));
        let delta = u64::try_from(u128::from(base) * u128::from(used.abs_diff(15_000_000)) / 15_000_000 / 8).unwrap();
        base = if used > 15_000_000 { base + delta.max(1) } else { base - delta };
    }
    text
}

fn trace(text: &str) -> Trace {
    Trace::new(parse(text, &CsvOptions::default()).unwrap(), None)
}

type Decisions = (Vec<(usize, Forecast)>, Vec<SentAt>);

/// All forecasts and sends, with their times.
fn decisions(text: &str) -> Decisions {
    let trace = trace(text);
    let run = ForecastRun { horizons: Horizons::usual(&trace), prior: None, seed: 1 };
    let mut forecasts = Vec::new();
    score_forecasts(trace.clone(), &run, |row, _, forecast| forecasts.push((row, forecast.clone()))).unwrap();
    let run = TimingRun { deadlines: Deadlines::of(&trace, &[60, 300, 1_800]), prior: None, seed: 1, slip: 0 };
    let mut sent = Vec::new();
    score_timing(trace, &run, |_, at| sent.extend(at)).unwrap();
    (forecasts, sent)
}

/// The text with altered fees, gas and times in the rows after `last`.
fn perturbed(text: &str, last: usize) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (index, line) in lines.iter_mut().enumerate().skip(last + 2) {
        let mut cells: Vec<String> = line.split(',').map(str::to_owned).collect();
        cells[3] = (7_000_000_000_u64 + 13 * index as u64 * (1 + index as u64 % 7)).to_string();
        if !cells[4].is_empty() {
            cells[4] = (29_000_000 - index).to_string();
        }
        *line = cells.join(",");
    }
    lines.join("\n")
}

/// Invariant: no look-ahead.
#[test]
fn perturbing_the_future_never_changes_a_past_decision() {
    let text = file(800, true, 3);
    let (forecasts, sent) = decisions(&text);
    assert!(sent.len() > 500 && forecasts.len() == 800);
    for last in [5, 333, 701] {
        let (other_forecasts, other_sent) = decisions(&perturbed(&text, last));
        assert_eq!(forecasts[..=last], other_forecasts[..=last], "forecasts up to row {last}");
        assert_ne!(forecasts[last + 1], other_forecasts[last + 1]);
        let until = |sent: &[SentAt]| sent.iter().copied().filter(|at| at.row <= last).collect::<Vec<_>>();
        assert_eq!(until(&sent), until(&other_sent), "decisions up to row {last}");
        assert_ne!(sent, other_sent);
    }
}

/// Without header gas a row reveals the next block's base fee, which its header determined, and nothing beyond.
#[test]
fn without_header_gas_only_the_next_base_fee_is_told() {
    let text = file(500, false, 4);
    let (forecasts, sent) = decisions(&text);
    for last in [9, 400] {
        let (other_forecasts, other_sent) = decisions(&perturbed(&text, last + 1));
        assert_eq!(forecasts[..=last], other_forecasts[..=last]);
        let until = |sent: &[SentAt]| sent.iter().copied().filter(|at| at.row <= last).collect::<Vec<_>>();
        assert_eq!(until(&sent), until(&other_sent));
    }
}

#[test]
fn scores_of_a_chain_with_header_gas() {
    let trace = trace(&file(1_500, true, 5));
    let run = ForecastRun { horizons: Horizons::usual(&trace), prior: None, seed: 1 };
    let horizons = score_forecasts(trace.clone(), &run, |_, _, _| {}).unwrap();
    let next = horizons[&HorizonKey::Blocks(1)];
    // The last block has no successor in the file.
    assert_eq!((next.n, next.mae), (1_500 - 50 - 1, 0.0));
    for (key, report) in &horizons {
        let HorizonKey::Blocks(blocks) = key else { panic!("{key}") };
        assert_eq!(report.n, 1_500 - 50 - u64::from(*blocks));
        assert!(report.pinball50 <= report.mae && report.pinball10 > 0.0 || *blocks == 1);
    }
    let ten = horizons[&HorizonKey::Blocks(10)];
    assert!(ten.mae < ten.mae_persistence && (0.6..=0.95).contains(&ten.coverage80), "{ten:?}");

    let run = TimingRun { deadlines: Deadlines::usual(&trace), prior: None, seed: 1, slip: 0 };
    let deadlines = score_timing(trace.clone(), &run, |_, _| {}).unwrap();
    assert_eq!(deadlines.keys().copied().collect::<Vec<_>>(), [60, 300, 1_800, 7_200]);
    for report in deadlines.values() {
        assert_eq!((report.missed, report.n), (0, 1_499 - u64::from(report.steps)));
        assert!(report.captured.unwrap() <= 1.0 && report.available > 0.0);
        assert_eq!(
            report.baselines.keys().copied().collect::<Vec<_>>(),
            ["fuel", "linea", "random", "scroll", "threshold"]
        );
    }
    assert!(deadlines[&1_800].captured.unwrap() > 0.3, "{:?}", deadlines[&1_800]);
    let slipped = score_timing(trace, &TimingRun { slip: 1, ..run }, |_, _| {}).unwrap();
    assert!(slipped.values().all(|report| report.missed == 0 && report.baselines.is_empty()));
    // One block of delay hurts the shortest deadlines most.
    assert!(slipped[&60].captured < deadlines[&60].captured, "{:?} {:?}", slipped[&60], deadlines[&60]);
}

#[test]
fn windows_by_hand() {
    let prices = [5.0, 3.0, 4.0, 6.0, 1.0];
    assert_eq!(lowest_within(&prices, 2), [3.0, 3.0, 1.0]);
    assert_eq!(lowest_within(&prices, 4), [1.0]);
    assert!((random_total(&prices, 2) - (4.0 + 13.0 / 3.0 + 11.0 / 3.0)).abs() < 1e-12);
    assert!(lowest_within(&prices, 5).is_empty());
}

#[test]
fn block_times() {
    let step = |chain: &str, first: u64, gap: &str| {
        let gap: Option<u64> = gap.parse().ok();
        let mut text = "chain,block_number,timestamp,base_fee_wei\n".to_owned();
        for row in 0..100 {
            let time = gap.map(|gap| (1_000 + gap * row / 100).to_string()).unwrap_or_default();
            text.push_str(&format!("{chain},{},{time},{}\n", first + row, 7 + row));
        }
        trace(&text).step().as_millis()
    };
    assert_eq!(step("ethereum", 14_000_000, ""), 13_300);
    assert_eq!(step("ethereum", 15_537_394, ""), 12_000);
    assert_eq!(step("polygon", 1, ""), 2_000);
    // Missed slots do not change the nominal step; a clearly different one does.
    assert_eq!(step("ethereum", 20_000_000, "1215"), 12_000);
    assert_eq!(step("ethereum", 20_000_000, "200"), 2_000);
    assert_eq!(step("nobody knows", 1, "300"), 3_000);
    assert_eq!(step("nobody knows", 1, ""), 12_000);
}

#[test]
fn odd_histories_are_judged_or_refused() {
    let run = |text: &str| {
        let trace = trace(text);
        let forecast = ForecastRun { horizons: Horizons::usual(&trace), prior: None, seed: 1 };
        let horizons = score_forecasts(trace.clone(), &forecast, |_, _, _| {});
        let timing = TimingRun { deadlines: Deadlines::usual(&trace), prior: None, seed: 1, slip: 1 };
        (horizons, score_timing(trace, &timing, |_, _| {}))
    };
    let head = "block_number,base_fee_wei\n";
    assert_eq!(run(&format!("{head}1,7\n2,8\n")).0, Err(BacktestError::TooShort { rows: 2, least: 4 }));
    let flat: String = (1..400).map(|row| format!("{row},7\n")).collect();
    let (horizons, deadlines) = run(&format!("{head}{flat}"));
    assert!(horizons.unwrap().values().all(|report| report.mae == 0.0));
    assert!(deadlines.unwrap().values().all(|report| report.captured.is_none() && report.missed == 0));
    let zero: String = (1..400).map(|row| format!("{},{}\n", row * 3, row % 2)).collect();
    assert!(run(&format!("{head}{zero}")).1.is_ok());
    let huge: String = (1..400).map(|row| format!("{row},{}\n", u128::MAX - row)).collect();
    assert!(run(&format!("{head}{huge}")).0.unwrap().values().all(|report| report.mae.is_finite()));
}

#[test]
fn files_are_pooled_by_their_rows() {
    let horizon = |n, mae| HorizonReport { n, mae, ..HorizonReport::default() };
    let deadline = |n, captured| DeadlineReport { n, captured, missed: 1, ..DeadlineReport::default() };
    let file = |key, n, mae, captured| FileReport {
        horizons: [(key, horizon(n, mae))].into(),
        deadlines: [(60, deadline(n, captured))].into(),
    };
    let two = HorizonKey::Blocks(2);
    let hour = HorizonKey::Seconds(3_600);
    let pooled = pool(&[file(two, 100, 0.1, Some(0.5)), file(two, 300, 0.3, None), file(hour, 50, 1.0, Some(0.2))]);
    assert_eq!(pooled.horizons.keys().map(ToString::to_string).collect::<Vec<_>>(), ["2", "3600s"]);
    assert!((pooled.horizons[&two].mae - 0.25).abs() < 1e-12 && pooled.horizons[&two].n == 400);
    assert!((pooled.deadlines[&60].captured.unwrap() - 0.4).abs() < 1e-12 && pooled.deadlines[&60].missed == 3);
}
