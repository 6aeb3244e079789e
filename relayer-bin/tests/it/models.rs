//! Learned models survive the process, and operators can override them.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use slackwater_benches::{
    Result,
    proxy::{Fault, Rule},
    wallet::Crowd,
};
use slackwater_ledger::{Ledger as _, SqliteConfig, SqliteLedger, Write};

use crate::stage::{PATIENCE, Pace, Stage, until};

/// Blocks before the relayer is started again: more than a first fit needs, whether the fit comes before or after.
const BLOCKS: u64 = 1_100;
/// Blocks of fee history that are read at start (`fee_history_blocks`).
const HISTORY: u64 = 1_024;
/// Time limit for a fit in a build without optimisation.
const FIT_PATIENCE: Duration = Duration::from_secs(120);

impl Stage {
    /// The only chain's models.
    async fn models(&self) -> Result<Vec<Value>> {
        let answer: Value = self.client().get_json("/v1/models").await?;
        Ok(answer["models"].as_array().expect("a list").clone())
    }

    /// Waits for a first fit, without mining a block for it.
    async fn fitted(&self) -> Result<Vec<Value>> {
        until("a first fit", FIT_PATIENCE, async || {
            let models = self.models().await?;
            Ok((!models.is_empty()).then_some(models))
        })
        .await
    }

    async fn forecast(&self) -> Result<Value> {
        self.client().get_json("/v1/chains/31337/forecast").await
    }

    async fn restart(&mut self) -> Result<()> {
        assert!(self.relayer.terminate(Duration::from_secs(30)).await?, "the relayer ends with an error");
        self.relayer.start().await
    }

    /// Runs `slackwater models …`: exit code, standard output and standard error.
    async fn models_cli(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slackwater"));
        command.arg("models").args(args).env("SLACKWATER_URL", self.relayer.url()).env_remove("SLACKWATER_API_KEY");
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

fn of<'a>(models: &'a [Value], key: &str) -> Vec<&'a Value> {
    models.iter().map(|model| &model[key]).collect()
}

#[tokio::test]
async fn models_and_pin_survive_restarts_and_crashes() -> Result<()> {
    let mut stage =
        Stage::at(Pace::Manual).chain_key("timing", "\"forecast\"").chain_key("learned_save_ms", 1_000).raise().await?;
    assert!(stage.models().await?.is_empty());
    let (code, _, complaint) = stage.models_cli(&["rollback", "31337"]).await;
    assert_eq!(code, Some(4), "{complaint}");
    assert!(complaint.contains("no_earlier_model"), "{complaint}");
    stage.node().mine(BLOCKS).await?;
    stage.restart().await?;
    stage.mine(1).await?;
    let fitted = stage.fitted().await?;
    assert_eq!((of(&fitted, "version"), of(&fitted, "isActive")), (vec![&json!(1)], vec![&json!(true)]));
    assert_eq!(fitted[0]["isPinned"], false);
    assert!(!stage.relayer.log().contains("panicked"));
    assert!(fitted[0]["lastBlock"].as_u64() >= Some(400), "{fitted:?}");
    // A fit is stored at once, and a pin before it is answered: neither needs an orderly shutdown.
    let (code, pinned, complaint) = stage.models_cli(&["pin", "31337", "1", "--json"]).await;
    assert_eq!(code, Some(0), "{complaint}");
    let pinned: Value = serde_json::from_str(&pinned).expect("JSON");
    assert_eq!(pinned["models"][0]["isPinned"], true, "{pinned}");
    stage.mine(1).await?;
    let before = stage.forecast().await?;
    stage.relayer.kill();
    stage.relayer.start().await?;
    let after = until("the models after a crash", PATIENCE, async || {
        let models = stage.models().await?;
        Ok((!models.is_empty()).then_some(models))
    })
    .await?;
    assert_eq!(json!(after), pinned["models"]);
    assert_eq!(stage.forecast().await?["model"], before["model"], "the same models are in force");

    let (code, export, complaint) = stage.models_cli(&["export", "31337"]).await;
    assert_eq!(code, Some(0), "{complaint}");
    let (code, listed, _) = stage.models_cli(&["list", "--chain", "31337"]).await;
    assert!(code == Some(0) && listed.contains("pinned") && listed.contains(fitted[0]["id"].as_str().expect("text")));
    let (code, unpinned, complaint) = stage.models_cli(&["unpin", "31337", "--json"]).await;
    assert_eq!(code, Some(0), "{complaint}");
    assert!(unpinned.contains("\"isPinned\":false"), "{unpinned}");
    assert_eq!(stage.models_cli(&["promote", "31337", "7"]).await.0, Some(4), "there is no version 7");
    assert_eq!(stage.models_cli(&["pin", "1", "1"]).await.0, Some(4), "chain 1 is not served");

    // One changed digit of one coefficient is detected; importing the unchanged export restores the pin.
    let file = stage.relayer.database().with_file_name("models.json");
    let at = export.find("\"constant\":").expect("a model") + "\"constant\":".len();
    let digit = at + export[at..].find(|c: char| ('1'..='8').contains(&c)).expect("a digit");
    let mut forged = export.clone();
    forged.replace_range(digit..=digit, "9");
    std::fs::write(&file, &forged).expect("a file");
    let path = file.to_str().expect("UTF-8");
    let (code, _, complaint) = stage.models_cli(&["import", "31337", path]).await;
    assert_eq!(code, Some(4), "{complaint}");
    assert!(complaint.contains("invalid_models"), "{complaint}");
    std::fs::write(&file, &export).expect("a file");
    let (code, imported, complaint) = stage.models_cli(&["import", "31337", path, "--json"]).await;
    assert_eq!(code, Some(0), "{complaint}");
    assert_eq!(serde_json::from_str::<Value>(&imported).expect("JSON"), pinned);
    stage.restart().await?;
    assert_eq!(json!(stage.models().await?), pinned["models"]);

    let mut crowd = Crowd::new(&stage.world, 2);
    let requests = crowd.marks(4);
    stage.submit(&requests).await?;
    stage.settle_mining().await?;
    assert_eq!(stage.check(&requests).await?.count("finalized", None), 4);
    stage.close().await
}

