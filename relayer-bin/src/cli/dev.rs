//! `dev`: a chain, contracts, funded lanes and the API, with no configuration.

use std::{
    io::IsTerminal,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U64, U256, hex, keccak256};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use slackwater::{LocalSigner, RpcEndpoint, RpcPool};
use slackwater_contracts::{capped_calls, forwarder, guestbook, multicall3};
use slackwater_core::wire::Account;
use tokio::process::{Child, Command};

use super::{
    error::{CliError, Exit},
    serve,
};
use crate::{config::Sources, telemetry};

/// EIP-712 name of the forwarder that is deployed.
pub(super) const FORWARDER_NAME: &str = "Slackwater Dev Forwarder";
/// The first account of every anvil node: unlocked there, and its key is public.
const DEPLOYER: Address = alloy_primitives::address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
/// Initial balance of each lane, wei: 10 000 ether.
const LANE_BALANCE: &str = "0x21e19e0c9bab2400000";
/// Time limit for anvil's start.
const ANVIL_START: Duration = Duration::from_secs(20);

/// Options of `slackwater dev`.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Address and port of the API.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7700")]
    listen: SocketAddr,
    /// Number of sender accounts.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    lanes: u16,
    /// The anvil binary. Otherwise: `PATH`, then tools/npm/node_modules below the current directory.
    #[arg(long, value_name = "PATH", env = "SLACKWATER_ANVIL")]
    anvil: Option<PathBuf>,
    /// Use a running anvil instead of starting one.
    #[arg(long, value_name = "URL", conflicts_with_all = ["anvil", "anvil_port", "block_time", "gas_limit", "chain_id"])]
    rpc: Option<String>,
    /// Port of the chain; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8545)]
    anvil_port: u16,
    /// Seconds between blocks; may have a fraction.
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    block_time: String,
    /// Gas limit of a block.
    #[arg(long, value_name = "GAS", default_value_t = 60_000_000)]
    gas_limit: u64,
    /// Chain id.
    #[arg(long, default_value_t = 31_337)]
    chain_id: u64,
    /// Keep database and chain here, and go on with them next time. Otherwise they are gone at the end.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Set one more configuration key; `chain.0.` for the chain.
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::parse_pair)]
    set: Vec<(String, String)>,
    /// Level or filter of the logs.
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log_level: String,
    /// Print one line of JSON with all addresses when ready.
    #[arg(long)]
    json: bool,
}

/// Addresses and accounts of the started environment, for people and scripts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ready<'a> {
    url: String,
    rpc: &'a str,
    chain_id: u64,
    tenant: &'static str,
    relayer: Account,
    forwarder: Account,
    forwarder_name: &'static str,
    guestbook: Account,
    multicall3: Account,
    lanes: Vec<Account>,
    database: String,
}

/// Contracts deployed by an earlier run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Contracts {
    forwarder: Address,
    guestbook: Address,
}

pub(super) async fn run(args: DevArgs) -> Result<(), CliError> {
    let stop = serve::stop_signal()?;
    let scratch = tempfile::Builder::new().prefix("slackwater-dev-").tempdir()?;
    let data = match &args.data {
        Some(dir) => {
            super::keys::private_dir(dir)?;
            dir.clone()
        }
        None => scratch.path().to_owned(),
    };
    let (mut anvil, rpc) = match &args.rpc {
        Some(url) => (None, url.clone()),
        None => {
            let (anvil, url) = Anvil::start(&args, args.data.as_ref().map(|dir| dir.join("anvil.json")))?;
            (Some(anvil), url)
        }
    };
    let started = tokio::select! {
        started = serve_dev(&args, &data, &rpc) => started,
        error = exited(&mut anvil) => Err(error),
    };
    let result = match started {
        Err(error) => Err(error),
        Ok(running) => {
            let lost = async {
                let error = exited(&mut anvil).await;
                tracing::error!(%error, "the chain is gone");
            };
            let ended = async {
                tokio::select! {
                    () = stop => {}
                    () = lost => {}
                }
            };
            running.serve(ended).await
        }
    };
    if let Some(anvil) = anvil {
        anvil.stop().await;
    }
    result
}

