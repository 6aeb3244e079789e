//! Payments that payers authorized (EIP-3009), with Circle's token. Anybody may submit them, not only the relayer.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolStruct as _, sol};
use hyper::body::Bytes as Body;
use serde::Deserialize as _;
use serde_json::{Value, json};
use slackwater_benches::{
    Result,
    client::{RelayerClient, RequestState, Submitted},
    token::delegate,
    wallet::{Account, batch_body, unix_seconds},
};
use slackwater_contracts::eip3009::{CancelAuthorization, IERC3009, ReceiveWithAuthorization};
use slackwater_core::{request::Authorization, wire};
use slackwater_relayer::http::auth::KeyHash;

use crate::stage::{PATIENCE, Pace, Stage, StageBuilder, until};

const SHOP: &str = "sw_shop_3mJr7AoUXx2Wqd";
const MALLORY: &str = "sw_mallory_9vTz4KeRYb5Lnc";
const BOSS: &str = "sw_boss_7pNq2XsGJd8Wmf";

/// Confirmation depth at which a block is final here.
const FINAL_BLOCKS: u64 = 4;

const FUNDS: u64 = 1_000_000;

sol! {
    /// Circle's token: nobody pays until `unpause()`.
    function pause() external;
}

fn stage(pace: Pace) -> StageBuilder {
    let tenant = |id: &str, key: &str, more: &str| {
        format!(
            "[[tenant]]\nid = \"{id}\"\napi_keys = [\"{}\"]\nopen = true\nkinds = [\"authorization\"]\n{more}\n",
            KeyHash::of(key)
        )
    };
    let tenants = [tenant("shop", SHOP, ""), tenant("mallory", MALLORY, ""), tenant("boss", BOSS, "operator = true")];
    Stage::at(pace)
        .token()
        .spec(&format!("finality = {{ kind = \"depth\", blocks = {FINAL_BLOCKS} }}"))
        .chain_key("poll_interval_ms", 25)
        .env("SLACKWATER_SERVER_ALLOW_ANONYMOUS", "false")
        .extra(&tenants.concat())
        .api_key(BOSS)
}

fn payer(index: u64) -> Account {
    Account::derive("payer", index)
}

fn payee(index: u8) -> Address {
    Address::repeat_byte(0x80 + index)
}

fn nonce(text: &str) -> B256 {
    keccak256(text)
}

fn body(payment: &Authorization) -> Value {
    json!({
        "chainId": 31_337, "kind": "authorization",
        "authorization": {
            "token": payment.token, "from": payment.from, "to": payment.to, "value": payment.value.to_string(),
            "validAfter": payment.valid_after.to_string(), "validBefore": payment.valid_before.to_string(),
            "nonce": payment.nonce, "signature": payment.signature,
        },
    })
}

async fn submit(client: &RelayerClient, body: &Value) -> Result<Submitted> {
    client.submit(&Body::from(body.to_string())).await
}

async fn accepted(client: &RelayerClient, payment: &Authorization) -> Result<B256> {
    match submit(client, &body(payment)).await? {
        Submitted::Accepted(accepted) => Ok(accepted.id.0),
        Submitted::Refused(problem) => panic!("refused: {} {}", problem.code, problem.detail),
    }
}

async fn refused(client: &RelayerClient, body: &Value) -> Result<(u16, String)> {
    match submit(client, body).await? {
        Submitted::Accepted(accepted) => panic!("{} is accepted", accepted.id),
        Submitted::Refused(problem) => Ok((problem.status, problem.code.to_string())),
    }
}

/// A client that pays, and one that does not belong to it.
fn clients(stage: &Stage) -> (RelayerClient, RelayerClient) {
    (stage.client().clone().with_key(SHOP), stage.client().clone().with_key(MALLORY))
}

impl Stage {
    /// Signs again after a change.
    fn resigned(&self, payer: &Account, mut payment: Authorization) -> Authorization {
        payment.signature = payer.sign(self.token().domain().digest(&payment)).into();
        payment
    }

