//! Circle's token on a local node, payments that its holders sign (EIP-3009), and delegation (EIP-7702).

use std::time::Duration;

use alloy_consensus::{SignableTransaction as _, TxEip7702, TxEnvelope};
use alloy_eips::{
    eip2718::Encodable2718 as _,
    eip7702::{Authorization as Delegation, SignedAuthorization},
};
use alloy_primitives::{Address, B256, Bytes, Signature, U256};
use alloy_sol_types::SolCall;
use slackwater_contracts::fiat_token::{self, IFiatToken};
use slackwater_core::request::{Authorization, TokenDomain};

use crate::{
    error::{BenchError, Result},
    node::{Node, TestTransaction},
    wallet::Account,
};

/// Name of the token and of its EIP-712 domain.
pub const TOKEN_NAME: &str = "USD Coin";

const SOON: Duration = Duration::from_secs(30);

/// A deployed `FiatTokenV2_2`, whose admin is the node's first account.
#[derive(Debug, Clone)]
pub struct Token {
    /// The contract.
    pub address: Address,
    /// EIP-155 chain id.
    pub chain_id: u64,
    admin: Address,
}

impl Token {
    /// Deploys the token and its library.
    ///
    /// # Errors
    /// If the node refuses.
    pub async fn deploy(node: &Node) -> Result<Self> {
        let accounts = node.accounts().await?;
        let admin =
            *accounts.first().ok_or_else(|| BenchError::unexpected("eth_accounts", "the node has no accounts"))?;
        let nonce = node.nonce(admin).await?;
        let (library, address) = (admin.create(nonce), admin.create(nonce + 1));
        let token = Self { address, chain_id: node.chain_id().await?, admin };
        token.send(node, None, fiat_token::signature_checker_code().to_vec()).await?;
        token.send(node, None, fiat_token::deploy_code(library)).await?;
        for data in fiat_token::setup_calls(admin) {
            token.send(node, Some(address), data).await?;
        }
        Ok(token)
    }

    /// Gives `amount` to `holder`.
    ///
    /// # Errors
    /// If the node refuses.
    pub async fn mint(&self, node: &Node, holder: Address, amount: u64) -> Result<()> {
        let call = IFiatToken::mintCall { to: holder, amount: U256::from(amount) };
        self.send(node, Some(self.address), call.abi_encode()).await
    }

    /// Amount that `holder` has.
    ///
    /// # Errors
    /// If the node refuses.
    pub async fn balance(&self, node: &Node, holder: Address) -> Result<U256> {
        let call = IFiatToken::balanceOfCall { account: holder };
        let answer = node.read(self.address, call.abi_encode()).await?;
        IFiatToken::balanceOfCall::abi_decode_returns(&answer)
            .map_err(|error| BenchError::unexpected("balanceOf", error))
    }

    /// The EIP-712 domain that payers sign for.
    pub fn domain(&self) -> TokenDomain {
        TokenDomain::new(TOKEN_NAME, fiat_token::DOMAIN_VERSION, self.chain_id, self.address)
    }

    /// A payment of `amount` to `to`, signed by `payer`, valid at any time.
    pub fn payment(&self, payer: &Account, to: Address, amount: u64, nonce: B256) -> Authorization {
        let mut payment = Authorization {
            token: self.address,
            from: payer.address,
            to,
            value: U256::from(amount),
            valid_after: U256::ZERO,
            valid_before: U256::MAX,
            nonce,
            signature: Bytes::new(),
        };
        payment.signature = payer.sign(self.domain().digest(&payment)).into();
        payment
    }

    async fn send(&self, node: &Node, to: Option<Address>, data: Vec<u8>) -> Result<()> {
        let transaction = TestTransaction { to, data: data.into(), gas: 8_000_000, ..TestTransaction::default() };
        let hash = node.send(self.admin, &transaction).await?;
        let receipt = node.wait_receipt(hash, SOON).await?;
        if receipt.status.to::<u64>() == 1 { Ok(()) } else { Err(BenchError::unexpected("token", "a call failed")) }
    }
}

/// A signed transaction with which `account` lets `delegate` be its code, with a tip of `tip_wei_per_gas`. It needs about
/// 0.01 ether at a base fee of 10 gwei.
///
/// # Errors
/// If the node does not answer.
pub async fn delegate(node: &Node, account: &Account, delegate: Address, tip_wei_per_gas: u128) -> Result<Bytes> {
    let (chain_id, nonce) = (node.chain_id().await?, node.nonce(account.address).await?);
    // The sender's own nonce counts up before authorizations are looked at.
    let delegation = Delegation { chain_id: U256::from(chain_id), address: delegate, nonce: nonce + 1 };
    let signature = account.sign(delegation.signature_hash());
    let (r, s) = (U256::from_be_slice(&signature[..32]), U256::from_be_slice(&signature[32..64]));
    let authorization_list = vec![SignedAuthorization::new_unchecked(delegation, signature[64] - 27, r, s)];
    let transaction = TxEip7702 {
        chain_id,
        nonce,
        gas_limit: 100_000,
        max_fee_per_gas: 10_u128.pow(11),
        max_priority_fee_per_gas: tip_wei_per_gas,
        to: Address::ZERO,
        authorization_list,
        ..TxEip7702::default()
    };
    let signature = account.sign(transaction.signature_hash());
    let signature =
        Signature::from_raw_array(&signature).map_err(|error| BenchError::unexpected("signature", error))?;
    Ok(TxEnvelope::from(transaction.into_signed(signature)).encoded_2718().into())
}

/// Code of an account that delegated to `delegate`, for nodes that can set code.
pub fn delegated_code(delegate: Address) -> Bytes {
    [0xef, 0x01, 0x00].into_iter().chain(delegate).collect()
}
