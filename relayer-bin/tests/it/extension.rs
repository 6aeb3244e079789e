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
    AccountKey, AdmissionHook, AdmissionRequest, ChainSetup, ChainSpec, Denied, EventRecord, LocalSigner, PauseScope,
    Relay, Signer, Status, Submission, TenantPolicy, WaitFor,
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

/// Refuses one nonce, and takes its time.
#[derive(Debug)]
struct Slow(u64);

#[async_trait]
impl AdmissionHook for Slow {
    async fn admit(&self, asked: &AdmissionRequest) -> std::result::Result<(), Denied> {
        let nonce = asked.kind.as_forward().map(|forward| forward.nonce.saturating_to::<u64>());
        if nonce == Some(self.0) {
            return Err(Denied::new("not this one"));
        }
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        Ok(())
    }
}

/// After a slow opinion the promise must still be possible, and acceptance not paused; a refusal stops the signer's later
/// nonces, which would wait behind a gap; and a tenant that waits sees its own request, whoever has its id by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_opinion_promises_nothing_that_is_over() -> Result<()> {
    let anvil = Anvil::builder().arg("--block-time").arg("0.25").spawn().await?;
    let world = World::deploy(&Node::new(anvil.url())?, 1).await?;
    let mut crowd = Crowd::new(&world, 1);
    let forwards: Vec<_> = (0..8).map(|_| crowd.mark(0).forward).collect();
    let dir = TempDir::new().expect("a folder");
    let key = LocalSigner::from_bytes(&world.relayers[0].secret_bytes()).expect("a key");
    let chain = ChainSetup::new(ChainSpec::preset("anvil").expect("a preset"));
    let chain = chain.rpc(anvil.url()).forwarder(world.forwarder).signer(key);
    let open = |id: &str| TenantPolicy::new(id).with(|it| it.is_open = true);
    let relay = Relay::builder().chain(chain).tenant(open("shop")).tenant(open("bank"));
    let relay = relay.admission_hook(Slow(2), Duration::from_secs(3)).database(dir.path().join("ledger.db"));
    let relay = relay.start().await.expect("it starts");
    let (shop, bank) = (relay.tenant("shop"), relay.tenant("bank"));
    let submission = |nonce: usize| Submission::forward(31_337, forwards[nonce].clone());
    let code = |answer: std::result::Result<slackwater::Accepted, slackwater::SubmitError>| {
        answer.map_or_else(|error| error.code(), |_| "accepted")
    };

    // In time at the door, too late after the opinion.
    let slack = relay.chains()[0].guard_ms + 1_000;
    let late = shop.submit(submission(0).within(Duration::from_millis(slack))).await;
    assert_eq!(code(late), "deadline_unreachable");

    let paused = tokio::spawn({
        let (shop, submission) = (shop.clone(), submission(0));
        async move { shop.submit(submission).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    relay.pause(&PauseScope::Tenant("shop".to_owned()), "test").await.expect("it pauses");
    assert_eq!(code(paused.await.expect("no panic")), "paused");
    relay.resume(&PauseScope::Tenant("shop".to_owned()), "test").await.expect("it resumes");
    let nothing = relay.history().requests(&slackwater::RequestFilter { limit: 9, ..Default::default() }).await;
    assert!(nothing.expect("it reads").is_empty(), "nothing of it is kept");

    // Nonces 1 to 4, of which 2 is refused.
    let answers = shop.submit_many((1..5).map(submission).collect()).await;
    let codes: Vec<_> = answers.into_iter().map(code).collect();
    assert_eq!(codes, ["accepted", "denied_by_hook", "denied_by_hook", "denied_by_hook"]);

    // Behind a gap, so that it waits; withdrawn, and submitted by another tenant.
    let mine = shop.submit(submission(6)).await.expect("accepted");
    shop.cancel(mine.id()).await.expect("it waits");
    let theirs = bank.submit(submission(6)).await.expect("accepted");
    assert_eq!(theirs.id(), mine.id());
    let seen = mine.wait(WaitFor::Terminal).await.expect("its own end");
    assert_eq!((seen.tenant.as_str(), seen.status), ("shop", Status::Cancelled));
    relay.shutdown().await;
    Ok(())
}
