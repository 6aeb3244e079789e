//! What an embedder may replace: keys elsewhere, a second opinion on acceptances; and the stream of events.

use std::{
    collections::BTreeMap,
    error::Error,
    future,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use alloy_primitives::{Address, B256, Signature};
use async_trait::async_trait;
use slackwater::{
    AccountKey, AdmissionHook, AdmissionRequest, ChainSetup, ChainSpec, Denied, EventRecord, LocalSigner, Relay,
    Signer, Status, Submission, WaitFor,
};
use slackwater_benches::{Anvil, Node, Result, wallet::Crowd, world::World};
use tempfile::TempDir;

/// Reliability of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Always,
    /// Of every eight answers one is an error, one never comes, and one is another key's.
    Mostly,
    Never,
}

/// A key in another process, which takes its time.
#[derive(Debug)]
struct Elsewhere {
    key: LocalSigner,
    calls: AtomicU64,
    answers: Answers,
}

impl Elsewhere {
    fn asked(secret: &[u8; 32], answers: Answers) -> AccountKey {
        let key = LocalSigner::from_bytes(secret).expect("a key");
        AccountKey::asking(Self { key, calls: AtomicU64::new(0), answers }).within(Duration::from_millis(300))
    }
}

#[async_trait]
impl Signer for Elsewhere {
    fn address(&self) -> Address {
        self.key.address()
    }

    async fn sign(&self, digest: B256) -> std::result::Result<Signature, Box<dyn Error + Send + Sync>> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        match self.calls.fetch_add(1, Ordering::Relaxed) % 8 {
            _ if self.answers == Answers::Never => Err("access is denied".into()),
            0 if self.answers == Answers::Mostly => Err("the session is over".into()),
            3 if self.answers == Answers::Mostly => future::pending().await,
            5 if self.answers == Answers::Mostly => Ok(self.key.sign(!digest)),
            _ => Ok(self.key.sign(digest)),
        }
    }
}

/// Refuses a user.
#[derive(Debug)]
struct Screening(Address);

#[async_trait]
impl AdmissionHook for Screening {
    async fn admit(&self, asked: &AdmissionRequest) -> std::result::Result<(), Denied> {
        assert_eq!((&*asked.tenant, asked.submitted_by.as_deref()), ("default", Some("front desk")));
        match asked.kind.as_forward() {
            Some(forward) if forward.from == self.0 => Err(Denied::new("this user is on a list")),
            _ => Ok(()),
        }
    }
}

/// Everything is executed once, though the keys often fail, and the first lane's always; who is refused is not; and the stream of events has no gap and
/// ends with the relay.
#[tokio::test(flavor = "multi_thread")]
async fn keys_elsewhere_and_a_second_opinion() -> Result<()> {
    let anvil = Anvil::builder().arg("--block-time").arg("0.25").spawn().await?;
    let node = Node::new(anvil.url())?;
    let world = World::deploy(&node, 3).await?;
    let mut crowd = Crowd::new(&world, 6);
    let (signed, refused) = (crowd.marks(60), crowd.users[5].account.address);
    let dir = TempDir::new().expect("a folder");
    let mut chain =
        ChainSetup::new(ChainSpec::preset("anvil").expect("a preset")).rpc(anvil.url()).forwarder(world.forwarder);
    for (place, account) in world.relayers.iter().enumerate() {
        let answers = if place == 0 { Answers::Never } else { Answers::Mostly };
        chain = chain.signer(Elsewhere::asked(&account.secret_bytes(), answers));
    }
    chain.tuning.batch.max_batch = 5;
    let relay = Relay::builder()
        .chain(chain)
        .identity(Elsewhere::asked(&[0x21; 32], Answers::Always))
        .admission_hook(Screening(refused), Duration::from_secs(1))
        .database(dir.path().join("ledger.db"));
    let relay = relay.start().await.expect("it starts");
    let mut events = relay.history().follow(0);
    let listener = tokio::spawn(async move {
        let mut seen: Vec<EventRecord> = Vec::new();
        while let Some(event) = events.next().await {
            seen.push(event.expect("the ledger is well"));
        }
        seen
    });

    let submissions: Vec<_> = signed
        .iter()
        .map(|request| Submission::forward(31_337, request.forward.clone()).within(Duration::from_secs(60)))
        .collect();
    let desk = relay.tenant("default").submitted_by("front desk");
    let answers = desk.submit_many(submissions.clone()).await;
    let mut ended = BTreeMap::new();
    for (request, answer) in signed.iter().zip(answers) {
        if request.forward.from == refused {
            let error = answer.expect_err("on the list");
            assert_eq!((error.code(), error.to_string().as_str()), ("denied_by_hook", "this user is on a list"));
            continue;
        }
        let accepted = answer.expect("accepted");
        let signature = accepted.promise_signature();
        let signer = slackwater_core::request::recover(accepted.promise().digest(), signature).expect("a signature");
        assert_eq!(signer, relay.identity());
        let record = accepted.wait(WaitFor::Terminal).await.expect("it ends");
        assert_eq!(record.status, Status::Finalized, "{:?}", record.reason);
        *ended.entry(record.batch).or_insert(0) += 1;
    }
    assert_eq!(ended.values().sum::<i32>(), 50);
    // Each lane's nonces are dense: nothing that was not signed took one.
    let transactions: u64 = {
        let mut sum = 0;
        for account in &world.relayers {
            sum += node.nonce(account.address).await?;
        }
        sum
    };
    assert_eq!(transactions, ended.len() as u64, "{ended:?}");
    let lanes = relay.lanes();
    assert!(lanes[0].paused.as_deref().is_some_and(|why| why.contains("does not sign")), "{lanes:?}");
    let again = desk.submit(submissions[0].clone()).await.expect("the first answer");
    assert!(again.is_duplicate());

    relay.shutdown().await;
    let seen = listener.await.expect("no panic");
    let numbers: Vec<u64> = seen.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=seen.len() as u64).collect::<Vec<_>>(), "a gap");
    assert_eq!(seen.iter().filter(|event| event.status == Status::Finalized).count(), 50);
    Ok(())
}
