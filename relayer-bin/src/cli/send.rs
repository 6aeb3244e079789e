//! `send`: submits a request, or builds and signs one first.

use std::{io::Read, path::PathBuf, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U256};
use clap::{Args, Subcommand};
use reqwest::header;
use serde_json::{Value, json};
use slackwater::IdentityKey;
use slackwater_client::{
    MAX_ANSWER_BYTES, Until,
    rpc::{self, BlockRef},
    verify::{ForwarderCheck, ForwarderFault},
};
use slackwater_core::{
    request::{Authorization, Forward, ForwarderDomain, TokenDomain},
    wire::{self, Accepted, Account, BatchResults, Chain, Chains, Count, HexBytes, Kind, Quote, Span, Submit, Uint},
};

use super::{
    client::{Client, RelayerArgs},
    error::{CliError, Exit},
    watch,
};
use crate::config::SecretRef;

/// Margin between the requested deadline and the signed one, seconds, so that the requested one always applies.
const SIGNED_MARGIN_S: u64 = 120;
/// Time limit for one answer of the node.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct SendArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Submit a JSON body as it is: one request, or a batch `{"requests": […]}`.
    Json {
        /// File with the body; `-` is standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Submit a call of the tenant's own, made by the relayer's account.
    Call {
        #[command(flatten)]
        content: Content,
        /// The target does not look at the sender, so that the call may share a transaction.
        #[arg(long)]
        any_sender: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Build, sign and submit an ERC-2771 forward request.
    Forward {
        #[command(flatten)]
        content: Content,
        /// The forwarder, known from elsewhere than the relayer: its code may be any. Otherwise the chain's only one, if its
        /// code at the node is that of a known forwarder.
        #[arg(long, value_parser = address)]
        forwarder: Option<Address>,
        /// Reference to the user's key: `env:NAME`, `file:PATH` or `keystore:PATH,password=REF`.
        #[arg(long, value_name = "REF")]
        sign_key: String,
        /// The user's nonce at the forwarder; otherwise it is read from the chain (`--rpc`).
        #[arg(long)]
        nonce: Option<u64>,
        /// A node of your own: it says whether the target trusts the forwarder, and what the forwarder's code, domain and
        /// nonces are.
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8545")]
        rpc: String,
        /// Print the signed body instead of submitting it.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Build, sign and submit a token payment (EIP-3009).
    Authorization {
        #[command(flatten)]
        payment: PaymentArgs,
        /// Reference to the payer's key: `env:NAME`, `file:PATH` or `keystore:PATH,password=REF`.
        #[arg(long, value_name = "REF")]
        sign_key: String,
        /// Print the signed body instead of submitting it.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        common: Common,
    },
}

/// The payment to make.
#[derive(Debug, Args)]
struct PaymentArgs {
    /// The token; one that the relayer serves.
    #[arg(long, value_parser = address)]
    token: Address,
    /// The payee.
    #[arg(long, value_parser = address)]
    to: Address,
    /// Amount, in the token's smallest unit.
    #[arg(long, value_parser = wei)]
    value: U256,
    /// Unix seconds until which it waits.
    #[arg(long, default_value_t = 0)]
    valid_after: u64,
    /// 32 bytes that the payer uses once with this token; otherwise random.
    #[arg(long)]
    nonce: Option<B256>,
    /// Chain id; otherwise the only chain served.
    #[arg(long)]
    chain_id: Option<u64>,
    /// Time until the deadline, such as `30s`. The signature is valid for two minutes more.
    #[arg(long, default_value = "60s", value_parser = span)]
    within: u64,
    /// The most that it may cost, wei.
    #[arg(long, value_parser = wei)]
    max_cost: Option<U256>,
}

/// The call to make.
#[derive(Debug, Args)]
struct Content {
    /// The target contract.
    #[arg(long, value_parser = address)]
    to: Address,
    /// Calldata, 0x-hex.
    #[arg(long, default_value = "0x", value_parser = bytes)]
    data: Bytes,
    /// Gas given to the target.
    #[arg(long, default_value_t = 200_000)]
    gas: u64,
    /// Wei sent along.
    #[arg(long, default_value = "0", value_parser = wei)]
    value: U256,
    /// Chain id; otherwise the only chain served.
    #[arg(long)]
    chain_id: Option<u64>,
    /// Time until the deadline, such as `30s`.
    #[arg(long, default_value = "60s", value_parser = span)]
    within: u64,
    /// The most that it may cost, wei.
    #[arg(long, value_parser = wei)]
    max_cost: Option<U256>,
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    relayer: RelayerArgs,
    /// Same key and same body get the first answer.
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Follow the request until it has ended.
    #[arg(long)]
    watch: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn address(text: &str) -> Result<Address, String> {
    serde_json::from_value::<Account>(Value::from(text)).map(|account| account.0).map_err(|error| error.to_string())
}

fn bytes(text: &str) -> Result<Bytes, String> {
    serde_json::from_value::<HexBytes>(Value::from(text)).map(|bytes| bytes.0).map_err(|error| error.to_string())
}

fn wei(text: &str) -> Result<U256, String> {
    <Uint>::parse(text).map(|wei| wei.0).map_err(str::to_owned)
}

fn span(text: &str) -> Result<u64, String> {
    Span::parse(text).map(|span| span.0).map_err(str::to_owned)
}

pub(super) async fn run(args: SendArgs) -> Result<(), CliError> {
    match args.what {
        What::Json { file, common } => {
            let body = read(&file)?;
            submit(&Client::new(&common.relayer)?, body, &common).await
        }
        What::Call { content, any_sender, common } => {
            let client = Client::new(&common.relayer)?;
            let chain = chain(&client, content.chain_id).await?;
            let mut body = envelope(chain.chain_id, Kind::Call, content.within, content.max_cost);
            body.call = Some(wire::Call {
                to: Account(content.to),
                value: Uint(content.value),
                gas: Uint(U256::from(content.gas)),
                data: HexBytes(content.data.clone()),
                any_sender,
            });
            submit(&client, json!(body).to_string(), &common).await
        }
        What::Forward { content, forwarder, sign_key, nonce, rpc, dry_run, common } => {
            let client = Client::new(&common.relayer)?;
            let chain = chain(&client, content.chain_id).await?;
            let chain_id = chain.chain_id;
            let served = pick_forwarder(&chain, forwarder)?;
            let key = sign_key_of(&sign_key)?;
            let node = Node::new(rpc)?;
            let check = ForwarderCheck::new(chain_id, served, content.to);
            let check = if forwarder.is_some() { check.pinned() } else { check };
            let forwarder = served;
            let domain = node.domain(&check).await?;
            let nonce = match nonce {
                Some(nonce) => U256::from(nonce),
                None => node.nonce(forwarder, key.address()).await?,
            };
            let now_s = jiff::Timestamp::now().as_second().unsigned_abs();
            let mut forward = Forward {
                forwarder,
                from: key.address(),
                to: content.to,
                value: content.value,
                gas: U256::from(content.gas),
                nonce,
                deadline: now_s + content.within / 1_000 + SIGNED_MARGIN_S,
                data: content.data.clone(),
                signature: Bytes::new(),
            };
            forward.signature = key.sign(domain.digest(&forward));
            let mut body = envelope(chain_id, Kind::Forward, content.within, content.max_cost);
            body.forward = Some(forward.into());
            let body = json!(body).to_string();
            if dry_run {
                println!("{body}");
                return Ok(());
            }
            submit(&client, body, &common).await
        }
        What::Authorization { payment, sign_key, dry_run, common } => {
            let client = Client::new(&common.relayer)?;
            let chain = chain(&client, payment.chain_id).await?;
            let served = chain.tokens.iter().find(|token| token.address.0 == payment.token);
            let served = served
                .ok_or_else(|| CliError::usage(format!("the relayer does not serve the token {}", payment.token)))?;
            // Another domain than the token's own makes the signature worthless, and nothing else.
            let domain = TokenDomain::new(&served.name, &served.version, chain.chain_id, payment.token);
            let key = sign_key_of(&sign_key)?;
            let mut nonce = payment.nonce.unwrap_or_default();
            if payment.nonce.is_none() {
                getrandom::fill(nonce.as_mut_slice()).map_err(|error| CliError::failed(error.to_string()))?;
            }
            let now_s = jiff::Timestamp::now().as_second().unsigned_abs();
            let mut authorization = Authorization {
                token: payment.token,
                from: key.address(),
                to: payment.to,
                value: payment.value,
                valid_after: U256::from(payment.valid_after),
                valid_before: U256::from(now_s + payment.within / 1_000 + SIGNED_MARGIN_S),
                nonce,
                signature: Bytes::new(),
            };
            authorization.signature = key.sign(domain.digest(&authorization));
            let mut body = envelope(chain.chain_id, Kind::Authorization, payment.within, payment.max_cost);
            body.authorization = Some(authorization.into());
            let body = json!(body).to_string();
            if dry_run {
                println!("{body}");
                return Ok(());
            }
            submit(&client, body, &common).await
        }
    }
}

fn read(file: &PathBuf) -> Result<String, CliError> {
    let mut body = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut body)?;
    } else {
        body = std::fs::read_to_string(file)
            .map_err(|error| CliError::usage(format!("can't read {}: {error}", file.display())))?;
    }
    Ok(body)
}

fn envelope(chain_id: u64, kind: Kind, within_ms: u64, max_cost: Option<U256>) -> Submit<'static> {
    Submit {
        chain_id: Count(chain_id),
        kind,
        forward: None,
        call: None,
        authorization: None,
        within: Some(Span(within_ms)),
        deadline: None,
        max_cost: max_cost.map(Uint),
        idempotency_key: None,
    }
}

