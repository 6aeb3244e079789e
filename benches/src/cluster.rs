//! Several instances of the relayer on one PostgreSQL and one chain, each with a proxy of its own before the node.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    anvil::Anvil,
    client::RelayerClient,
    error::{BenchError, Result},
    postgres::PostgresServer,
    proxy::{Proxy, Storm},
    relayer::Relayer,
    wait::until,
    world::World,
};

/// Settings of a [`Cluster`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `raise`"]
pub struct ClusterBuilder {
    binary: Option<PathBuf>,
    instances: usize,
    lanes: usize,
    lease: Duration,
    chain: Vec<(&'static str, String)>,
    extra: String,
    patience: Duration,
}

impl ClusterBuilder {
    /// The program; [`crate::relayer::binary_path`] by default.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Sender accounts, the same in every instance; 2 by default.
    pub const fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = lanes;
        self
    }

    /// Duration of a lease; 2 s by default.
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// A key of the chain's table, as TOML.
    pub fn chain_key(mut self, key: &'static str, value: impl ToString) -> Self {
        self.chain.push((key, value.to_string()));
        self
    }

    /// Further tables of the configuration.
    pub fn extra(mut self, toml: &str) -> Self {
        self.extra.push_str(toml);
        self
    }

    /// Time limit for anything that must happen; 90 s by default.
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts database, chain (four blocks a second) and instances, and waits until all are ready.
    ///
    /// # Errors
    /// Says what is missing, or did not come up.
    pub async fn raise(self) -> Result<Cluster> {
        let database = |detail: String| BenchError::Process { what: "postgres", detail };
        let server = PostgresServer::start().map_err(database)?;
        let anvil = Anvil::builder().arg("--block-time").arg("0.25").spawn().await?;
        let world = World::deploy(anvil.node(), self.lanes).await?;
        // A stale answer must not be from before the contracts: a relayer does not start without them.
        anvil.node().mine(Storm::STALE_BLOCKS + 1).await?;
        let born = anvil.node().block_number().await?;
        let (mut relayers, mut proxies) = (Vec::new(), Vec::new());
        for index in 0..self.instances {
            let proxy = Proxy::spawn(anvil.url(), index as u64).await?;
            let mut relayer = Relayer::builder(&world)
                .rpc(proxy.url())
                .chain_key("spec", "{ block_time_ms = 250 }")
                .ledger_key("url", json!("env:RELAYER_DATABASE"))
                .ledger_key("lease_ms", self.lease.as_millis())
                .ledger_key("idle_timeout_ms", 500)
                .ledger_key("instance", json!(format!("relayer-{index}")))
                .env("RELAYER_DATABASE", server.url())
                .extra(&self.extra);
            for (key, value) in &self.chain {
                relayer = relayer.chain_key(key, value);
            }
            if let Some(binary) = &self.binary {
                relayer = relayer.binary(binary);
            }
            relayers.push(relayer.prepare()?);
            proxies.push(proxy);
        }
        let Self { lease, patience, .. } = self;
        let mut cluster = Cluster { relayers, proxies, world, anvil, server, born, lease, patience, is_done: false };
        for relayer in &mut cluster.relayers {
            relayer.launch()?;
        }
        for relayer in &mut cluster.relayers {
            relayer.wait_ready(patience).await?;
        }
        Ok(cluster)
    }
}

/// Instances on one database and one chain. Fields are dropped, and their processes ended, in order of declaration.
#[derive(Debug)]
pub struct Cluster {
    /// The instances.
    pub relayers: Vec<Relayer>,
    /// Proxies before the node, one for each instance.
    pub proxies: Vec<Proxy>,
    /// The contracts.
    pub world: World,
    /// The chain.
    pub anvil: Anvil,
    /// The database.
    pub server: PostgresServer,
    /// Height at which the instances were started.
    pub born: u64,
    /// Duration of a lease.
    pub lease: Duration,
    patience: Duration,
    is_done: bool,
}

impl Cluster {
    /// A cluster of `instances` instances, with the defaults.
    pub const fn of(instances: usize) -> ClusterBuilder {
        ClusterBuilder {
            binary: None,
            instances,
            lanes: 2,
            lease: Duration::from_secs(2),
            chain: Vec::new(),
            extra: String::new(),
            patience: Duration::from_secs(90),
        }
    }

    /// A client of one instance, which may be dead.
    pub fn client(&self, index: usize) -> RelayerClient {
        self.relayers[index].client().clone().with_timeout(Duration::from_secs(10))
    }

    /// Index of the instance that drives the lanes, according to its own report; instance `but` is not asked. `None`
    /// if no instance says that it does.
    ///
    /// # Errors
    /// Never: an instance that does not answer is skipped.
    pub async fn owner(&self, but: Option<usize>) -> Result<Option<usize>> {
        for (index, relayer) in self.relayers.iter().enumerate().filter(|(index, _)| Some(*index) != but) {
            let client = relayer.client().clone().with_timeout(Duration::from_secs(2));
            let Ok(lanes) = client.lanes().await else { continue };
            let is_following = |lane: &Value| lane["paused"].as_str().is_some_and(|why| why.starts_with("driven by"));
            let lanes = lanes["lanes"].as_array().cloned().unwrap_or_default();
            if !lanes.is_empty() && !lanes.iter().any(is_following) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Waits until an instance drives the lanes.
    ///
    /// # Errors
    /// [`BenchError::Timeout`].
    pub async fn wait_owner(&self) -> Result<usize> {
        until("an owner of the lanes", self.patience, async || self.owner(None).await).await
    }

    /// Waits until an instance other than `old` drives the lanes; also returns the time that took.
    ///
    /// # Errors
    /// [`BenchError::Timeout`].
    pub async fn wait_other_owner(&self, old: usize) -> Result<(usize, Duration)> {
        let started = Instant::now();
        let next = until("another owner of the lanes", self.patience, async || self.owner(Some(old)).await).await?;
        Ok((next, started.elapsed()))
    }

    /// Ends a run that has passed: stops all instances in order and audits the ledger against the chain.
    ///
    /// # Errors
    /// If an instance ends with an error, or the audit finds fault.
    pub async fn close(mut self) -> Result<()> {
        for relayer in &mut self.relayers {
            if !relayer.terminate(Duration::from_secs(30)).await? {
                let detail = "an instance ends with an error".to_owned();
                return Err(BenchError::Process { what: "slackwater", detail });
            }
        }
        for proxy in &self.proxies {
            proxy.clear();
        }
        self.relayers[0].audit().await?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        for (index, relayer) in self.relayers.iter().enumerate() {
            eprintln!("the end of the log of instance {index}:\n{}", relayer.log_tail(25));
        }
    }
}
