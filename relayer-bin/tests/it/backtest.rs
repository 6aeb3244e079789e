//! `backtest` and `forecast` on files.

use std::{fs, io::Write as _, path::Path, process::Command};

use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

/// A chain by the EIP-1559 rule whose demand falls as the price rises, and swings.
fn blocks(rows: u64, chain: &str) -> String {
    let mut text = "chain,block_number,timestamp,base_fee_wei,gas_used,gas_limit,note\n".to_owned();
    let (mut base, mut state) = (20_000_000_000_u64, 7_u64);
    for row in 0..rows {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let swing = if (row / 40) % 2 == 0 { 3_000_000 } else { 0 };
        let wanted = (13_500_000 + (state >> 40) % 10_000_000 + swing).saturating_sub(base / 4_000);
        let used = wanted.min(30_000_000);
        let (number, time) = (20_000_000 + row, 1_700_000_000 + 12 * row);
        text.push_str(&format!("{chain},{number},{time},{base},{used},30000000,x\n"));
        let delta = u64::try_from(u128::from(base) * u128::from(used.abs_diff(15_000_000)) / 15_000_000 / 8).unwrap();
        base = if used > 15_000_000 { base + delta.max(1) } else { base - delta };
    }
    text
}

fn run(args: &[&str], dir: &Path) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_slackwater")).args(args).current_dir(dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Two good files, one of them packed, and one series.
fn data() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("one.csv"), blocks(500, "ethereum")).unwrap();
    let mut packer = GzEncoder::new(fs::File::create(dir.path().join("two.csv.gz")).unwrap(), Compression::default());
    packer.write_all(blocks(400, "base").as_bytes()).unwrap();
    packer.finish().unwrap();
    let rows = (0..400_u64).map(|row| format!("{},{}.5\n", 1_700_000_000 + 3_600 * row, 20 + (row * 7) % 24));
    let series = format!("timestamp,close_gwei\n{}", rows.collect::<String>());
    fs::write(dir.path().join("three.csv"), series).unwrap();
    dir
}

#[test]
fn a_folder_is_tested_and_told_in_every_form() {
    let dir = data();
    let (code, out, err) = run(&["backtest", ".", "--json", "--csv", "out.txt", "--svg", "out.svg"], dir.path());
    assert_eq!(code, 0, "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["version"], 1);
    let files = json["files"].as_array().unwrap();
    let names: Vec<_> = files.iter().map(|file| file["file"].as_str().unwrap()).collect();
    assert_eq!(names, ["one.csv", "three.csv", "two.csv.gz"]);
    let one = &files[0];
    assert_eq!(
        (one["chain"].as_str(), one["rows"].as_u64(), one["step_s"].as_f64()),
        (Some("ethereum"), Some(500), Some(12.0))
    );
    // The rule is recognised, and then the next fee is exact.
    assert_eq!(one["horizons"]["1"]["mae"], 0.0);
    for key in ["n", "mae", "mae_persistence", "pinball10", "pinball50", "pinball90", "coverage80", "width80"] {
        assert!(one["horizons"]["10"][key].is_number(), "{key}");
    }
    assert_eq!(one["horizons"]["10"]["n"], 500 - 50 - 10);
    for deadline in ["60", "300", "1800"] {
        let of = &one["deadlines"][deadline];
        assert_eq!((of["missed"].as_u64(), of["missed_slip1"].as_u64()), (Some(0), Some(0)));
        for key in ["available", "captured", "captured_slip1"] {
            assert!(of[key].is_number(), "{deadline} {key}");
        }
        for baseline in ["threshold", "scroll", "fuel", "linea", "random"] {
            assert!(of["baselines"][baseline].is_number(), "{deadline} {baseline}");
        }
    }
    assert_eq!(files[1]["step_s"], 3_600.0);
    assert_eq!(files[1]["price"], "close_gwei");
    assert!(files[1]["horizons"]["86400s"].is_object() && files[1]["deadlines"]["43200"].is_object());
    assert_eq!(files[2]["step_s"], 12.0, "timestamps tell that it is not Base's two seconds");
    let n = |of: &Value| of["horizons"]["2"]["n"].as_u64().unwrap();
    assert_eq!(n(&json["pooled"]), n(&files[0]) + n(&files[2]));

    let csv = fs::read_to_string(dir.path().join("out.txt")).unwrap();
    assert!(csv.starts_with("file,kind,key,measure,value\n"));
    assert!(csv.contains("one.csv,horizon,1,mae,0.0\n") && csv.contains("pooled,deadline,60,captured_threshold,"));
    let svg = fs::read_to_string(dir.path().join("out.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("three.csv"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}

#[test]
fn the_same_seed_gives_the_same_figures_on_any_number_of_threads() {
    let dir = data();
    let figures = |jobs: &str| {
        let (code, out, err) = run(
            &["backtest", "one.csv", "two*", "--json", "--jobs", jobs, "--deadlines", "60,600", "--no-prior"],
            dir.path(),
        );
        assert_eq!(code, 0, "{err}");
        out
    };
    assert_eq!(figures("1"), figures("2"));
    let (code, out, _) = run(&["backtest", "one.csv", "--horizons", "2,10", "--deadlines", "120"], dir.path());
    assert_eq!(code, 0);
    for words in ["one.csv", "10 blocks", "2 min", "threshold", "80 % holds", "captured"] {
        assert!(out.contains(words), "{words}: {out}");
    }
}

#[test]
fn a_bad_file_is_told_and_the_others_run() {
    let dir = data();
    fs::write(dir.path().join("bad.csv"), "block_number,base_fee_wei\n1,5\n2,x\n").unwrap();
    let (code, out, err) = run(&["backtest", "bad.csv", "one.csv", "none.csv", "--json"], dir.path());
    assert_eq!(code, 1);
    assert!(err.contains("bad.csv: line 3, column base_fee_wei: \"x\" is not a price"), "{err}");
    assert!(err.contains("none.csv: "), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((json["files"].as_array().unwrap().len(), json["errors"].as_array().unwrap().len()), (1, 2));
    assert_eq!(run(&["backtest", "*.nothing"], dir.path()).0, 2);
    assert_eq!(run(&["backtest", "one.csv", "--horizons", "1h"], dir.path()).0, 2);
    assert_eq!(run(&["backtest", "one.csv", "--deadlines", "0"], dir.path()).0, 2);
}

#[test]
fn a_file_is_forecast() {
    let dir = data();
    let (code, out, err) = run(&["forecast", "one.csv"], dir.path());
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("ethereum after block 20000499") && out.contains("(computed)") && out.contains('░'), "{out}");
    let (code, out, err) = run(&["forecast", "three.csv", "--json", "--horizons", "1,24"], dir.path());
    assert_eq!(code, 0, "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["horizons"][1]["seconds"], 86_400.0);
    let wei = |key: &str| json["horizons"][1][key].as_str().unwrap().parse::<u128>().unwrap();
    assert!(wei("q10Wei") <= wei("q50Wei") && wei("q50Wei") <= wei("q90Wei") && wei("q10Wei") > 1_000_000_000);
    assert!(json["send"].as_object().is_some_and(|send| !send.is_empty()));
    fs::write(dir.path().join("bad.csv"), "block_number,base_fee_wei\n2,5\n1,6\n").unwrap();
    let (code, _, err) = run(&["forecast", "bad.csv"], dir.path());
    assert!(code == 2 && err.contains("bad.csv: line 3, column block_number"), "{err}");
    assert_eq!(run(&["forecast"], dir.path()).0, 2);
}
