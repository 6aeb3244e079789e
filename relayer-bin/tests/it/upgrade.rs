//! A ledger that an older version left with work in progress: this version opens it, finishes open requests, each once,
//! and starts with the old configuration or names every changed key and its replacement.
//!
//! `cargo xtask fixture` makes such ledgers. Open requests are valid until `validUntil`; after that they may expire.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall as _;
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;
use slackwater_benches::{
    Anvil, Relayer, Result, World,
    client::is_terminal,
    postgres::PostgresServer,
    relayer::RelayerBuilder,
    wallet::{Account, Crowd, unix_seconds},
};
use slackwater_contracts::guestbook::IGuestbook::marksCall;
use slackwater_core::request::Status;
use tempfile::TempDir;

use crate::stage::{PATIENCE, until};

/// Keys of that configuration that changed their meaning: path, value in the old configuration, and replacement.
const CHANGED: &[(&str, &str, &str)] = &[(
    "tenant.0.targets",
    "operator = true\n",
    "operator = true\nopen = true\ntargets = { \"31337\" = { \"*\" = [] } }\n",
)];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    chain_id: u64,
    forwarder: Address,
    forwarder_name: String,
    guestbook: Address,
    nasty: Address,
    lanes: u64,
    valid_until: u64,
    requests: Vec<Known>,
}

#[derive(Debug, Deserialize)]
struct Known {
    id: B256,
    tag: B256,
    /// Status at the time when it was left.
    status: String,
    body: Value,
}

fn fixture(backend: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/d4fc8fd").join(backend)
}

fn unzip(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(fs::File::open(path).expect("opens")).read_to_end(&mut bytes).expect("unpacks");
    bytes
}

/// The older version's chain, with this version's relayer on the older one's ledger.
struct Inheritance {
    relayer: Relayer,
    server: Option<PostgresServer>,
    world: World,
    anvil: Anvil,
    manifest: Manifest,
    _dir: TempDir,
}

impl Inheritance {
    /// Prepares everything except the start.
    async fn take_over(backend: &str) -> Result<Self> {
        let from = fixture(backend);
        let manifest: Manifest = serde_json::from_slice(&unzip(&from.join("requests.json.gz"))).expect("a list");
        let dir = TempDir::new().expect("a directory");
        let chain = dir.path().join("chain.json");
        fs::write(&chain, unzip(&from.join("chain.json.gz"))).expect("writes");
        let anvil = Anvil::builder().state(chain).spawn().await?;
        anvil.node().set_automine(false).await?;
        let mut world = World::at(manifest.chain_id, &manifest.forwarder_name, manifest.forwarder, manifest.guestbook);
        world.nasty = manifest.nasty;
        world.relayers = (0..manifest.lanes).map(|lane| Account::derive("relayer", lane)).collect();
        let config = fs::read_to_string(from.join("slackwater.toml")).expect("reads");
        let mut builder = Self::builder(&world, &anvil);
        let mut server = None;
        if backend == "postgres" {
            let started = PostgresServer::start().unwrap_or_else(|missing| panic!("{missing}"));
            let dump = started.dir().join("ledger.sql");
            fs::write(&dump, unzip(&from.join("ledger.sql.gz"))).expect("writes");
            let dump = dump.to_str().expect("UTF-8").to_owned();
            started.client("psql", &["-qX", "-v", "ON_ERROR_STOP=1", "-f", &dump]).expect("restores");
            builder = builder.env("RELAYER_DATABASE", started.url());
            server = Some(started);
        } else {
            let database = dir.path().join("ledger.db");
            fs::write(&database, unzip(&from.join("ledger.db.gz"))).expect("writes");
            builder = builder.database(database);
        }
        let relayer = builder.clone().config(config.clone()).prepare()?;
        let mut this = Self { relayer, server, world, anvil, manifest, _dir: dir };
        if !CHANGED.is_empty() {
            this.is_refused_by_name().await;
            let amended = CHANGED.iter().fold(config, |config, (_, from, to)| config.replacen(from, to, 1));
            this.relayer = builder.config(amended).prepare()?;
        }
        Ok(this)
    }

    fn builder(world: &World, anvil: &Anvil) -> RelayerBuilder {
        Relayer::builder(world).binary(env!("CARGO_BIN_EXE_slackwater")).rpc(anvil.url())
    }

