//! The common setting of tests: a node, contracts, optionally a proxy, and the relayer.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use alloy_primitives::{Address, B256, U256};
use serde_json::{Value, json};
use slackwater_benches::{
    Anvil, BenchError, Forwarder, Node, Proxy, Relayer, RelayerClient, Result, World,
    client::{RequestState, Submitted, is_terminal},
    proxy::{Fault, Rule},
    relayer::RelayerBuilder,
    token::Token,
    wallet::{SignedRequest, batch_body},
};
use slackwater_contracts::capped_calls;

pub(crate) use slackwater_benches::wait::until;

/// Time limit for anything that must happen. Only a broken relayer waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Requests per call of the batch endpoint.
const CHUNK: usize = 100;

/// Block production.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// One every second.
    Second,
    /// Four every second.
    Quarter,
    /// On the test's command.
    Manual,
}

/// Route of an endpoint of the relayer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// Directly to the node.
    Node,
    /// To the proxy in front of the node.
    Proxy,
    /// To the node, with added delay: another endpoint is preferred.
    Slow,
}

/// Route of the first endpoint's WebSocket.
#[derive(Debug, Clone)]
enum Heads {
    /// To the node, through a forwarder.
    Forwarded,
    /// To another URL.
    At(String),
}

/// Added delay of [`Via::Slow`].
const DETOUR: Duration = Duration::from_millis(25);