/// The chain to use, as the relayer describes it.
async fn chain(client: &Client, wanted: Option<u64>) -> Result<Chain, CliError> {
    let Chains { mut chains, .. } = client.read(&client.get("/v1/chains").await?)?;
    chains.retain(|chain| wanted.is_none_or(|id| chain.chain_id == id));
    match chains.len() {
        1 => Ok(chains.remove(0)),
        0 => Err(CliError::usage("the relayer does not serve that chain; see `slackwater status`")),
        _ => Err(CliError::usage("the relayer serves several chains: name one with --chain-id")),
    }
}

fn pick_forwarder(chain: &Chain, wanted: Option<Address>) -> Result<Address, CliError> {
    let mut served = chain.forwarders.iter().map(|forwarder| forwarder.address.0);
    match wanted {
        Some(wanted) => served
            .find(|at| *at == wanted)
            .ok_or_else(|| CliError::usage(format!("the relayer does not serve the forwarder {wanted}"))),
        None => match (served.next(), served.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(CliError::usage("the relayer serves no forwarder on that chain")),
            _ => Err(CliError::usage("the relayer serves several forwarders: name one with --forwarder")),
        },
    }
}

fn sign_key_of(text: &str) -> Result<IdentityKey, CliError> {
    let fail = |problem: String| CliError::usage(format!("--sign-key: {problem}"));
    let secret = SecretRef::parse(text).and_then(|reference| reference.resolve());
    let secret = secret.map_err(|error| fail(error.to_string()))?;
    IdentityKey::from_hex(secret.expose()).map_err(|error| fail(error.to_string()))
}

