//! `slackwater-fixture`: a ledger with requests in every status, its chain and its configuration, kept for later
//! versions.
//!
//! `cargo xtask fixture` runs it. `relayer-bin/tests/it/upgrade.rs` opens what it writes.

#![allow(clippy::print_stdout, reason = "a command line program")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use alloy_primitives::{B256, Bytes, U256, keccak256};
use alloy_sol_types::SolCall as _;
use clap::Parser;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use slackwater_benches::{
    Anvil, BenchError, Proxy, Relayer, Result, World,
    http::post_json,
    postgres::PostgresServer,
    proxy::{Fault, Rule},
    relayer::KEY_VAR,
    wait::until,
    wallet::{Ask, Crowd, SignedRequest, unix_seconds},
};
use slackwater_contracts::{
    guestbook::IGuestbook::markCall,
    nasty::INasty::{armCall, ifArmedRevertCall, revertAlwaysCall},
};
use slackwater_core::request::Status;

/// Make a ledger with requests in every status, as the given version of the relayer writes it.
///
/// Starts a chain, that relayer and, for --postgres, a PostgreSQL server; stops them at the end. Writes `ledger.db.gz`
/// (or `ledger.sql.gz`), `chain.json.gz` (a state of anvil), `slackwater.toml` and `requests.json.gz`. Needs `sqlite3`
/// on the PATH, or `psql` and `pg_dump` of the server.
#[derive(Debug, Parser)]
#[command(name = "slackwater-fixture", version)]
struct Args {
    /// The relayer.
    #[arg(long)]
    binary: PathBuf,
    /// Output folder.
    #[arg(long)]
    out: PathBuf,
    /// The shared ledger (a dump) instead of the embedded one (a file).
    #[arg(long)]
    postgres: bool,
    /// Number of rounds tried to kill the relayer between two commits.
    #[arg(long, default_value_t = 30)]
    tries: u32,
}

