//! A second instance on the same database must not start: two processes with one key would conflict (scenario S10).

use std::time::Duration;

use slackwater_benches::{Relayer, Result, wallet::Crowd};

use crate::stage::{Pace, Stage};

#[tokio::test]
async fn the_second_instance_does_not_start() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 5);
    let before = crowd.marks(20);
    stage.submit(&before).await?;
    let mut twin = Relayer::builder(&stage.world)
        .binary(env!("CARGO_BIN_EXE_slackwater"))
        .rpc(stage.anvil.url())
        .database(stage.relayer.database())
        .prepare()?;
    twin.launch()?;
    let refused = twin.wait_ready(Duration::from_secs(20)).await.expect_err("two instances on one database");
    println!("{refused}");
    assert!(!twin.is_alive());
    let after = crowd.marks(20);
    stage.submit(&after).await?;
    stage.settle().await?;
    let all: Vec<_> = before.into_iter().chain(after).collect();
    assert_eq!(stage.check(&all).await?.count("finalized", None), all.len());
    stage.close().await
}