    /// The unchanged configuration is refused, and the refusal names every changed key with its replacement.
    async fn is_refused_by_name(&mut self) {
        let refused = self.relayer.start().await.expect_err("keys have changed");
        let told = self.relayer.log();
        for (key, _, to) in CHANGED {
            assert!(told.contains(key), "`{key}` is not named: {refused}\n{told}");
            let name = to.rsplit('\n').find(|line| line.contains('=')).and_then(|line| line.split('=').next());
            let name = name.unwrap_or(to).trim();
            assert!(told.contains(name), "nothing says to write `{name}`: {told}");
        }
    }

    async fn marks(&self, tag: B256) -> Result<U256> {
        let answer = self.anvil.node().read(self.world.guestbook, marksCall { tag }.abi_encode()).await?;
        Ok(U256::from_be_slice(&answer))
    }

    async fn state(&self, id: B256) -> Result<(String, Option<String>)> {
        let state = self.relayer.client().request(id).await?;
        let told: Value = self.relayer.client().get_json(&format!("/v1/requests/{id}")).await?;
        assert_eq!(told["priceWei"], told["costWei"], "what was accepted before prices has its cost as price");
        Ok((state.status, state.reason))
    }

    async fn settle(&self, ids: &[B256]) -> Result<()> {
        for id in ids {
            until(&format!("the end of {id}"), PATIENCE, async || {
                self.anvil.node().mine(1).await?;
                Ok(is_terminal(&self.state(*id).await?.0).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    async fn finish_once(mut self) -> Result<()> {
        let mut left: BTreeMap<&str, u32> = BTreeMap::new();
        for known in &self.manifest.requests {
            *left.entry(&known.status).or_default() += 1;
        }
        assert_eq!(left.len(), Status::ALL.len(), "a request in each status: {left:?}");
        self.relayer.start().await?;
        let mut ended = Vec::new();
        for known in &self.manifest.requests {
            if is_terminal(&known.status) {
                assert_eq!(self.state(known.id).await?.0, known.status, "what has ended stays as it ended");
                ended.push(known.id);
            }
        }
        let mut open: Vec<B256> =
            self.manifest.requests.iter().map(|known| known.id).filter(|id| !ended.contains(id)).collect();
        // Two users wait behind a nonce that never came, or was rejected: it comes now.
        let mut crowd = Crowd::named(&self.world, "fixture", 24);
        for user in [6, 22] {
            let missing = crowd.mark_within(user, "10m");
            self.relayer.client().submit(&missing.body).await?.accepted()?;
            open.push(missing.id);
        }
        self.settle(&open).await?;
        for known in &self.manifest.requests {
            let (status, reason) = self.state(known.id).await?;
            let executed = self.marks(known.tag).await?;
            let expected = U256::from(u8::from(status == "finalized"));
            assert_eq!(executed, expected, "{} was {}, is {status} ({reason:?})", known.id, known.status);
            if !is_terminal(&known.status) && unix_seconds() < self.manifest.valid_until {
                assert_eq!(status, "finalized", "{} was {}: {reason:?}", known.id, known.status);
            }
        }
        // The same bytes are answered again, and executed no second time.
        for known in self.manifest.requests.iter().filter(|known| !known.body["forward"].is_null()) {
            let _ = self.relayer.client().submit(&known.body.to_string().into()).await?;
        }
        // New requests work too.
        let mut others = Crowd::named(&self.world, "successor", 3);
        let fresh = others.mark_within(0, "10m");
        self.relayer.client().submit(&fresh.body).await?.accepted()?;
        self.settle(&[fresh.id]).await?;
        assert_eq!(self.state(fresh.id).await?.0, "finalized");
        for known in &self.manifest.requests {
            assert!(self.marks(known.tag).await? <= U256::from(1), "{} is executed once", known.id);
        }
        assert!(self.relayer.terminate(Duration::from_secs(30)).await?);
        self.relayer.audit().await?;
        let _server = self.server.take();
        Ok(())
    }
}

#[tokio::test]
async fn a_file_of_an_older_version_is_finished() -> Result<()> {
    Inheritance::take_over("sqlite").await?.finish_once().await
}

#[tokio::test]
async fn a_dump_of_an_older_version_is_finished() -> Result<()> {
    Inheritance::take_over("postgres").await?.finish_once().await
}