    async fn fund(&self, payer: &Account) -> Result<()> {
        let node = self.node();
        let minted = async { self.token().mint(node, payer.address, FUNDS).await };
        tokio::pin!(minted);
        loop {
            tokio::select! {
                done = &mut minted => return done,
                () = tokio::time::sleep(std::time::Duration::from_millis(50)) => node.mine(1).await?,
            }
        }
    }

    async fn holds(&self, holder: Address) -> Result<u64> {
        Ok(self.token().balance(self.node(), holder).await?.to())
    }

    /// Somebody else's transaction with this payment; it wins the next block.
    async fn front_run(&self, payment: &Authorization) -> Result<B256> {
        let call = IERC3009::transferWithAuthorizationCall::abi_decode(&payment.calldata().expect("65 bytes"));
        self.overtake(self.token().address, &call.expect("calldata")).await
    }

    async fn end_of(&self, id: B256) -> Result<RequestState> {
        let ended = async || {
            let state = self.client().request(id).await?;
            if state.is_terminal() {
                return Ok(Some(state));
            }
            self.mine(1).await?;
            Ok(None)
        };
        until("the payment's end", PATIENCE, ended).await
    }
}

fn story(state: &RequestState) -> (&str, Option<&str>) {
    (&state.status, state.reason.as_deref())
}

#[tokio::test]
async fn a_payment_is_made_once_and_charged() -> Result<()> {
    let stage = stage(Pace::Quarter).raise().await?;
    let (shop, _) = clients(&stage);
    let payer = payer(0);
    stage.token().mint(stage.node(), payer.address, FUNDS).await?;
    let before = stage.node().balance(stage.lane()).await?;
    let payment = stage.token().payment(&payer, payee(0), 1_000, nonce("a"));
    let id = accepted(&shop, &payment).await?;
    assert_eq!(id, stage.token().domain().digest(&payment));
    assert_eq!(accepted(&shop, &payment).await?, id, "the same one");
    let state = stage.ended(id).await?;
    assert_eq!(story(&state), ("finalized", None));
    assert_eq!((stage.holds(payee(0)).await?, stage.holds(payer.address).await?), (1_000, FUNDS - 1_000));
    let spent = before - stage.node().balance(stage.lane()).await?;
    assert_eq!(state.cost_wei, Some(spent.to_string()));
    assert_eq!(stage.node().nonce(stage.lane()).await?, 1);
    assert_eq!(accepted(&shop, &payment).await?, id, "the first answer, after the end");

    let story: Value = shop.get_json(&format!("/v1/requests/{id}")).await?;
    let content: Authorization = {
        let body = wire::Authorization::deserialize(&story["authorization"]).expect("its content");
        body.into()
    };
    assert_eq!(content, payment);
    let chains = stage.client().chains().await?;
    let token = &chains["chains"][0]["tokens"][0];
    assert_eq!((token["name"].as_str(), token["version"].as_str()), (Some("USD Coin"), Some("2")));
    stage.close().await
}

