//! Signatures of real wallets, relayed.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::SolCall;
use serde::Deserialize;
use serde_json::{Value, json};
use slackwater_benches::{
    Result, World,
    client::Submitted,
    wallet::{Account, SignedRequest, submit_body, unix_seconds},
};
use slackwater_contracts::guestbook::IGuestbook::{countCall, lastSenderCall, markCall, signCall};
use slackwater_core::request::Forward;

use crate::stage::{Pace, Stage};

#[derive(Deserialize)]
struct Signed {
    digest: B256,
    signature: Bytes,
    signer: Address,
    source: String,
}

/// Lets the wallets sign.
fn sign(jobs: &Value) -> Vec<Signed> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/npm");
    let mut node = Command::new("node")
        .arg(tools.join("sign.mjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node, of Node.js, is on the PATH");
    node.stdin.take().expect("piped").write_all(jobs.to_string().as_bytes()).expect("sign.mjs reads");
    let output = node.wait_with_output().expect("sign.mjs ends");
    assert!(output.status.success(), "sign.mjs failed");
    serde_json::from_slice(&output.stdout).expect("sign.mjs answers a list")
}

fn forward(world: &World, user: &Account, nonce: u64, data: Vec<u8>) -> Forward {
    Forward {
        forwarder: world.forwarder,
        from: user.address,
        to: world.guestbook,
        value: U256::ZERO,
        gas: U256::from(200_000),
        nonce: U256::from(nonce),
        deadline: unix_seconds() + 3_600,
        data: data.into(),
        signature: Bytes::new(),
    }
}

#[tokio::test]
async fn viem_and_ethers_are_relayed() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let world = &stage.world;
    let domain = json!({
        "name": world.forwarder_name, "version": "1",
        "chainId": world.chain_id, "verifyingContract": world.forwarder,
    });
    let message = "Grüße vom Zähler: 0x00 \u{1F30A} \"quoted\"\n";
    let mut forwards = Vec::new();
    let mut jobs = Vec::new();
    for (index, wallet) in ["viem", "ethers"].into_iter().enumerate() {
        let user = Account::derive("wallet", index as u64);
        let contents = [
            markCall { tag: keccak256(wallet) }.abi_encode(),
            signCall { message: format!("{wallet}: {message}") }.abi_encode(),
        ];
        for (nonce, data) in (0..).zip(contents) {
            let forward = forward(world, &user, nonce, data);
            jobs.push(json!({
                "wallet": wallet, "privateKey": user.secret_hex(), "domain": domain,
                "message": {
                    "from": forward.from, "to": forward.to, "value": "0", "gas": forward.gas.to_string(),
                    "nonce": forward.nonce.to_string(), "deadline": forward.deadline, "data": forward.data,
                },
            }));
            forwards.push(forward);
        }
    }
    let mut requests = Vec::new();
    for (mut forward, signed) in forwards.into_iter().zip(sign(&json!(jobs))) {
        let id = world.domain().digest(&forward);
        assert_eq!(signed.digest, id, "{} hashes the same content differently", signed.source);
        assert_eq!(signed.signer, forward.from);
        forward.signature = signed.signature;
        let body = submit_body(world.chain_id, &forward).to_string().into();
        let tag = markCall::abi_decode(&forward.data).map(|call| call.tag).unwrap_or_default();
        requests.push(SignedRequest { id, forward, tag, body });
    }
    for request in &requests {
        let accepted = stage.client().submit(&request.body).await?.accepted()?;
        assert_eq!(accepted.id.0, request.id);
    }
    stage.settle().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    for request in &requests {
        let user = request.forward.from;
        let count = stage.node().read(world.guestbook, countCall { user }.abi_encode()).await?;
        assert_eq!(U256::from_be_slice(&count), U256::from(2), "entries of {user}");
        if !request.tag.is_zero() {
            let last = stage.node().read(world.guestbook, lastSenderCall { tag: request.tag }.abi_encode()).await?;
            assert_eq!(Address::from_slice(&last[12..]), user, "the target sees the user");
        }
    }

    // One changed field, and the signature recovers to another account.
    let mut forged = requests[0].forward.clone();
    forged.nonce = U256::from(2);
    let body = submit_body(world.chain_id, &forged).to_string().into();
    let answer = stage.client().submit(&body).await?;
    assert_eq!(answer.refused_with(), Some("invalid_signature"), "{answer:?}");
    assert!(matches!(answer, Submitted::Refused(problem) if problem.status == 422));
    stage.close().await
}
