//! `fees record` and `forecast` against a real node.

use std::{fs, path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use slackwater_benches::{Anvil, Node, Result};
use slackwater_core::market::{
    FeePoint,
    csv::{CsvOptions, parse},
};
use tokio::process::Command;

async fn run(args: &[&str], dir: &Path) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_slackwater")).args(args).current_dir(dir).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn rows(path: &Path) -> Vec<FeePoint> {
    parse(&fs::read_to_string(path).unwrap(), &CsvOptions::default()).unwrap().points
}

/// Asserts that the file has every block once, in order, with the node's values.
async fn assert_matches(path: &Path, node: &Node, from: u64, to: u64) -> Result<()> {
    let rows = rows(path);
    assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), (from..=to).collect::<Vec<_>>());
    for row in rows {
        let block: Value =
            node.call("eth_getBlockByNumber", serde_json::json!([format!("{:#x}", row.number), false])).await?;
        let quantity = |key: &str| u128::from_str_radix(&block[key].as_str().unwrap()[2..], 16).unwrap();
        assert_eq!(
            (row.base_fee, u128::from(row.timestamp.unwrap().0)),
            (quantity("baseFeePerGas"), quantity("timestamp"))
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_recording_is_resumed_without_gaps_or_duplicates() -> Result<()> {
    let anvil = Anvil::builder().spawn().await?;
    let node = Node::new(anvil.url())?;
    node.mine(300).await?;
    let dir = tempfile::tempdir().unwrap();
    let (path, url) = (dir.path().join("fees.csv"), anvil.url());
    let record = ["fees", "record", "--rpc", url, "--out", "fees.csv", "--depth", "0"];
    let (code, _, err) = run(&record, dir.path()).await;
    assert!(code == 2 && err.contains("--blocks"), "{err}");
    let (code, out, err) = run(&[&record[..], &["--from", "5", "--to", "290"]].concat(), dir.path()).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("286 blocks of anvil written, up to block 290"), "{out}");
    assert_matches(&path, &node, 5, 290).await?;

    // Torn in the middle of a row, as by a power cut; then new blocks.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 30]).unwrap();
    node.mine(20).await?;
    let head = node.block_number().await?;
    assert_eq!(run(&record, dir.path()).await.0, 0);
    assert_matches(&path, &node, 5, head).await?;
    let (code, out, _) = run(&record, dir.path()).await;
    assert!(code == 0 && out.contains("0 blocks"), "{out}");

    // A reorganisation replaced the last five blocks.
    node.set_next_base_fee(77_000_000_000).await?;
    node.reorg(5).await?;
    node.mine(3).await?;
    let head = node.block_number().await?;
    assert_eq!(run(&record, dir.path()).await.0, 0);
    assert_matches(&path, &node, 5, head).await?;

    let (code, _, err) = run(&[&record[..], &["--chain", "other"]].concat(), dir.path()).await;
    assert!(code == 2 && err.contains("it holds chain anvil, not other"), "{err}");
    let (code, _, err) =
        run(&["fees", "record", "--rpc", "http://127.0.0.1:1", "--out", "x.csv", "--blocks", "3"], dir.path()).await;
    assert!(code == 3, "{err}");
    assert!(!dir.path().join("x.csv").exists());
    Ok(())
}

#[tokio::test]
async fn a_recording_follows_the_head_through_a_kill() -> Result<()> {
    let anvil = Anvil::builder().arg("--block-time").arg("0.2").spawn().await?;
    let node = Node::new(anvil.url())?;
    let dir = tempfile::tempdir().unwrap();
    let (path, url) = (dir.path().join("fees.csv.gz"), anvil.url());
    let follow = ["fees", "record", "--rpc", url, "--out", "fees.csv.gz", "--from", "1", "--follow", "--depth", "2"];
    let count = || {
        let mut text = String::new();
        let file = fs::File::open(&path).ok()?;
        // A gzip member that is being written ends early; the data before it counts.
        let _ = std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(file), &mut text);
        Some(text.lines().count().saturating_sub(1))
    };
    for goal in [8, 16] {
        let mut recording = Command::new(env!("CARGO_BIN_EXE_slackwater"))
            .args(follow)
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        for _ in 0..600 {
            if count().is_some_and(|rows| rows >= goal) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        recording.kill().await.unwrap();
        assert!(count().is_some_and(|rows| rows >= goal));
    }
    let (code, out, err) = run(&["fees", "record", "--rpc", url, "--out", "fees.csv.gz"], dir.path()).await;
    assert_eq!(code, 0, "{out}{err}");
    let mut text = String::new();
    let file = fs::File::open(&path).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(file), &mut text).unwrap();
    let plain = dir.path().join("plain.csv");
    fs::write(&plain, text).unwrap();
    let last = rows(&plain).last().unwrap().number;
    assert_matches(&plain, &node, 1, last).await
}

#[tokio::test]
async fn a_node_is_forecast() -> Result<()> {
    let anvil = Anvil::builder().spawn().await?;
    let node = Node::new(anvil.url())?;
    node.mine(120).await?;
    let dir = tempfile::tempdir().unwrap();
    let url = anvil.url();
    let (code, out, err) = run(&["forecast", "--rpc", url, "--once", "--json"], dir.path()).await;
    assert_eq!(code, 0, "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((json["chain"].as_str(), json["block"].as_u64()), (Some("anvil"), Some(120)));
    node.mine(1).await?;
    let block: Value = node.call("eth_getBlockByNumber", serde_json::json!(["latest", false])).await?;
    let mined = u128::from_str_radix(&block["baseFeePerGas"].as_str().unwrap()[2..], 16).unwrap();
    assert_eq!(json["nextBaseFeeWei"], mined.to_string());
    assert_eq!(json["horizons"][0]["q90Wei"], mined.to_string());
    let (code, out, err) = run(&["forecast", "--rpc", url, "--once"], dir.path()).await;
    assert!(code == 0 && out.contains("anvil after block 121") && out.contains("now"), "{out}{err}");
    assert_eq!(run(&["forecast", "--rpc", "http://127.0.0.1:1", "--once"], dir.path()).await.0, 3);
    Ok(())
}