/// Builder of a [`Stage`].
#[must_use = "a builder does nothing until `raise`"]
pub(crate) struct StageBuilder {
    pace: Pace,
    lanes: usize,
    endpoints: Vec<Via>,
    also: Vec<String>,
    heads: Option<Heads>,
    chain: Vec<(&'static str, String)>,
    ledger: Vec<(&'static str, String)>,
    database: Option<PathBuf>,
    spec: String,
    extra: String,
    tenants: Option<fn(&World) -> String>,
    has_token: bool,
    has_capped_calls: bool,
    environment: Vec<(&'static str, String)>,
    api_key: Option<String>,
}

impl StageBuilder {
    /// Number of sender accounts; 1 by default.
    pub(crate) const fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = lanes;
        self
    }

    /// The relayer reaches the node through a proxy.
    pub(crate) fn proxied(self) -> Self {
        self.endpoints(&[Via::Proxy])
    }

    /// The relayer's endpoints.
    pub(crate) fn endpoints(mut self, endpoints: &[Via]) -> Self {
        self.endpoints = endpoints.to_vec();
        self
    }

    /// The first endpoint has a WebSocket, which leads to the node through a forwarder.
    pub(crate) fn subscribed(mut self) -> Self {
        self.heads = Some(Heads::Forwarded);
        self
    }

    /// The first endpoint has this WebSocket.
    pub(crate) fn subscribed_at(mut self, ws_url: &str) -> Self {
        self.heads = Some(Heads::At(ws_url.to_owned()));
        self
    }

    /// A further endpoint, last in the list.
    pub(crate) fn also(mut self, url: &str) -> Self {
        self.also.push(url.to_owned());
        self
    }

    /// A key of the chain's configuration, as TOML.
    pub(crate) fn chain_key(mut self, key: &'static str, value: impl ToString) -> Self {
        self.chain.push((key, value.to_string()));
        self
    }

    /// A key of the ledger's configuration, as TOML.
    pub(crate) fn ledger_key(mut self, key: &'static str, value: impl ToString) -> Self {
        self.ledger.push((key, value.to_string()));
        self
    }

    /// Path of the ledger's file.
    pub(crate) fn database(mut self, path: PathBuf) -> Self {
        self.database = Some(path);
        self
    }

    /// Properties of the chain that differ from the preset, as members of a TOML table.
    pub(crate) fn spec(mut self, members: &str) -> Self {
        self.spec = format!(", {members}");
        self
    }

    /// Further tables of the configuration.
    pub(crate) fn extra(mut self, toml: &str) -> Self {
        self.extra.push_str(toml);
        self
    }

    /// The tenants, as TOML; for configurations that name a contract of the world.
    pub(crate) fn tenants(mut self, toml: fn(&World) -> String) -> Self {
        self.tenants = Some(toml);
        self
    }

    /// `CappedCalls` is deployed, through which payments share transactions.
    pub(crate) const fn capped_calls(mut self) -> Self {
        self.has_capped_calls = true;
        self
    }

    /// Circle's token, whose payments the relayer makes.
    pub(crate) const fn token(mut self) -> Self {
        self.has_token = true;
        self
    }

    /// A variable of the relayer's environment.
    pub(crate) fn env(mut self, name: &'static str, value: impl ToString) -> Self {
        self.environment.push((name, value.to_string()));
        self
    }

    /// The API key that [`Stage::client`] sends.
    pub(crate) fn api_key(mut self, key: &str) -> Self {
        self.api_key = Some(key.to_owned());
        self
    }

    /// Starts everything and waits until the relayer is ready.
    pub(crate) async fn raise(self) -> Result<Stage> {
        let node = Anvil::builder();
        let node = match self.pace {
            Pace::Second => node.block_time(1),
            Pace::Quarter => node.arg("--block-time").arg("0.25"),
            Pace::Manual => node,
        };
        let anvil = node.spawn().await?;
        let world = World::deploy(anvil.node(), self.lanes).await?;
        let token = match self.has_token {
            true => Some(Token::deploy(anvil.node()).await?),
            false => None,
        };
        if self.has_capped_calls {
            anvil.node().set_code(capped_calls::ADDRESS, capped_calls::runtime_code()).await?;
        }
        if self.pace == Pace::Manual {
            anvil.node().set_automine(false).await?;
        }
        let seed = seed();
        let proxy = match self.endpoints.contains(&Via::Proxy) {
            true => Some(Proxy::spawn(anvil.url(), seed).await?),
            false => None,
        };
        let detour = match self.endpoints.contains(&Via::Slow) {
            true => {
                let detour = Proxy::spawn(anvil.url(), seed).await?;
                detour.add(Rule::always(Fault::Delay { min: DETOUR, max: DETOUR }));
                Some(detour)
            }
            false => None,
        };
        let forwarder = match &self.heads {
            Some(Heads::Forwarded) => {
                let node = anvil.url().trim_start_matches("http://").parse().expect("an address");
                Some(Forwarder::spawn(node).await?)
            }
            _ => None,
        };
        let mut ws_url = match self.heads {
            Some(Heads::At(url)) => Some(url),
            _ => forwarder.as_ref().map(|forwarder| format!("ws://{}", forwarder.address())),
        };
        let mut builder = Self::binary(&world);
        for via in &self.endpoints {
            let through = match via {
                Via::Node => None,
                Via::Proxy => proxy.as_ref(),
                Via::Slow => detour.as_ref(),
            };
            let url = through.map_or(anvil.url(), Proxy::url);
            builder = match ws_url.take() {
                Some(ws_url) => builder.rpc_with_heads(url, ws_url),
                None => builder.rpc(url),
            };
        }
        for url in &self.also {
            builder = builder.rpc(url);
        }
        let block_time_ms = if self.pace == Pace::Second { 1_000 } else { 250 };
        builder = builder.chain_key("spec", format!("{{ block_time_ms = {block_time_ms}{} }}", self.spec));
        if let Some(token) = &token {
            builder = builder.chain_key("tokens", format!("[{{ address = \"{}\" }}]", token.address));
        }
        for (key, value) in &self.chain {
            builder = builder.chain_key(key, value);
        }
        for (key, value) in &self.ledger {
            builder = builder.ledger_key(key, value);
        }
        if let Some(database) = self.database {
            builder = builder.database(database);
        }
        for (name, value) in &self.environment {
            builder = builder.env(name, value);
        }
        if let Some(tenants) = self.tenants {
            builder = builder.extra(&tenants(&world));
        }
        let relayer = builder.extra(&self.extra).prepare()?;
        let client = match &self.api_key {
            Some(key) => relayer.client().clone().with_key(key),
            None => relayer.client().clone(),
        };
        let born = anvil.node().block_number().await?;
        let mut stage = Stage {
            relayer,
            client,
            proxy,
            forwarder,
            _detour: detour,
            world,
            token,
            anvil,
            seed,
            born,
            is_done: false,
        };
        stage.relayer.start().await?;
        Ok(stage)
    }

    fn binary(world: &World) -> RelayerBuilder {
        Relayer::builder(world).binary(env!("CARGO_BIN_EXE_slackwater"))
    }
}

/// A running stage. Fields are dropped, and so ended, in order.
pub(crate) struct Stage {
    pub(crate) relayer: Relayer,
    client: RelayerClient,
    proxy: Option<Proxy>,
    forwarder: Option<Forwarder>,
    _detour: Option<Proxy>,
    pub(crate) world: World,
    token: Option<Token>,
    pub(crate) anvil: Anvil,
    /// Seed of all randomness.
    pub(crate) seed: u64,
    /// Block height at which the relayer was started.
    pub(crate) born: u64,
    is_done: bool,
}

impl Stage {
    /// A stage with one lane and no proxy.
    pub(crate) fn at(pace: Pace) -> StageBuilder {
        StageBuilder {
            pace,
            lanes: 1,
            endpoints: vec![Via::Node],
            also: Vec::new(),
            heads: None,
            chain: Vec::new(),
            ledger: Vec::new(),
            database: None,
            spec: String::new(),
            extra: String::new(),
            tenants: None,
            has_token: false,
            has_capped_calls: false,
            environment: Vec::new(),
            api_key: None,
        }
    }

    pub(crate) const fn client(&self) -> &RelayerClient {
        &self.client
    }

    pub(crate) const fn node(&self) -> &Node {
        self.anvil.node()
    }

    pub(crate) const fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("this stage has no proxy")
    }

    pub(crate) const fn forwarder(&self) -> &Forwarder {
        self.forwarder.as_ref().expect("this stage has no forwarder")
    }

    pub(crate) const fn token(&self) -> &Token {
        self.token.as_ref().expect("this stage has no token")
    }

    /// The first sender account.
    pub(crate) fn lane(&self) -> Address {
        self.world.relayers[0].address
    }

    /// Submits all, in order; each must be accepted.
    pub(crate) async fn submit(&self, requests: &[SignedRequest]) -> Result<()> {
        submit_all(self.client(), requests).await
    }

    /// Waits until every request that was ever accepted has ended.
    pub(crate) async fn settle(&self) -> Result<BTreeMap<String, u64>> {
        let open = async || {
            let counts = match self.client().counts().await {
                Err(error) if error.is_ambiguous() => return Ok(None),
                counts => counts?,
            };
            Ok(counts.keys().all(|status| is_terminal(status)).then_some(counts))
        };
        match until("the end of all requests", PATIENCE, open).await {
            Err(error) => {
                println!("not settled: {:?}", self.client().counts().await);
                Err(error)
            }
            counts => counts,
        }
    }

    /// As [`Self::settle`], mining blocks all the while.
    pub(crate) async fn settle_mining(&self) -> Result<BTreeMap<String, u64>> {
        let started = Instant::now();
        loop {
            let counts = self.client().counts().await?;
            if counts.keys().all(|status| is_terminal(status)) {
                return Ok(counts);
            }
            assert!(started.elapsed() < PATIENCE, "not settled: {counts:?}, {}", self.client().lanes().await?);
            self.mine(1).await?;
        }
    }

    /// Waits until one request has `status`.
    pub(crate) async fn wait_status(&self, id: B256, status: &str) -> Result<RequestState> {
        let mut last = String::new();
        let reached = async || {
            let state = self.client().request(id).await?;
            assert!(
                state.status == status || !state.is_terminal(),
                "{id} is {} ({:?}), not {status}",
                state.status,
                state.reason
            );
            last.clone_from(&state.status);
            Ok((state.status == status).then_some(state))
        };
        until(&format!("{id} to be {status}"), PATIENCE, reached).await
    }

    /// Waits until one request has ended.
    pub(crate) async fn ended(&self, id: B256) -> Result<RequestState> {
        self.client().wait_terminal(id, PATIENCE).await
    }

    /// Mines blocks, and waits until the relayer has seen them.
    pub(crate) async fn mine(&self, blocks: u64) -> Result<()> {
        self.node().mine(blocks).await?;
        self.follow().await
    }

    /// Waits until the relayer has seen the head.
    pub(crate) async fn follow(&self) -> Result<()> {
        let head = self.node().block_number().await?;
        until("the relayer to see the head", PATIENCE, async || Ok((self.head().await? == head).then_some(()))).await
    }

    /// Newest block that the relayer has seen; 0 before the first.
    pub(crate) async fn head(&self) -> Result<u64> {
        let chains: Value = self.client().chains().await?;
        Ok(chains["chains"][0]["head"].as_u64().unwrap_or_default())
    }

    /// Waits until the node's pool holds at least so many executable transactions.
    pub(crate) async fn pooled(&self, count: u64) -> Result<()> {
        until(&format!("{count} transactions in the pool"), PATIENCE, async || {
            Ok((self.node().pool().await?.0 >= count).then_some(()))
        })
        .await
    }

    /// A metric's value, summed over the series whose labels contain all of `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let metrics = self.client().metrics().await?;
        let of_name = |series: &str| series.split('{').next() == Some(name);
        Ok(metrics
            .iter()
            .filter(|(series, _)| of_name(series) && labels.iter().all(|label| series.contains(label)))
            .map(|(_, value)| value)
            .sum())
    }

