//! The example for embedders works, and `dev` needs nothing else.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use alloy_primitives::B256;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use slackwater_benches::{
    Anvil, Node, RelayerClient, Result,
    anvil::{ANVIL_VAR, anvil_path},
    http::post_json,
};

use crate::stage::{PATIENCE, until};

/// The compiled example: next to the tests if the whole workspace was built, else it is built now.
fn embed_example() -> PathBuf {
    let program = env::current_exe().expect("a running program");
    let profile = program.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let path = profile.join("examples").join(format!("embed{}", env::consts::EXE_SUFFIX));
    if !path.is_file() {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--workspace", "--example", "embed", "--locked"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .status();
        assert!(built.is_ok_and(|status| status.success()), "the example does not build");
    }
    path
}

#[tokio::test]
async fn the_example_runs() -> Result<()> {
    let anvil = Anvil::builder().arg("--block-time").arg("0.25").spawn().await?;
    let output = Command::new(embed_example()).arg(anvil.url()).output().expect("the example runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}{errors}", output.status);
    println!("{text}");
    assert!(text.contains("25 requests accepted"), "{text}");
    assert!(text.contains("the guest book counts 25"), "{text}");
    Ok(())
}

/// Ends a child process when dropped.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn dev_needs_nothing_else() -> Result<()> {
    let mut dev = Command::new(env!("CARGO_BIN_EXE_slackwater"))
        .args(["dev", "--json", "--listen", "127.0.0.1:0", "--anvil-port", "0", "--block-time", "0.25"])
        .env(ANVIL_VAR, anvil_path()?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map(Ends)
        .expect("slackwater starts");
    let mut line = String::new();
    BufReader::new(dev.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let ready: Value = serde_json::from_str(&line).expect("one line of JSON");
    let client = RelayerClient::new(ready["url"].as_str().expect("a URL"))?;
    let body = json!({
        "chainId": ready["chainId"], "kind": "call", "within": "30s",
        "call": { "to": ready["guestbook"], "gas": "120000", "data": "0xd09de08a", "anySender": true },
    });
    let answer = client.send(post_json("/v1/requests", body.to_string())).await?;
    assert_eq!(answer.status, 202, "{:?}", answer.body);
    let accepted: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let id: B256 = accepted["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    assert_eq!(client.wait_terminal(id, PATIENCE).await?.status, "finalized");

    let node = Node::new(ready["rpc"].as_str().expect("a URL"))?.with_timeout(Duration::from_secs(1));
    assert!(node.block_number().await? > 0);
    kill_process(Pid::from_child(&dev.0), Signal::TERM).expect("it lives");
    let status = until("the end of dev", PATIENCE, async || Ok(dev.0.try_wait().expect("our child"))).await?;
    assert!(status.success(), "{status}");
    assert!(node.block_number().await.is_err(), "its chain lives on");
    Ok(())
}