/// A node that provides no fee history at start provides it later: the first head with one brings all of it.
#[tokio::test]
async fn a_history_that_could_not_be_read_is_read_later() -> Result<()> {
    let mut stage = Stage::at(Pace::Manual).proxied().chain_key("timing", "\"forecast\"").raise().await?;
    stage.follow().await?;
    let first = stage.node().block_number().await?;
    let history = stage.proxy().add(Rule::always(Fault::DropBefore).on("eth_feeHistory"));
    stage.node().mine(BLOCKS).await?;
    stage.restart().await?;
    for _ in 0..3 {
        stage.mine(1).await?;
    }
    assert!(stage.relayer.log().contains("no fee history yet"));
    assert!(stage.models().await?.is_empty());
    stage.proxy().remove(history);
    stage.mine(1).await?;
    let fitted = stage.fitted().await?;
    let block = |key: &str| fitted[0][key].as_u64().expect("a number");
    let head = stage.node().block_number().await?;
    assert_eq!(block("lastBlock"), head, "{fitted:?}");
    assert!(block("lastBlock") - block("firstBlock") > 900, "{fitted:?}");

    // As after an outage: all missed blocks are read, not only the last ones.
    let history = stage.proxy().add(Rule::always(Fault::DropBefore).on("eth_feeHistory"));
    stage.mine(200).await?;
    stage.mine(1).await?;
    stage.proxy().remove(history);
    stage.mine(1).await?;
    assert!(stage.relayer.terminate(Duration::from_secs(30)).await?);
    let ledger = SqliteLedger::open(SqliteConfig::new(stage.relayer.database())).await.expect("a ledger");
    let kept = ledger.meta("learned.31337").await.expect("an answer").expect("it is kept");
    ledger.close().await;
    let kept: Value = serde_json::from_str(&kept).expect("JSON");
    let kept: Value = serde_json::from_str(kept["body"].as_str().expect("text")).expect("JSON");
    assert_eq!(kept["newest"], head + 202);
    // From genesis to the first start, then a whole history, then the blocks after it: each once.
    assert_eq!(kept["forecast"]["observed"], first + 1 + HISTORY + 202);
    stage.relayer.start().await?;
    stage.close().await
}

/// Expert weights resume where they were; damaged ones, or ones of another version, are discarded with a warning.
#[tokio::test]
async fn weights_survive_and_damage_does_no_harm() -> Result<()> {
    let mut stage = Stage::at(Pace::Manual).chain_key("timing", "\"forecast\"").raise().await?;
    for _ in 0..6 {
        stage.mine(60).await?;
    }
    let before = stage.forecast().await?;
    stage.restart().await?;
    until("a forecast", PATIENCE, async || Ok(stage.forecast().await.ok())).await?;
    let after = stage.forecast().await?;
    assert_eq!(before["head"], after["head"]);
    for (one, other) in [("horizons", "experts"), ("slacks", "policies")].map(|(list, weights)| {
        let of = |forecast: &Value| -> Vec<Value> {
            forecast[list].as_array().expect("a list").iter().map(|item| item[weights].clone()).collect()
        };
        (of(&before), of(&after))
    }) {
        assert_eq!(one, other, "the same weights after the restart");
    }
    assert!(!stage.relayer.log().contains("left aside"));

    for (value, is_version) in [
        ("{\"format\":1,\"hash\":", false),
        (
            "{\"format\":99,\"hash\":\"0x0000000000000000000000000000000000000000000000000000000000000000\",\"body\":\"\"}",
            true,
        ),
    ] {
        assert!(stage.relayer.terminate(Duration::from_secs(30)).await?);
        let ledger = SqliteLedger::open(SqliteConfig::new(stage.relayer.database())).await.expect("a ledger");
        let writes =
            ["models.31337", "learned.31337"].map(|key| Write::Meta { key: key.to_owned(), value: value.to_owned() });
        ledger.commit(writes.into()).await.expect("committed");
        ledger.close().await;
        stage.relayer.start().await?;
        let log = stage.relayer.log();
        assert!(log.contains("what was kept is left aside"), "{value}");
        assert_eq!(log.contains("format 99"), is_version);
        stage.mine(1).await?;
        assert!(stage.forecast().await?["horizons"].is_array());
    }
    stage.close().await
}