/// Sender accounts.
const LANES: usize = 2;
/// Users who sign.
const USERS: usize = 24;
/// Lifetime in seconds of requests that stay open: the longest that can be configured.
const VALID_S: u64 = 31_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match make(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slackwater-fixture: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An accepted request.
struct Known {
    id: B256,
    kind: &'static str,
    tag: B256,
    body: Value,
}

struct Scene {
    relayer: Relayer,
    proxy: Proxy,
    world: World,
    anvil: Anvil,
    server: Option<PostgresServer>,
    crowd: Crowd,
    known: Vec<Known>,
    calls: u64,
    valid_until_s: u64,
}

fn config(world: &World, has_server: bool) -> String {
    let signers: Vec<String> = (0..LANES).map(|lane| format!("\"env:{KEY_VAR}{lane}\"")).collect();
    let ledger = if has_server { "url = \"env:RELAYER_DATABASE\"\nlease_ms = 1000" } else { "path = \"{database}\"" };
    format!(
        "[server]\nlisten = \"{{listen}}\"\nallow_anonymous = true\n\n[ledger]\n{ledger}\n\n[request]\nmax_within_ms = 31536000000\n\n\
         [[chain]]\npreset = \"anvil\"\nrpc = [{{ url = \"{{rpc}}\" }}]\nsigners = [{}]\nforwarders = [{{ address = \"{}\" }}]\n\
         max_in_flight = 2\nmax_batch = 4\nlinger_ms = 50\n\n\
         [[tenant]]\nid = \"default\"\nkinds = [\"forward\", \"call\"]\noperator = true\n",
        signers.join(", "),
        world.forwarder,
    )
}

async fn make(args: &Args) -> Result<()> {
    let anvil = Anvil::builder().spawn().await?;
    let world = World::deploy(anvil.node(), LANES).await?;
    anvil.node().set_automine(false).await?;
    let proxy = Proxy::spawn(anvil.url(), 1).await?;
    let server = match args.postgres {
        true => Some(PostgresServer::start().map_err(|detail| BenchError::Process { what: "postgres", detail })?),
        false => None,
    };
    let text = config(&world, args.postgres);
    let mut builder = Relayer::builder(&world).binary(&args.binary).rpc(proxy.url()).config(text.clone());
    if let Some(server) = &server {
        builder = builder.env("RELAYER_DATABASE", server.url());
    }
    let relayer = builder.spawn().await?;
    let crowd = Crowd::named(&world, "fixture", USERS);
    let valid_until_s = unix_seconds() + VALID_S;
    let mut scene = Scene { relayer, proxy, world, anvil, server, crowd, known: Vec::new(), calls: 0, valid_until_s };
    scene.ended().await?;
    let statuses = scene.open(args.tries).await?;
    scene.keep(&args.out, &text, &statuses).await
}

impl Scene {
    fn ask(&self, to_nasty: bool, data: Vec<u8>) -> Ask {
        Ask {
            to: if to_nasty { self.world.nasty } else { self.world.guestbook },
            value: U256::ZERO,
            gas: 150_000,
            data: data.into(),
            deadline_s: self.valid_until_s + 60,
            within: None,
            max_cost_wei: None,
        }
    }

    /// Submits a forward with the latest deadline unless it has a `within`.
    async fn submit(&mut self, signed: SignedRequest, tag: B256) -> Result<B256> {
        let mut body: Value = serde_json::from_slice(&signed.body).map_err(|error| unexpected("a body", error))?;
        if body["within"].is_null() {
            body["deadline"] = json!(self.valid_until_s);
        }
        let id = self.relayer.client().submit(&body.to_string().into()).await?.accepted()?.id.0;
        self.known.push(Known { id, kind: "forward", tag, body });
        Ok(id)
    }

    async fn mark(&mut self, user: usize) -> Result<B256> {
        let tag = keccak256(format!("fixture {}", self.known.len()));
        let ask = self.ask(false, markCall { tag }.abi_encode());
        let signed = self.crowd.sign(user, &ask);
        self.submit(signed, tag).await
    }

    async fn call(&mut self) -> Result<B256> {
        self.calls += 1;
        let tag = keccak256(format!("fixture call {}", self.calls));
        let body = json!({
            "chainId": self.world.chain_id, "kind": "call", "deadline": self.valid_until_s,
            "call": {
                "to": self.world.guestbook, "gas": "120000", "data": Bytes::from(markCall { tag }.abi_encode()),
            },
        });
        let mut request = post_json("/v1/requests", body.to_string());
        let key = format!("fixture-{}", self.calls);
        request.headers_mut().insert("idempotency-key", key.parse().map_err(|error| unexpected("a key", error))?);
        let answer = self.relayer.client().send(request).await?;
        let told: Value = serde_json::from_slice(&answer.body).map_err(|error| unexpected("an answer", error))?;
        let id = told["id"].as_str().and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| unexpected("an acceptance", &told))?;
        self.known.push(Known { id, kind: "call", tag, body });
        Ok(id)
    }

    async fn status(&self, id: B256) -> Result<String> {
        Ok(self.relayer.client().request(id).await?.status)
    }

    async fn wait(&self, id: B256, wanted: &str, is_mining: bool) -> Result<()> {
        until(&format!("{id} to be {wanted}"), PATIENCE, async || {
            if is_mining {
                self.anvil.node().mine(1).await?;
            }
            Ok((self.status(id).await? == wanted).then_some(()))
        })
        .await
    }

    async fn arm(&self, on: bool) -> Result<()> {
        let from = self.anvil.node().accounts().await?[0];
        let transaction = json!({
            "from": from, "to": self.world.nasty, "data": Bytes::from(armCall { on }.abi_encode()), "gas": "0xf4240",
            "maxFeePerGas": "0xe8d4a51000", "maxPriorityFeePerGas": "0x746a528800",
        });
        self.anvil.node().call::<Value>("eth_sendTransaction", json!([transaction])).await.map(drop)
    }

    /// Requests that have ended, each in a different way.
    async fn ended(&mut self) -> Result<()> {
        let mut good = Vec::new();
        for user in 0..8 {
            good.push(self.mark(user % 5).await?);
        }
        good.push(self.call().await?);
        good.push(self.call().await?);
        for id in good {
            self.wait(id, "finalized", true).await?;
        }
        // Fails on chain only.
        let tag = keccak256("fixture armed");
        let ask = self.ask(true, ifArmedRevertCall { tag }.abi_encode());
        let signed = self.crowd.sign(5, &ask);
        let id = self.submit(signed, tag).await?;
        self.wait(id, "broadcast", false).await?;
        until("the transaction in the pool", PATIENCE, async || {
            Ok((self.anvil.node().pool().await?.0 > 0).then_some(()))
        })
        .await?;
        self.arm(true).await?;
        self.wait(id, "reverted", true).await?;
        // Fails in simulation.
        let ask = self.ask(true, revertAlwaysCall { reason: "no".to_owned() }.abi_encode());
        let signed = self.crowd.sign(6, &ask);
        let id = self.submit(signed, B256::ZERO).await?;
        self.wait(id, "rejected", true).await?;
        // Behind a missing nonce: one request expires, one is withdrawn.
        for user in [20, 21] {
            self.crowd.users[user].next_nonce = 1;
        }
        let tag = keccak256("fixture late");
        let mut ask = self.ask(false, markCall { tag }.abi_encode());
        ask.within = Some("4s".to_owned());
        let signed = self.crowd.sign(20, &ask);
        let late = self.submit(signed, tag).await?;
        let withdrawn = self.mark(21).await?;
        let mut request = post_json(&format!("/v1/requests/{withdrawn}"), String::new());
        *request.method_mut() = "DELETE".parse().map_err(|error| unexpected("a method", error))?;
        self.relayer.client().send(request).await?;
        self.wait(withdrawn, "cancelled", true).await?;
        self.wait(late, "expired", true).await
    }

    /// Open requests, and the relayer killed between the commit of a plan and the next one.
    async fn open(&mut self, tries: u32) -> Result<BTreeMap<B256, String>> {
        for round in 0..tries {
            let (mut early, mut late) = (Vec::new(), Vec::new());
            for user in 0..4 {
                early.push(self.mark(user).await?);
            }
            self.wait(early[0], "broadcast", false).await?;
            until("the transaction in the pool", PATIENCE, async || {
                Ok((self.anvil.node().pool().await?.0 > 0).then_some(()))
            })
            .await?;
            self.anvil.node().mine(1).await?;
            self.wait(early[0], "included", false).await?;
            // From here on no transaction reaches the node.
            let lost = self.proxy.add(Rule::always(Fault::DropBefore).on("eth_sendRawTransaction"));
            let flying = self.mark(5).await?;
            self.wait(flying, "broadcast", false).await?;
            // Behind a missing nonce.
            self.crowd.users[22].next_nonce += u64::from(round == 0);
            self.mark(22).await?;
            let seen = self.proxy.arrivals().len();
            let client = self.relayer.client().clone();
            for user in 6..18 {
                let tag = keccak256(format!("fixture {}", self.known.len() + late.len()));
                let ask = self.ask(false, markCall { tag }.abi_encode());
                let signed = self.crowd.sign(user, &ask);
                let mut body: Value =
                    serde_json::from_slice(&signed.body).map_err(|error| unexpected("a body", error))?;
                body["deadline"] = json!(self.valid_until_s);
                late.push((signed.id, tag, body));
            }
            let body = json!({ "requests": late.iter().map(|(_, _, body)| body).collect::<Vec<_>>() }).to_string();
            let sending = tokio::spawn(async move { client.submit_batch(body.into()).await });
            let started = Instant::now();
            while self.proxy.arrivals().iter().skip(seen).all(|arrival| self.is_known(arrival.nonce, seen)) {
                if started.elapsed() > PATIENCE {
                    return Err(unexpected("a new transaction", "none came"));
                }
                tokio::task::yield_now().await;
            }
            self.relayer.pause()?;
            let answers = sending.await.map_err(|error| unexpected("submitting", error))??;
            for ((id, tag, body), answer) in late.into_iter().zip(answers) {
                answer.accepted()?;
                self.known.push(Known { id, kind: "forward", tag, body });
            }
            self.relayer.kill();
            let statuses = self.statuses()?;
            let found: BTreeSet<&str> = statuses.values().map(String::as_str).collect();
            println!("round {}: {found:?}", round + 1);
            if found.len() == Status::ALL.len() {
                return Ok(statuses);
            }
            self.proxy.remove(lost);
            self.relayer.start().await?;
            for id in self.known.iter().map(|known| known.id).collect::<Vec<_>>() {
                let is_behind = self.known.iter().any(|known| {
                    known.id == id && known.body["forward"]["from"] == json!(self.crowd.users[22].account.address)
                });
                if !is_behind && !self.relayer.client().request(id).await?.is_terminal() {
                    until("the end of a round", PATIENCE, async || {
                        self.anvil.node().mine(1).await?;
                        Ok(self.relayer.client().request(id).await?.is_terminal().then_some(()))
                    })
                    .await?;
                }
            }
        }
        Err(unexpected("a request in each status", format!("not found in {tries} rounds")))
    }

    /// True if a transaction with this nonce was sent before the `seen`-th arrival.
    fn is_known(&self, nonce: u64, seen: usize) -> bool {
        self.proxy.arrivals().iter().take(seen).any(|arrival| arrival.nonce == nonce)
    }

    fn tool(&self, args: &[&str], sql: &str) -> Result<String> {
        if let Some(server) = &self.server {
            return server.sql(sql).map_err(|detail| BenchError::Process { what: "psql", detail });
        }
        let failed = |detail: String| BenchError::Process { what: "sqlite3", detail };
        let output = Command::new("sqlite3").args(args).arg(self.relayer.database()).arg(sql).output();
        let output = output.map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Status of every request, from the ledger: no relayer is running now.
    fn statuses(&self) -> Result<BTreeMap<B256, String>> {
        let sql = match &self.server {
            Some(_) => "SELECT encode(id, 'hex') || '|' || status FROM slackwater.requests",
            None => "SELECT lower(hex(id)) || '|' || status FROM requests",
        };
        let rows = self.tool(&["-readonly"], sql)?;
        let row = |row: &str| {
            let (id, code) = row.split_once('|')?;
            let status = Status::ALL.get(code.parse::<usize>().ok()?)?;
            Some((id.parse().ok()?, status.as_str().to_owned()))
        };
        rows.lines().map(|line| row(line).ok_or_else(|| unexpected("a row", line))).collect()
    }

    async fn keep(mut self, out: &Path, config: &str, statuses: &BTreeMap<B256, String>) -> Result<()> {
        fs::create_dir_all(out).map_err(|error| unexpected(out.display(), error))?;
        let dir = tempfile::TempDir::new().map_err(|error| unexpected("a directory", error))?;
        if let Some(server) = &self.server {
            let dump = server.client("pg_dump", &["--schema=slackwater", "--no-owner", "--no-privileges"]);
            let dump = dump.map_err(|detail| BenchError::Process { what: "pg_dump", detail })?;
            zip(&out.join("ledger.sql.gz"), dump.as_bytes())?;
        } else {
            let copy = dir.path().join("ledger.db");
            self.tool(&[], &format!("VACUUM INTO '{}'", copy.display()))?;
            zip(&out.join("ledger.db.gz"), &read(&copy)?)?;
        }
        let (head, base_fee) = (self.anvil.node().head().await?, self.world.forwarder);
        self.anvil.stop().await?;
        zip(&out.join("chain.json.gz"), &read(self.anvil.state_path())?)?;
        write(&out.join("slackwater.toml"), config.as_bytes())?;
        let requests: Vec<Value> = self
            .known
            .iter()
            .map(|known| {
                json!({
                    "id": known.id, "kind": known.kind, "tag": known.tag, "status": statuses.get(&known.id),
                    "body": known.body,
                })
            })
            .collect();
        let version = Command::new(self.relayer.command(&["--version"]).get_program()).arg("--version").output();
        let version =
            version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        let manifest = json!({
            "version": version, "chainId": self.world.chain_id, "forwarder": base_fee,
            "forwarderName": self.world.forwarder_name, "guestbook": self.world.guestbook, "nasty": self.world.nasty,
            "lanes": LANES, "block": head.number, "blockTimestamp": head.timestamp, "validUntil": self.valid_until_s,
            "requests": requests,
        });
        let text = serde_json::to_string_pretty(&manifest).map_err(|error| unexpected("the list", error))?;
        zip(&out.join("requests.json.gz"), text.as_bytes())?;
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for status in statuses.values() {
            *counts.entry(status).or_default() += 1;
        }
        println!("{} written: {counts:?}", out.display());
        Ok(())
    }
}

fn unexpected(what: impl ToString, detail: impl ToString) -> BenchError {
    BenchError::Unexpected { what: what.to_string(), detail: detail.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| unexpected(path.display(), error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|error| unexpected(path.display(), error))
}

fn zip(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let packed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    write(path, &packed.map_err(|error| unexpected(path.display(), error))?)
}
