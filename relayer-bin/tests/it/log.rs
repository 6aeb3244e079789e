//! The decision log from outside: which key submitted each request, the configuration in force, and a head that anybody
//! may keep.

use std::{collections::BTreeSet, time::Duration};

use alloy_primitives::B256;
use serde_json::Value;
use slackwater_benches::{Result, client::Submitted, wallet::Crowd};
use slackwater_core::provenance::Decision;
use slackwater_ledger::{Ledger as _, SqliteConfig, SqliteLedger};

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
    // One entry for each transaction, right after its plan.
    let planned = decisions.windows(2).filter_map(|pair| match pair {
        [Decision::Planned { batch, .. }, next] => Some((*batch, next)),
        _ => None,
    });
    let planned: Vec<_> = planned.collect();
    for (batch, next) in &planned {
        assert!(matches!(next, Decision::Sent { batch: sent, .. } if sent == batch), "{next:?}");
    }
    let sent = decisions.iter().filter_map(|decision| match decision {
        Decision::Sent { attempt, .. } => Some(*attempt),
        _ => None,
    });
    let sent: Vec<B256> = sent.collect();
    assert!(!sent.is_empty() && sent.len() == planned.len(), "{decisions:?}");
    let bumped = decisions.iter().filter_map(|decision| match decision {
        Decision::Bumped { attempt, .. } => Some(*attempt),
        _ => None,
    });
    let attempts: BTreeSet<B256> = bumped.chain(sent).collect();
    let executed = decisions.iter().flat_map(|decision| match decision {
        Decision::Settled { requests } => requests.iter().filter_map(|ended| ended.attempt).collect(),
        _ => Vec::new(),
    });
    assert!(executed.collect::<BTreeSet<_>>().is_subset(&attempts), "{decisions:?}");
    let refused = decisions.iter().filter_map(|decision| match decision {
        Decision::Refused { code, count, .. } => Some((code.as_str(), *count)),
        _ => None,
    });
    assert_eq!(refused.collect::<Vec<_>>(), [("deadline_unreachable", 3)], "one row for all of a minute");
    drop(ledger);

    // A head that was kept reveals a truncated log.
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

/// A changed row in the ledger is detected by the log, and named.
#[tokio::test]
async fn a_changed_row_is_named() -> Result<()> {
    use sqlx::{Connection as _, Executor as _, sqlite::SqliteConnectOptions};

    let mut stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 2);
    let requests = [crowd.mark(0), crowd.mark(1)];
    stage.submit(&requests).await?;
    for request in &requests {
        assert_eq!(stage.ended(request.id).await?.status, "finalized");
    }
    assert!(stage.relayer.terminate(Duration::from_secs(30)).await?);
    let id = requests[0].id;
    let changed = async |sql: Option<String>| {
        let copy = stage.relayer.database().with_file_name("changed.db");
        for end in ["", "-wal", "-shm"] {
            let of = |path: &std::path::Path| std::path::PathBuf::from(format!("{}{end}", path.display()));
            let _ = std::fs::remove_file(of(&copy));
            let _ = std::fs::copy(of(stage.relayer.database()), of(&copy));
        }
        if let Some(sql) = sql {
            let options = SqliteConnectOptions::new().filename(&copy).foreign_keys(false);
            let mut ledger = sqlx::SqliteConnection::connect_with(&options).await.expect("a connection");
            let done = ledger.execute(sqlx::AssertSqlSafe(sql.clone())).await.expect("it is changed");
            assert!(done.rows_affected() > 0, "{sql}");
            ledger.close().await.expect("closes");
        }
        let mut verify = stage.relayer.command(&["audit", "verify", &copy.to_string_lossy(), "--json"]);
        let output = tokio::task::spawn_blocking(move || verify.output()).await.expect("a task").expect("it runs");
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(told["ok"], output.status.success());
        let problems = told["problems"].as_array().into_iter().flatten();
        problems.filter_map(|problem| problem.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(changed(None).await, [""; 0]);
    let row = format!("WHERE id = x'{}'", alloy_primitives::hex::encode(id));
    let set = |what: &str| format!("UPDATE requests SET {what} {row}");
    let of = |table: &str| format!("DELETE FROM {table} WHERE request = (SELECT seq FROM requests {row})");
    let otherwise = format!("request {id} was accepted otherwise, says the decision log");
    let ended = format!("request {id} ended otherwise, says the decision log");
    let cost = format!("request {id} cost ");
    for (sql, expected) in [
        (set("cost_wei = '1'"), &cost),
        (set("cost_wei = cost_wei || '0'"), &cost),
        (set("cost_wei = NULL"), &cost),
        (set("status = 5"), &format!("request {id} is reverted, the decision log says finalized")),
        (
            set("status = 0, open = 1, batch_sender = NULL, batch_nonce = NULL"),
            &format!("request {id} is queued, the "),
        ),
        (set("tenant = 'somebody'"), &otherwise),
        (set("submitted_by = 'another'"), &otherwise),
        (set("reserved_wei = '1'"), &otherwise),
        (set("deadline_ms = deadline_ms + 3600000"), &otherwise),
        (set("tx_hash = zeroblob(32)"), &ended),
        (set("block_number = block_number + 1"), &ended),
        (set("reason = 'target_reverted'"), &ended),
        // Together with all rows that refer to it.
        (
            format!("{}; {}; DELETE FROM requests {row}", of("events"), of("payloads")),
            &format!("request {id} is not stored, the decision log has it"),
        ),
    ] {
        let problems = changed(Some(sql.clone())).await;
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{sql}: {problems:?}");
    }
    stage.close().await
}
