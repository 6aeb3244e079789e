//! Tokens whose payments are made: their EIP-712 domains, read from the chain at the start.

use alloy_primitives::{Address, B256, Bytes, ChainId, U256, keccak256};
use alloy_sol_types::SolCall;
use serde_json::json;
use slackwater_contracts::eip3009::{
    IERC3009::authorizationStateCall,
    IEip712Token::{DOMAIN_SEPARATORCall, nameCall, versionCall},
    eip712DomainCall,
};
use tokio::time::Instant;

use super::assemble::{StartFault, ask};
use crate::{
    chain::RpcErrorClass,
    relay::{
        handle::{config::TokenSetup, error::BuildError, status::TokenStatus},
        rpc::RpcPool,
    },
    request::{Token, TokenDomain},
};

/// Fields of an EIP-712 domain with name, version, chain and contract (EIP-5267).
const FIELDS: [u8; 1] = [0x0f];

/// Prefix of the code of an account with a delegation (EIP-7702).
const DELEGATION: [u8; 3] = [0xef, 0x01, 0x00];

/// The token while its chain is not reached.
pub(super) fn unread(token: &TokenSetup) -> TokenStatus {
    TokenStatus {
        address: token.address,
        name: token.name.clone().unwrap_or_default(),
        version: token.version.clone().unwrap_or_default(),
        transfer_gas: token.transfer_gas,
    }
}

/// Reads a token's domain and compares it with the separator that the token names.
pub(super) async fn check(
    pool: &RpcPool,
    wanted: &TokenSetup,
    chain_id: ChainId,
    deadline: Instant,
) -> Result<(Token, TokenStatus), StartFault> {
    let address = wanted.address;
    let node = Asked { pool, address, chain_id, deadline };
    let code: Bytes = node.read("eth_getCode", json!([address, "latest"])).await?;
    if code.is_empty() || code.starts_with(&DELEGATION) {
        return Err(node.wrong("it is no contract"));
    }
    let separator: B256 = match node.call(DOMAIN_SEPARATORCall {}).await? {
        Some(separator) => separator,
        None => return Err(node.wrong("it has no DOMAIN_SEPARATOR()")),
    };
    if node.call(authorizationStateCall { authorizer: Address::ZERO, nonce: B256::ZERO }).await?.is_none() {
        return Err(node.wrong("it has no authorizationState(address,bytes32), so it is no token with EIP-3009"));
    }
    let (mut name, mut version) = (wanted.name.clone(), wanted.version.clone());
    if name.is_none() || version.is_none() {
        let told = match node.call(eip712DomainCall {}).await? {
            Some(domain) => {
                let is_plain = domain.fields.as_slice() == FIELDS
                    && domain.chainId == U256::from(chain_id)
                    && domain.verifyingContract == address;
                if !is_plain {
                    let what =
                        "its EIP-712 domain has other fields than name, version, chain and contract, or other values";
                    return Err(node.wrong(what));
                }
                (Some(domain.name), Some(domain.version))
            }
            None => (node.call(nameCall {}).await?, node.call(versionCall {}).await?),
        };
        (name, version) = (name.or(told.0), version.or(told.1));
    }
    let (Some(name), Some(version)) = (name, version) else {
        return Err(node.wrong("it tells neither eip712Domain() nor name() and version(); set `name` and `version`"));
    };
    let domain = TokenDomain::new(&name, &version, chain_id, address);
    if domain.separator() != separator {
        return Err(node.wrong(&format!(
            "its DOMAIN_SEPARATOR() is {separator}, but name `{name}` and version `{version}` give {}: set `name` and \
             `version` to those of its EIP-712 domain; a domain with other fields is not supported",
            domain.separator()
        )));
    }
    tracing::info!(chain_id, token = %address, name, version, code_hash = %keccak256(&code), "payments of this token are made");
    let status = TokenStatus { address, name, version, transfer_gas: wanted.transfer_gas };
    Ok((Token { domain, gas: wanted.transfer_gas }, status))
}

/// As at a start, for a report: the token's domain, or the problem.
///
/// # Errors
/// The problem, as text.
pub async fn check_token(pool: &RpcPool, token: &TokenSetup, chain_id: ChainId) -> Result<TokenStatus, String> {
    match check(pool, token, chain_id, Instant::now()).await {
        Ok((_, status)) => Ok(status),
        Err(StartFault::Wrong(error) | StartFault::Away(error)) => Err(error.to_string()),
    }
}

/// A token at the nodes.
struct Asked<'a> {
    pool: &'a RpcPool,
    address: Address,
    chain_id: ChainId,
    deadline: Instant,
}

impl Asked<'_> {
    fn wrong(&self, what: &str) -> StartFault {
        let detail = format!("token {}: {what}", self.address);
        StartFault::Wrong(BuildError::Chain { chain_id: self.chain_id, detail })
    }

    async fn read(&self, method: &'static str, params: serde_json::Value) -> Result<Bytes, StartFault> {
        let chain_id = self.chain_id;
        let away = |detail: String| StartFault::Away(BuildError::Chain { chain_id, detail });
        ask(self.pool, method, params, self.deadline).await.map_err(|error| away(error.to_string()))
    }

    /// The function's answer; `None` if the token has no such function.
    async fn call<C: SolCall>(&self, call: C) -> Result<Option<C::Return>, StartFault> {
        let input: Bytes = call.abi_encode().into();
        let params = json!([{ "to": self.address, "input": input }, "latest"]);
        match ask::<Bytes>(self.pool, "eth_call", params, self.deadline).await {
            Ok(output) => Ok(C::abi_decode_returns(&output).ok()),
            Err(error) if error.class == RpcErrorClass::Reverted => Ok(None),
            Err(error) => {
                let (chain_id, detail) = (self.chain_id, error.to_string());
                Err(StartFault::Away(BuildError::Chain { chain_id, detail }))
            }
        }
    }
}