/// The user's own node, which is trusted where the relayer is not.
struct Node {
    http: reqwest::Client,
    url: String,
}

impl Node {
    fn new(url: String) -> Result<Self, CliError> {
        let http = reqwest::Client::builder().timeout(NODE_TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let http = http.build().map_err(|error| CliError::failed(error.to_string()))?;
        Ok(Self { http, url })
    }

    async fn ask(&self, body: String) -> Result<Vec<u8>, CliError> {
        let unreachable = |error: reqwest::Error| {
            // Its address may hold a key.
            let detail = error.without_url();
            CliError::new(Exit::Unreachable, format!("the node does not answer ({detail}); name one with --rpc"))
        };
        let request = self.http.post(&self.url).header(header::CONTENT_TYPE, "application/json").body(body);
        let mut response = request.send().await.map_err(unreachable)?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            answer.extend_from_slice(&chunk);
            if answer.len() > MAX_ANSWER_BYTES {
                break;
            }
        }
        Ok(answer)
    }

    /// The forwarder's EIP-712 domain, if it is safe to sign for.
    async fn domain(&self, check: &ForwarderCheck) -> Result<ForwarderDomain, CliError> {
        let mut answers = Vec::new();
        for body in check.bodies() {
            answers.push(self.ask(body).await?);
        }
        check.judge(&answers).map_err(|fault| {
            let hint = match fault {
                ForwarderFault::UnknownCode { .. } => " with --forwarder",
                ForwarderFault::OtherChain { .. } | ForwarderFault::Node(_) => "; --rpc names the node",
                _ => "",
            };
            CliError::failed(format!("{fault}{hint} ({})", fault.code()))
        })
    }

