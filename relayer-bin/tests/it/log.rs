//! The decision log from outside: who asked for what, under which configuration, and a head that anybody may keep.

use std::time::Duration;

use alloy_primitives::B256;
use serde_json::Value;
use slackwater::{
    ledger::{Ledger as _, SqliteConfig, SqliteLedger},
    provenance::Decision,
};
use slackwater_benches::{Result, client::Submitted, wallet::Crowd};

use crate::stage::{Pace, Stage};

#[tokio::test]
async fn acceptances_refusals_ends_and_the_configuration() -> Result<()> {
    let mut stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 2);
    let requests = [crowd.mark(0), crowd.mark(1)];
    stage.submit(&requests).await?;
    for request in &requests {
        stage.ended(request.id).await?;
    }
    for _ in 0..3 {
        let Submitted::Refused(problem) = stage.client().submit(&crowd.mark_within(0, "1ms").body).await? else {
            panic!("nothing lands in a millisecond");
        };
        assert_eq!(problem.code, "deadline_unreachable");
    }
    let head: Value = stage.client().get_json("/v1/log/head").await?;
    assert!(stage.relayer.terminate(Duration::from_secs(30)).await?);

    let ledger = SqliteLedger::open(SqliteConfig::new(stage.relayer.database())).await.expect("the ledger");
    let rows = ledger.decisions(0, 1_000).await.expect("the log");
    let at = rows.iter().find(|row| row.hash.to_string() == head["hash"].as_str().unwrap_or_default());
    assert_eq!(at.map(|row| row.seq), head["seq"].as_u64(), "{head}");
    let decisions: Vec<_> = rows.iter().map(|row| Decision::decode(&row.body).expect("a decision")).collect();
    assert!(matches!(&decisions[0], Decision::Configured { config, .. } if *config != B256::ZERO), "{decisions:?}");
    let ids = requests.map(|request| request.id);
    let accepted = decisions.iter().flat_map(|decision| match decision {
        Decision::Accepted { requests } => requests.as_slice(),
        _ => &[],
    });
    let mut accepted: Vec<B256> = accepted.map(|entry| entry.request).collect();
    accepted.sort_unstable();
    let ended = decisions.iter().flat_map(|decision| match decision {
        Decision::Settled { requests } => requests.as_slice(),
        _ => &[],
    });
    let mut ended: Vec<_> = ended.map(|entry| (entry.request, entry.status.as_str(), entry.cost_wei > 0)).collect();
    ended.sort_unstable();
    let mut sorted = ids;
    sorted.sort_unstable();
    assert_eq!(accepted, sorted);
    assert_eq!(ended, sorted.map(|id| (id, "finalized", true)));
    let refused = decisions.iter().filter_map(|decision| match decision {
        Decision::Refused { code, count, .. } => Some((code.as_str(), *count)),
        _ => None,
    });
    assert_eq!(refused.collect::<Vec<_>>(), [("deadline_unreachable", 3)], "one row for all of a minute");
    drop(ledger);

    // Whoever kept a head finds a log that was cut off.
    let database = stage.relayer.database().to_string_lossy().into_owned();
    let verify = async |head: String| {
        let mut verify = stage.relayer.command(&["audit", "verify", &database, "--head", &head]);
        let output = tokio::task::spawn_blocking(move || verify.output()).await.expect("a task");
        output.expect("it runs").status.success()
    };
    assert!(verify(format!("{}:{}", at.map_or(0, |row| row.seq), head["hash"].as_str().unwrap_or_default())).await);
    assert!(!verify(format!("{}:{}", rows.len() + 1, B256::ZERO)).await);
    stage.close().await
}