/// Payers share a transaction where the contract that caps each one's gas is deployed. A payer who delegates to code that
/// burns all gas, in front of it in the same block, loses its own payment, and pays for it.
#[tokio::test]
async fn payers_share_and_none_reaches_anothers_gas() -> Result<()> {
    let stage = stage(Pace::Manual).capped_calls().chain_key("max_batch", 12).raise().await?;
    let (shop, _) = clients(&stage);
    let (node, payers) = (stage.node(), (0..12).map(payer).collect::<Vec<_>>());
    for payer in &payers {
        stage.fund(payer).await?;
    }
    let payments = payers.iter().zip(0..).map(|(payer, i)| stage.token().payment(payer, payee(i), 1_000, nonce("a")));
    let payments: Vec<_> = payments.collect();
    let burner = Address::repeat_byte(0xfe);
    node.set_code(burner, vec![0xfe]).await?;
    node.set_balance(payers[4].address, U256::from(10_u64.pow(18))).await?;
    // The relayer simulates at the head that it has seen: the last payer must have its funds there.
    stage.mine(1).await?;
    let bodies: Vec<_> = payments.iter().map(|payment| Body::from(body(payment).to_string())).collect();
    let before = node.balance(stage.lane()).await?;
    let mut ids = Vec::new();
    for answer in shop.submit_batch(batch_body(bodies.iter())).await? {
        ids.push(answer.accepted()?.id.0);
    }
    stage.pooled(1).await?;
    node.send_raw(delegate(node, &payers[4], burner, 50_000_000_000).await?).await?;
    stage.mine(1).await?;
    let mut costs = Vec::new();
    let mut hashes = std::collections::BTreeSet::new();
    for (place, id) in ids.iter().enumerate() {
        let state = stage.end_of(*id).await?;
        let (paid, cost) = (stage.holds(payee(place as u8)).await?, state.cost_wei.clone().expect("a cost"));
        costs.push(cost.parse::<U256>().expect("wei"));
        if place == 4 {
            assert_eq!((state.status.as_str(), paid), ("rejected", 0), "{:?}", state.reason);
        } else {
            assert_eq!((story(&state), paid), (("finalized", None), 1_000));
            hashes.insert(state.tx_hash);
        }
    }
    assert_eq!((hashes.len(), node.nonce(stage.lane()).await?), (1, 1), "one transaction");
    let spent = before - node.balance(stage.lane()).await?;
    assert!(costs.iter().sum::<U256>() <= spent, "no more than was spent");
    let fair = costs[0];
    assert!(costs.iter().enumerate().all(|(place, cost)| place == 4 || *cost <= fair * U256::from(2)), "{costs:?}");
    // Alone, a payment costs an empty transaction more.
    let alone = stage.token().payment(&payers[0], payee(20), 1_000, nonce("b"));
    let id = accepted(&shop, &alone).await?;
    let state = stage.end_of(id).await?;
    assert_eq!(story(&state), ("finalized", None));
    let cost = state.cost_wei.and_then(|wei| wei.parse::<U256>().ok()).expect("a cost");
    println!("a payment among twelve {fair} wei, alone {cost} wei");
    stage.close().await
}

/// The relayer's transaction fails, and its tenant pays for that; the payment was made nevertheless.
#[tokio::test]
async fn somebody_else_is_first_in_the_same_block() -> Result<()> {
    let stage = stage(Pace::Manual).raise().await?;
    let (shop, _) = clients(&stage);
    let payer = payer(0);
    stage.fund(&payer).await?;
    let payment = stage.token().payment(&payer, payee(0), 1_000, nonce("a"));
    let id = accepted(&shop, &payment).await?;
    stage.pooled(1).await?;
    let theirs = stage.front_run(&payment).await?;
    stage.mine(1).await?;
    let state = stage.end_of(id).await?;
    assert_eq!(story(&state), ("finalized", Some("executed_elsewhere")));
    assert_eq!(state.tx_hash, Some(theirs));
    assert_eq!((stage.holds(payee(0)).await?, stage.node().nonce(stage.lane()).await?), (1_000, 1));
    assert!(state.cost_wei.is_some_and(|wei| wei != "0"), "the failed transaction is paid for");
    stage.close().await
}