    async fn nonce(&self, forwarder: Address, user: Address) -> Result<U256, CliError> {
        let call = rpc::nonces(forwarder, user, BlockRef::Tag("latest"));
        let answer = self.ask(call.body()).await?;
        call.parse(&answer).map_err(|error| CliError::failed(format!("nonces({user}) at {forwarder}: {error}")))
    }
}

async fn submit(client: &Client, body: String, common: &Common) -> Result<(), CliError> {
    let is_batch = serde_json::from_str::<Value>(&body).is_ok_and(|body| body.get("requests").is_some());
    let path = if is_batch { "/v1/requests/batch" } else { "/v1/requests" };
    let answer = client.post(path, body, common.idempotency_key.as_deref()).await?;
    if is_batch {
        return tell_batch(client, &answer, common.json);
    }
    if common.json && !common.watch {
        println!("{answer}");
        return Ok(());
    }
    let accepted: Accepted = client.read(&answer)?;
    if !common.json {
        let again = if accepted.duplicate { ", accepted before" } else { "" };
        println!("{}  {}{again}", accepted.id, accepted.status);
        let wei =
            |of: fn(&Quote) -> Uint| accepted.quote.as_ref().map(|quote| of(quote).to_string()).unwrap_or_default();
        println!(
            "  promised by {} until {}, at most {} wei (about {} now)",
            accepted.promise.relayer,
            watch::instant(accepted.deadline_at_ms),
            wei(|quote| quote.max_cost_wei),
            wei(|quote| quote.expected_cost_wei),
        );
    }
    if common.watch {
        return watch::follow(client, accepted.id, Until::Terminal, common.json).await;
    }
    Ok(())
}

fn tell_batch(client: &Client, answer: &Value, is_json: bool) -> Result<(), CliError> {
    let BatchResults { results } = client.read(answer)?;
    if is_json {
        println!("{answer}");
    } else {
        for result in &results {
            match (&result.accepted, &result.problem) {
                (Some(accepted), _) => println!("{}  {}", accepted.id, accepted.status),
                (None, problem) => {
                    let problem = problem.clone().unwrap_or_default();
                    println!("refused: {} ({})", problem.detail, problem.code);
                }
            }
        }
    }
    let refused = results.iter().filter(|result| result.problem.is_some()).count();
    if refused > 0 {
        return Err(CliError::new(Exit::Refused, format!("{refused} of {} refused", results.len())));
    }
    Ok(())
}