/// Prepares the chain, starts the relayer on it, and reports the environment.
async fn serve_dev(args: &DevArgs, data: &Path, rpc: &str) -> Result<serve::Running, CliError> {
    let pool = RpcPool::new(vec![RpcEndpoint::new("anvil", rpc)], Duration::from_secs(10));
    let chain_id = wait_for_node(&pool, rpc).await?;
    let contracts = prepare(&pool, &data.join("contracts.json")).await?;
    let mut lanes = Vec::new();
    let mut signers = Vec::new();
    for index in 0..args.lanes {
        let key = dev_key(&format!("lane {index}"));
        let signer = LocalSigner::from_bytes(&key.0).map_err(|error| CliError::failed(error.to_string()))?;
        let _: serde_json::Value = pool.call("anvil_setBalance", json!([signer.address(), LANE_BALANCE])).await?;
        lanes.push(Account(signer.address()));
        signers.push(format!("\"inline:{}\"", hex::encode(key)));
    }
    let database = data.join("slackwater.db");
    let config = configuration(args, rpc, chain_id, &database, &signers, contracts)?;
    telemetry::init_logs(&config.log);
    let running = serve::start(&config, None).await?;
    let ready = Ready {
        url: format!("http://{}", running.server.address()),
        rpc,
        chain_id,
        tenant: "default",
        relayer: Account(running.relay.identity()),
        forwarder: Account(contracts.forwarder),
        forwarder_name: FORWARDER_NAME,
        guestbook: Account(contracts.guestbook),
        multicall3: Account(multicall3::ADDRESS),
        lanes,
        database: database.display().to_string(),
    };
    announce(&ready, args.json)?;
    Ok(running)
}

fn configuration(
    args: &DevArgs,
    rpc: &str,
    chain_id: u64,
    database: &Path,
    signers: &[String],
    contracts: Contracts,
) -> Result<crate::config::Config, CliError> {
    let block_time_ms = match args.rpc {
        Some(_) => 1_000,
        None => seconds_to_ms(&args.block_time).ok_or_else(|| CliError::usage("--block-time must be above 0"))?,
    };
    let text = format!(
        "[server]\nlisten = \"{listen}\"\nallow_anonymous = true\n\
         cors_origins = [\"http://localhost:*\", \"http://127.0.0.1:*\", \"http://[::1]:*\"]\n\
         [ledger]\npath = {database:?}\n\
         [identity]\nkey = \"inline:{identity}\"\n\
         [log]\nlevel = {level:?}\n\
         [[chain]]\npreset = \"anvil\"\nchain_id = {chain_id}\nrpc = [{{ name = \"anvil\", url = {rpc:?}, insecure = true }}]\n\
         signers = [{signers}]\nforwarders = [{{ address = \"{forwarder}\" }}]\n\
         spec = {{ block_time_ms = {block_time_ms}, multicall3 = \"{multicall3}\" }}\n\
         [[tenant]]\nid = \"default\"\nkinds = [\"forward\", \"call\"]\noperator = true\nopen = true\n\
         targets = {{ \"{chain_id}\" = {{ \"{guestbook}\" = [], \"*\" = [] }} }}\n\
         max_value_wei = \"1000000000000000000\"\nmax_gas = 10000000\n",
        listen = args.listen,
        database = database.display().to_string(),
        identity = hex::encode(dev_key("identity")),
        level = args.log_level,
        signers = signers.join(", "),
        forwarder = contracts.forwarder,
        guestbook = contracts.guestbook,
        multicall3 = multicall3::ADDRESS,
    );
    let mut sources = Sources { allow_inline_secrets: true, ..Sources::of_process(None) };
    for (key, value) in &args.set {
        sources = sources.flag("--set", key, Some(value.clone()));
    }
    Ok(sources.load_text(Some(("dev".to_owned(), text)))?)
}