/// What used the nonce before decides: this payment, another one, or nothing but a cancellation.
#[tokio::test]
async fn a_used_nonce_is_no_proof_of_a_payment() -> Result<()> {
    let stage = stage(Pace::Manual).raise().await?;
    let (shop, _) = clients(&stage);
    let payer = payer(0);
    stage.fund(&payer).await?;
    let payment = |to: u8, amount: u64, text: &str| stage.token().payment(&payer, payee(to), amount, nonce(text));
    let made = payment(0, 1_000, "made");
    let (other, instead) = (payment(1, 1_000, "other"), payment(1, 1, "other"));
    let voided = payment(2, 1_000, "voided");
    let theirs = stage.front_run(&made).await?;
    stage.mine(1).await?;
    stage.front_run(&instead).await?;
    stage.mine(1).await?;
    let cancel = CancelAuthorization { authorizer: payer.address, nonce: voided.nonce };
    let separator = stage.token().domain().separator();
    let digest = keccak256([&[0x19, 0x01], separator.as_slice(), cancel.eip712_hash_struct().as_slice()].concat());
    let signature = payer.sign(digest);
    let cancel = IERC3009::cancelAuthorizationCall {
        authorizer: payer.address,
        nonce: voided.nonce,
        v: signature[64],
        r: B256::from_slice(&signature[..32]),
        s: B256::from_slice(&signature[32..64]),
    };
    stage.overtake(stage.token().address, &cancel).await?;
    stage.mine(1).await?;

    let made = accepted(&shop, &made).await?;
    let (other, voided) = (accepted(&shop, &other).await?, accepted(&shop, &voided).await?);
    let state = stage.end_of(made).await?;
    assert_eq!((story(&state), state.tx_hash), (("finalized", Some("executed_elsewhere")), Some(theirs)));
    for id in [other, voided] {
        assert_eq!(story(&stage.end_of(id).await?), ("rejected", Some("nonce_used_elsewhere")));
    }
    assert_eq!(stage.holds(payee(0)).await?, 1_000);
    assert_eq!((stage.holds(payee(1)).await?, stage.holds(payee(2)).await?), (1, 0));
    assert_eq!(stage.node().nonce(stage.lane()).await?, 0, "nothing was sent");
    stage.close().await
}

/// A payment that somebody else makes in time is no expired one, however long finality takes.
#[tokio::test]
async fn one_that_expires_before_finality_was_made_nevertheless() -> Result<()> {
    let stage = stage(Pace::Manual).raise().await?;
    let (shop, _) = clients(&stage);
    let payer = payer(0);
    stage.fund(&payer).await?;
    let mut payment = stage.token().payment(&payer, payee(0), 1_000, nonce("a"));
    payment.valid_before = U256::from(unix_seconds() + 12);
    let payment = stage.resigned(&payer, payment);
    let id = accepted(&shop, &payment).await?;
    stage.pooled(1).await?;
    let theirs = stage.front_run(&payment).await?;
    stage.mine(1).await?;
    until("the end of its validity", PATIENCE, async || {
        Ok((U256::from(unix_seconds()) > payment.valid_before).then_some(()))
    })
    .await?;
    let state = stage.end_of(id).await?;
    assert_eq!((story(&state), state.tx_hash), (("finalized", Some("executed_elsewhere")), Some(theirs)));
    stage.close().await
}

#[tokio::test]
async fn a_payment_that_a_reorganisation_removes_lands_again() -> Result<()> {
    let stage = stage(Pace::Manual).raise().await?;
    let (shop, _) = clients(&stage);
    let payer = payer(0);
    stage.fund(&payer).await?;
    stage.mine(2 * FINAL_BLOCKS).await?;
    let payment = stage.token().payment(&payer, payee(0), 1_000, nonce("a"));
    let id = accepted(&shop, &payment).await?;
    stage.pooled(1).await?;
    stage.mine(1).await?;
    stage.wait_status(id, "included").await?;
    stage.node().reorg(1).await?;
    assert_eq!(stage.holds(payee(0)).await?, 0);
    let state = stage.end_of(id).await?;
    assert_eq!(story(&state), ("finalized", None));
    assert_eq!((stage.holds(payee(0)).await?, stage.node().nonce(stage.lane()).await?), (1_000, 1));
    stage.close().await
}