    /// Amount that left the first lane since the world was made, according to the chain, and the part of it that
    /// accounts bear, according to the ledger; both in wei.
    pub(crate) async fn spent_and_borne(&self) -> Result<(U256, U256)> {
        use sqlx::{Connection as _, Row as _};
        let funded = U256::from(10_000) * U256::from(10_u64.pow(18));
        let spent = funded - self.node().balance(self.lane()).await?;
        let url = format!("sqlite://{}", self.relayer.database().display());
        let mut ledger = sqlx::SqliteConnection::connect(&url).await.expect("a connection");
        let rows = sqlx::query("SELECT wei FROM batch_accounts").fetch_all(&mut ledger).await.expect("rows");
        let borne = rows.iter().map(|row| row.get::<String, _>(0).parse::<U256>().expect("a number")).sum();
        ledger.close().await.expect("closes");
        Ok((spent, borne))
    }

    pub(crate) async fn lane_state(&self, index: usize) -> Result<Value> {
        let sender = self.world.relayers[index].address;
        let lanes = self.client().lanes().await?;
        let lane = lanes["lanes"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|lane| lane["sender"].as_str().and_then(|text| text.parse::<Address>().ok()) == Some(sender));
        Ok(lane.cloned().unwrap_or_default())
    }

    /// Sets the gas limit of future blocks. A limit too low for a transaction keeps it in the pool.
    pub(crate) async fn set_block_gas_limit(&self, gas: u64) -> Result<()> {
        self.node().call::<Value>("evm_setBlockGasLimit", json!([alloy_primitives::U64::from(gas)])).await.map(drop)
    }

