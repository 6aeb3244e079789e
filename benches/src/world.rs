//! The contracts that tests relay through, on a local node.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall;
use slackwater_contracts::{
    forwarder::{self, eip712DomainCall},
    guestbook, multicall3, nasty,
};
use slackwater_core::request::ForwarderDomain;

use crate::{
    error::{BenchError, Result},
    node::{Node, TestTransaction},
    wallet::Account,
};

/// Name of the forwarder's EIP-712 domain in tests.
pub const FORWARDER_NAME: &str = "Slackwater Test";

/// Addresses of the deployed contracts, and the relayer's accounts.
#[derive(Debug, Clone)]
pub struct World {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Name of the forwarder's EIP-712 domain.
    pub forwarder_name: String,
    /// OpenZeppelin's `ERC2771Forwarder` 5.7.
    pub forwarder: Address,
    /// Multicall3, at its usual address.
    pub multicall3: Address,
    /// The target that counts executions.
    pub guestbook: Address,
    /// The target that misbehaves; zero if there is none.
    pub nasty: Address,
    /// The relayer's funded accounts.
    pub relayers: Vec<Account>,
}

impl World {
    /// Deploys everything and funds `relayers` relayer accounts with 10 000 ether each.
    ///
    /// # Errors
    /// If the node refuses.
    pub async fn deploy(node: &Node, relayers: usize) -> Result<Self> {
        let chain_id = node.chain_id().await?;
        let accounts = node.accounts().await?;
        let deployer =
            *accounts.last().ok_or_else(|| BenchError::unexpected("eth_accounts", "the node has no accounts"))?;
        let nonce = node.nonce(deployer).await?;
        let forwarder = deployer.create(nonce);
        let guestbook = deployer.create(nonce + 1);
        let nasty = deployer.create(nonce + 2);
        let init_codes =
            [forwarder::deploy_code(FORWARDER_NAME), guestbook::deploy_code(forwarder), nasty::deploy_code(forwarder)];
        let mut hashes = Vec::new();
        for (i, data) in (0..).zip(init_codes) {
            let creation = TestTransaction {
                data: data.into(),
                gas: 5_000_000,
                nonce: Some(nonce + i),
                ..TestTransaction::default()
            };
            hashes.push(node.send(deployer, &creation).await?);
        }
        node.set_code(multicall3::ADDRESS, Bytes::from_static(multicall3::runtime_code())).await?;
        let relayers: Vec<Account> = (0..relayers as u64).map(|i| Account::derive("relayer", i)).collect();
        let ether = U256::from(10_u64.pow(18));
        for relayer in &relayers {
            node.set_balance(relayer.address, U256::from(10_000) * ether).await?;
        }
        node.mine(1).await?;
        for hash in hashes {
            let receipt = node.wait_receipt(hash, Duration::from_secs(30)).await?;
            if receipt.status.to::<u64>() != 1 {
                return Err(BenchError::unexpected("deployment", format!("{hash} failed")));
            }
        }
        let forwarder_name = FORWARDER_NAME.to_owned();
        Ok(Self { chain_id, forwarder_name, forwarder, multicall3: multicall3::ADDRESS, guestbook, nasty, relayers })
    }

    /// An existing world: a forwarder whose domain is called `name`, and a guest book that trusts it.
    pub fn at(chain_id: u64, name: &str, forwarder: Address, guestbook: Address) -> Self {
        Self {
            chain_id,
            forwarder_name: name.to_owned(),
            forwarder,
            multicall3: multicall3::ADDRESS,
            guestbook,
            nasty: Address::ZERO,
            relayers: Vec::new(),
        }
    }

    /// An existing world; the domain's name is read from the forwarder.
    ///
    /// # Errors
    /// If there is no forwarder.
    pub async fn find(node: &Node, forwarder: Address, guestbook: Address) -> Result<Self> {
        let answer = node.read(forwarder, eip712DomainCall {}.abi_encode()).await?;
        let domain = eip712DomainCall::abi_decode_returns(&answer)
            .map_err(|error| BenchError::unexpected(format!("eip712Domain() of {forwarder}"), error))?;
        Ok(Self::at(node.chain_id().await?, &domain.name, forwarder, guestbook))
    }

    /// The domain that users sign for.
    pub fn domain(&self) -> ForwarderDomain {
        ForwarderDomain::new(self.forwarder_name.as_str(), self.chain_id, self.forwarder)
    }

    /// Addresses of the relayer's accounts.
    pub fn relayer_addresses(&self) -> Vec<Address> {
        self.relayers.iter().map(|relayer| relayer.address).collect()
    }
}

/// The EIP-712 digest is the request's id.
impl From<&crate::wallet::SignedRequest> for B256 {
    fn from(request: &crate::wallet::SignedRequest) -> Self {
        request.id
    }
}