fn seconds_to_ms(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let ms = whole.checked_mul(1_000)?.checked_add(digits.parse().ok()?)?;
    (ms > 0).then_some(ms)
}

/// A key that is the same in every run, so that a kept database still matches. Worthless outside a local chain.
fn dev_key(purpose: &str) -> B256 {
    keccak256(format!("slackwater dev {purpose}"))
}

async fn wait_for_node(pool: &RpcPool, url: &str) -> Result<u64, CliError> {
    let deadline = tokio::time::Instant::now() + ANVIL_START;
    loop {
        match pool.call::<U64>("eth_chainId", json!([])).await {
            Ok(id) => return Ok(id.to()),
            Err(error) if tokio::time::Instant::now() > deadline => {
                return Err(CliError::new(Exit::Unreachable, format!("no chain at {url}: {error}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
        }
    }
}

/// Deploys the missing contracts.
async fn prepare(pool: &RpcPool, memory: &Path) -> Result<Contracts, CliError> {
    if code(pool, multicall3::ADDRESS).await?.is_empty() {
        let code = Bytes::from_static(multicall3::runtime_code());
        let _: serde_json::Value = pool.call("anvil_setCode", json!([multicall3::ADDRESS, code])).await?;
    }
    if code(pool, capped_calls::ADDRESS).await?.is_empty() {
        let code = Bytes::from_static(capped_calls::runtime_code());
        let _: serde_json::Value = pool.call("anvil_setCode", json!([capped_calls::ADDRESS, code])).await?;
    }
    let known: Option<Contracts> = std::fs::read(memory).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(known) = known
        && forwarder::forwarder_version(&code(pool, known.forwarder).await?).is_some()
        && !code(pool, known.guestbook).await?.is_empty()
    {
        return Ok(known);
    }
    let forwarder = deploy(pool, forwarder::deploy_code(FORWARDER_NAME)).await?;
    let guestbook = deploy(pool, guestbook::deploy_code(forwarder)).await?;
    let contracts = Contracts { forwarder, guestbook };
    std::fs::write(memory, json!(contracts).to_string())?;
    Ok(contracts)
}

async fn code(pool: &RpcPool, address: Address) -> Result<Bytes, CliError> {
    Ok(pool.call("eth_getCode", json!([address, "latest"])).await?)
}

/// Deploys `init_code` from anvil's unlocked first account and mines it at once.
async fn deploy(pool: &RpcPool, init_code: Vec<u8>) -> Result<Address, CliError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Receipt {
        contract_address: Option<Address>,
        status: U256,
    }
    let tx = json!({ "from": DEPLOYER, "data": Bytes::from(init_code), "gas": "0x500000" });
    let hash: B256 = pool.call("eth_sendTransaction", json!([tx])).await?;
    for _ in 0..200 {
        let receipt: Option<Receipt> = pool.call("eth_getTransactionReceipt", json!([hash])).await?;
        match receipt {
            Some(Receipt { contract_address: Some(address), status }) if status == U256::from(1) => return Ok(address),
            Some(_) => return Err(CliError::failed("a contract could not be deployed")),
            None => {
                let _: serde_json::Value = pool.call("evm_mine", json!([])).await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    Err(CliError::failed("a contract was not deployed in time"))
}

fn announce(ready: &Ready<'_>, is_json: bool) -> Result<(), CliError> {
    if is_json {
        println!("{}", json!(ready));
        return Ok(());
    }
    let (bold, plain) = if std::io::stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    println!("{bold}Slackwater dev{plain} is ready\n");
    println!("  API        {bold}{}{plain}   (dashboard: /, API: /docs, metrics: /metrics)", ready.url);
    println!("  chain      {}   chain id {}", ready.rpc, ready.chain_id);
    println!("  tenant     {} (no API key needed, open: any target, no budget)", ready.tenant);
    println!("  relayer    {} signs promises", ready.relayer);
    println!("  forwarder  {} \"{}\"", ready.forwarder, ready.forwarder_name);
    println!("  guestbook  {}", ready.guestbook);
    println!("  multicall3 {}", ready.multicall3);
    for (index, lane) in ready.lanes.iter().enumerate() {
        println!("  lane {index:<5} {lane}");
    }
    println!("  database   {}\n", ready.database);
    println!("Sign the guestbook, as a call of the tenant's own:\n");
    println!(
        "  curl -s {}/v1/requests -H 'content-type: application/json' -d '{{\"chainId\":{},\"kind\":\"call\",\
         \"call\":{{\"to\":\"{}\",\"gas\":\"120000\",\"data\":\"0xd09de08a\",\"anySender\":true}},\"within\":\"30s\"}}'\n",
        ready.url, ready.chain_id, ready.guestbook
    );
    println!("or as a user who pays nothing, and watch it:\n");
    println!(
        "  export USER_KEY=0x{}\n  slackwater send forward --url {} --forwarder {} --to {} --data 0xd09de08a --rpc {} --sign-key env:USER_KEY --watch\n",
        hex::encode(dev_key("user")),
        ready.url,
        ready.forwarder,
        ready.guestbook,
        ready.rpc
    );
    println!("Ctrl-C stops it.");
    Ok(())
}

/// A running anvil, which ends with this process.
struct Anvil {
    child: Child,
}

impl Anvil {
    fn start(args: &DevArgs, state: Option<PathBuf>) -> Result<(Self, String), CliError> {
        let binary = find_anvil(args.anvil.as_deref())?;
        let port = free_port(args.anvil_port)?;
        let mut command = Command::new(&binary);
        command
            .args(["--host", "127.0.0.1", "--quiet", "--order", "fees"])
            .args(["--port", &port.to_string()])
            .args(["--chain-id", &args.chain_id.to_string()])
            .args(["--block-time", &args.block_time])
            .args(["--gas-limit", &args.gas_limit.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            // Its own group: Ctrl-C in the terminal must reach it only after the relayer has ended.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(state) = state {
            command.arg("--state").arg(state);
        }
        let child =
            command.spawn().map_err(|error| CliError::usage(format!("can't start {}: {error}", binary.display())))?;
        Ok((Self { child }, format!("http://127.0.0.1:{port}")))
    }

    /// Terminates it gracefully, so that it writes its state; kills it if it does not end in time.
    async fn stop(mut self) {
        if let Some(id) = self.child.id()
            && let Some(pid) = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// Resolves when the chain has ended; never if it was not started by this process.
async fn exited(anvil: &mut Option<Anvil>) -> CliError {
    match anvil {
        None => std::future::pending().await,
        Some(anvil) => {
            let status = anvil.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
            CliError::failed(format!("anvil ended: {status}"))
        }
    }
}

fn find_anvil(given: Option<&Path>) -> Result<PathBuf, CliError> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let in_path = std::env::var_os("PATH")
        .and_then(|paths| std::env::split_paths(&paths).map(|dir| dir.join("anvil")).find(|path| path.is_file()));
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let os = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    // The program itself, not its wrapper: a wrapper does not forward signals.
    let in_tools: PathBuf = format!("tools/npm/node_modules/@foundry-rs/anvil-{os}-{arch}/bin/anvil").into();
    in_path
        .or_else(|| in_tools.is_file().then_some(in_tools))
        .ok_or_else(|| CliError::usage("no anvil found: install Foundry, or name it with --anvil or $SLACKWATER_ANVIL"))
}

/// `wanted` if it is free, else any free port.
fn free_port(wanted: u16) -> Result<u16, CliError> {
    let bind = |port| TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let listener = bind(wanted).or_else(|_| bind(0))?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_times() {
        assert_eq!(seconds_to_ms("1"), Some(1_000));
        assert_eq!(seconds_to_ms("0.25"), Some(250));
        assert_eq!(seconds_to_ms(".5"), Some(500));
        assert_eq!(seconds_to_ms("2.0001"), Some(2_000));
        for bad in ["", "0", "-1", "x", "1.x", "1.5.5"] {
            assert_eq!(seconds_to_ms(bad), None, "{bad}");
        }
    }
}