#[tokio::test]
async fn one_waits_until_it_is_valid() -> Result<()> {
    let stage = stage(Pace::Second).raise().await?;
    let (shop, _) = clients(&stage);
    let payer = payer(0);
    stage.token().mint(stage.node(), payer.address, FUNDS).await?;
    let mut payment = stage.token().payment(&payer, payee(0), 1_000, nonce("a"));
    let valid_after = stage.node().head().await?.timestamp.to::<u64>() + 8;
    payment.valid_after = U256::from(valid_after);
    let payment = stage.resigned(&payer, payment);
    let too_soon = body_with(&payment, "within", "3s");
    assert_eq!(refused(&shop, &too_soon).await?, (422, "not_valid_in_time".to_owned()));
    let id = accepted(&shop, &payment).await?;
    let state = stage.ended(id).await?;
    assert_eq!(story(&state), ("finalized", None));
    let block = stage.node().block(state.block_number.expect("a block")).await?.expect("the block");
    assert!(block.timestamp.to::<u64>() > valid_after);
    assert_eq!(stage.node().nonce(stage.lane()).await?, 1, "it was not tried too soon");
    stage.close().await
}

fn body_with(payment: &Authorization, key: &str, value: &str) -> Value {
    let mut body = body(payment);
    body[key] = value.into();
    body
}

/// What one payer or tenant does to another.
#[tokio::test]
async fn attacks_at_the_door_harm_nobody_else() -> Result<()> {
    let stage = stage(Pace::Manual).raise().await?;
    let (shop, mallory) = clients(&stage);
    let (good, poor) = (payer(0), payer(1));
    stage.fund(&good).await?;
    let payment = stage.token().payment(&good, payee(0), 1_000, nonce("a"));

    // A signature that only the chain can check, of whoever saw the nonce, takes nobody's place.
    let forged = Authorization { signature: Bytes::from_static(&[7; 66]), ..payment.clone() };
    let forged = accepted(&mallory, &forged).await?;
    let id = accepted(&shop, &payment).await?;
    assert_ne!(forged, id);
    // Another tenant's, again.
    assert_eq!(refused(&mallory, &body(&payment)).await?, (409, "already_submitted".to_owned()));
    // Another payment with the same nonce.
    let twin = stage.token().payment(&good, payee(1), 1_000, nonce("a"));
    assert_eq!(refused(&shop, &body(&twin)).await?, (409, "nonce_conflict".to_owned()));
    // Not the payer's signature, and one for the payee alone.
    let foreign = stage.resigned(&poor, stage.token().payment(&good, payee(0), 1, nonce("b")));
    assert_eq!(refused(&shop, &body(&foreign)).await?, (422, "invalid_signature".to_owned()));
    let mut receive = stage.token().payment(&good, payee(0), 1, nonce("c"));
    let message = ReceiveWithAuthorization {
        from: receive.from,
        to: receive.to,
        value: receive.value,
        validAfter: receive.valid_after,
        validBefore: receive.valid_before,
        nonce: receive.nonce,
    };
    let separator = stage.token().domain().separator();
    let digest = keccak256([&[0x19, 0x01], separator.as_slice(), message.eip712_hash_struct().as_slice()].concat());
    receive.signature = good.sign(digest).into();
    match submit(&shop, &body(&receive)).await? {
        Submitted::Refused(problem) => assert!(problem.detail.contains("ReceiveWithAuthorization"), "{problem:?}"),
        Submitted::Accepted(accepted) => panic!("{} is accepted", accepted.id),
    }
    // A token that is not served, and one whose time is over.
    let other = Authorization { token: payee(9), ..payment.clone() };
    assert_eq!(refused(&shop, &body(&other)).await?, (422, "unknown_token".to_owned()));
    let mut late = stage.token().payment(&good, payee(0), 1, nonce("d"));
    late.valid_before = U256::from(unix_seconds() + 1);
    let late = body(&stage.resigned(&good, late));
    let (status, code) = refused(&shop, &late).await?;
    assert!(status == 422 && code.starts_with("deadline_"), "{status} {code}");
    // Without money it costs nothing.
    let empty = accepted(&mallory, &stage.token().payment(&poor, payee(2), 1, nonce("e"))).await?;

    for id in [forged, empty] {
        let state = stage.end_of(id).await?;
        // The right payment may be made before the forged one ends: that does not make it paid.
        let is_late = id == forged && state.reason.as_deref() == Some("nonce_used_elsewhere");
        assert!(is_late || story(&state) == ("rejected", Some("simulation_reverted")), "{:?}", story(&state));
        assert_eq!(state.status, "rejected");
        assert!(state.cost_wei.is_none_or(|wei| wei == "0"));
    }
    assert_eq!(story(&stage.end_of(id).await?), ("finalized", None));
    assert_eq!((stage.holds(payee(0)).await?, stage.node().nonce(stage.lane()).await?), (1_000, 1));
    stage.close().await
}