    /// Ends a test that has passed: the relayer shuts down in order, and its database is consistent in itself and with
    /// the chain.
    pub(crate) async fn close(mut self) -> Result<()> {
        assert!(self.relayer.terminate(Duration::from_secs(30)).await?, "the relayer ends with an error");
        if let Some(proxy) = &self.proxy {
            proxy.clear();
        }
        self.relayer.audit().await?;
        self.is_done = true;
        Ok(())
    }
}

impl Stage {
    /// Copies database and log of a failed test to `$TEST_KEEP`, if that names a directory.
    fn keep(&mut self) {
        let Some(dir) = std::env::var_os("TEST_KEEP").map(|dir| PathBuf::from(dir).join(self.seed.to_string())) else {
            return;
        };
        self.relayer.kill();
        let _ = fs::create_dir_all(&dir);
        for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm", "slackwater.log"] {
            let _ = fs::copy(self.relayer.database().with_file_name(name), dir.join(name));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        println!("seed {}; the end of the relayer's log:\n{}", self.seed, self.relayer.log_tail(60));
        self.keep();
    }
}

/// Submits all in calls of the batch endpoint; each must be accepted. Calls without an answer, or refused with a retry
/// time, are repeated with the same bytes.
pub(crate) async fn submit_all(client: &RelayerClient, requests: &[SignedRequest]) -> Result<()> {
    let started = Instant::now();
    for chunk in requests.chunks(CHUNK) {
        let mut open: Vec<&SignedRequest> = chunk.iter().collect();
        while !open.is_empty() {
            assert!(started.elapsed() < PATIENCE, "{} requests get no answer", open.len());
            let body = batch_body(open.iter().map(|request| &request.body));
            let answers = match client.submit_batch(body).await {
                Ok(answers) => answers,
                Err(error) if is_transient(&error) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut again = Vec::new();
            for (request, answer) in open.into_iter().zip(answers) {
                match answer {
                    Submitted::Accepted(accepted) => assert_eq!(accepted.id.0, request.id),
                    Submitted::Refused(problem) if matches!(problem.status, 429 | 503) => again.push(request),
                    Submitted::Refused(problem) => {
                        panic!("{} is refused: {} {}", request.id, problem.code, problem.detail)
                    }
                }
            }
            open = again;
            if !open.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    Ok(())
}

/// No answer, or one that asks for a retry.
pub(crate) const fn is_transient(error: &BenchError) -> bool {
    error.is_ambiguous() || matches!(error, BenchError::Problem { status: 503, .. })
}

/// `$TEST_SEED`, or another one each time. Printed, so that a failing run can be repeated.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| u64::from(since.subsec_nanos()) ^ since.as_secs())
    });
    println!("seed {seed}");
    seed
}