/// After its simulation a payer turns into code that burns the gas of the token's question: its tenant pays once, up to the
/// bound, and another payment in the same block is made.
#[tokio::test]
async fn a_payer_that_burns_gas_burns_its_tenants() -> Result<()> {
    let stage = stage(Pace::Manual).lanes(2).raise().await?;
    let (shop, mallory) = clients(&stage);
    let (good, bad) = (payer(0), payer(1));
    stage.fund(&good).await?;
    stage.fund(&bad).await?;
    let node = stage.node();
    let burner = Address::repeat_byte(0xfe);
    node.set_code(burner, vec![0xfe]).await?;
    node.set_balance(bad.address, U256::from(10_u64.pow(18))).await?;
    let theirs = accepted(&mallory, &stage.token().payment(&bad, payee(1), 1_000, nonce("b"))).await?;
    let ours = accepted(&shop, &stage.token().payment(&good, payee(0), 1_000, nonce("a"))).await?;
    stage.pooled(2).await?;
    node.send_raw(delegate(node, &bad, burner, 50_000_000_000).await?).await?;
    stage.mine(1).await?;
    assert_eq!(&node.code(bad.address).await?[..3], [0xef, 0x01, 0x00]);
    let state = stage.end_of(theirs).await?;
    assert_eq!(story(&state), ("rejected", Some("simulation_reverted")));
    let burnt: u64 = state.cost_wei.expect("it is paid for").parse().expect("a number");
    assert!(burnt > 0);
    assert_eq!(story(&stage.end_of(ours).await?), ("finalized", None));
    assert_eq!((stage.holds(payee(0)).await?, stage.holds(payee(1)).await?), (1_000, 0));
    let sent = async |index: usize| node.nonce(stage.world.relayers[index].address).await;
    assert_eq!(sent(0).await? + sent(1).await?, 2, "it was not tried again");
    stage.close().await
}

/// The token stops between simulation and block.
#[tokio::test]
async fn a_token_that_is_paused_stops_payments() -> Result<()> {
    let stage = stage(Pace::Manual).raise().await?;
    let (shop, _) = clients(&stage);
    let payer = payer(0);
    stage.fund(&payer).await?;
    let id = accepted(&shop, &stage.token().payment(&payer, payee(0), 1_000, nonce("a"))).await?;
    stage.pooled(1).await?;
    stage.overtake(stage.token().address, &pauseCall {}).await?;
    stage.mine(1).await?;
    let state = stage.end_of(id).await?;
    assert_eq!(story(&state), ("rejected", Some("simulation_reverted")));
    let later = accepted(&shop, &stage.token().payment(&payer, payee(0), 1_000, nonce("b"))).await?;
    let state = stage.end_of(later).await?;
    assert_eq!(story(&state), ("rejected", Some("simulation_reverted")));
    assert!(state.cost_wei.is_none_or(|wei| wei == "0"));
    assert_eq!((stage.holds(payee(0)).await?, stage.node().nonce(stage.lane()).await?), (0, 1));
    stage.close().await
}
