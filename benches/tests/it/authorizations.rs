//! EIP-3009 payments of many payers in one transaction, one of whom burns all gas that his code gets.

use std::time::Duration;

use alloy_primitives::{Address, B256, U64, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent};
use slackwater_benches::{
    Result,
    node::{Receipt, TestTransaction},
    token::{Token, delegate},
    wallet::Account,
};
use slackwater_contracts::{
    capped_calls::{self, Call, executeCall},
    eip3009::{IERC3009, IEip712Token},
    multicall3::{self, Call3, aggregate3Call},
};
use slackwater_core::request::Authorization;

use crate::capped_calls::{Chain, outcomes};

const SOON: Duration = Duration::from_secs(20);
const PAYERS: u64 = 20;
/// What a payment gets: it uses up to 91 000 for a new payee.
const CAP: u64 = 110_000;

struct Market {
    chain: Chain,
    token: Token,
    payers: Vec<Account>,
    payments: Vec<Authorization>,
}

impl Market {
    /// Twenty payments to twenty payees.
    async fn open() -> Result<Self> {
        let chain = Chain::start().await?;
        let token = Token::deploy(&chain.node).await?;
        chain.node.set_code(multicall3::ADDRESS, multicall3::runtime_code()).await?;
        let payers: Vec<_> = (0..PAYERS).map(|i| Account::derive("payer", i)).collect();
        let mut payments = Vec::new();
        for (i, payer) in (0..).zip(&payers) {
            token.mint(&chain.node, payer.address, 1_000_000).await?;
            payments.push(token.payment(payer, payee(i), 1_000, keccak256([i])));
        }
        Ok(Self { chain, token, payers, payments })
    }

    fn calls(&self) -> Vec<Vec<u8>> {
        // Both forms: the token asks a payer with code in either.
        let calls = self.payments.iter().enumerate();
        calls.map(|(i, p)| p.calldata().filter(|_| i % 2 == 0).unwrap_or_else(|| p.calldata_with_bytes())).collect()
    }

    fn capped(&self) -> Vec<Call> {
        let calls = self.calls().into_iter();
        calls.map(|data| Call { target: self.token.address, gas: U256::from(CAP), data: data.into() }).collect()
    }

    fn aggregate(&self) -> Vec<u8> {
        let calls = self.calls().into_iter();
        let calls = calls.map(|data| Call3 { target: self.token.address, allowFailure: true, callData: data.into() });
        aggregate3Call { calls: calls.collect() }.abi_encode()
    }

    /// Sends `data` with the payer's delegation to code that burns its gas in front, in the same block.
    async fn attack(&self, attacker: usize, to: Address, data: Vec<u8>, gas: u64) -> Result<Receipt> {
        let node = &self.chain.node;
        let burner = Address::repeat_byte(0xfe);
        node.set_code(burner, vec![0xfe]).await?;
        let attacker = &self.payers[attacker];
        node.set_balance(attacker.address, U256::from(10_u64.pow(18))).await?;
        node.set_automine(false).await?;
        let first = node.send_raw(delegate(node, attacker, burner, 50_000_000_000).await?).await?;
        let transaction = TestTransaction { to: Some(to), data: data.into(), gas, ..TestTransaction::default() };
        let second = node.send(self.chain.sender, &transaction).await?;
        node.mine(1).await?;
        let (before, receipt) = (node.wait_receipt(first, SOON).await?, node.wait_receipt(second, SOON).await?);
        assert_eq!((before.status, before.block_number), (U64::ONE, receipt.block_number));
        let block = node.head().await?;
        assert_eq!(block.transactions.iter().map(|t| t.hash).collect::<Vec<_>>(), [first, second]);
        assert_eq!(&node.code(attacker.address).await?[..3], [0xef, 0x01, 0x00]);
        Ok(receipt)
    }

    /// Number of payees who were paid.
    async fn paid(&self) -> Result<u64> {
        let mut paid = 0;
        for i in 0..PAYERS as u8 {
            paid += u64::from(self.token.balance(&self.chain.node, payee(i)).await? == U256::from(1_000));
        }
        Ok(paid)
    }
}

fn payee(i: u8) -> Address {
    Address::repeat_byte(0x80 + i)
}

/// The token is the one that payers sign for.
#[tokio::test]
async fn the_domain_is_the_tokens() -> Result<()> {
    let market = Market::open().await?;
    let read = async |data: Vec<u8>| market.chain.node.read(market.token.address, data).await;
    let separator = read(IEip712Token::DOMAIN_SEPARATORCall {}.abi_encode()).await?;
    assert_eq!(B256::from_slice(&separator), market.token.domain().separator());
    let name = read(IEip712Token::nameCall {}.abi_encode()).await?;
    assert_eq!(IEip712Token::nameCall::abi_decode_returns(&name).unwrap(), "USD Coin");
    let version = read(IEip712Token::versionCall {}.abi_encode()).await?;
    assert_eq!(IEip712Token::versionCall::abi_decode_returns(&version).unwrap(), "2");
    Ok(())
}

#[tokio::test]
async fn multicall3_loses_all_to_one_payer() -> Result<()> {
    let market = Market::open().await?;
    let data = market.aggregate();
    let answer = market.chain.node.read(multicall3::ADDRESS, data.clone()).await?;
    let simulated = aggregate3Call::abi_decode_returns(&answer).unwrap();
    assert_eq!(simulated.iter().filter(|result| result.success).count(), 20);

    let gas = 3_000_000;
    let receipt = market.attack(0, multicall3::ADDRESS, data, gas).await?;
    assert_eq!((receipt.status, market.paid().await?), (U64::ZERO, 0));
    assert_eq!(receipt.gas_used.to::<u64>(), gas);
    Ok(())
}

#[tokio::test]
async fn capped_calls_lose_one_cap_to_one_payer() -> Result<()> {
    for attacker in [0, 7, 19] {
        let market = Market::open().await?;
        let calls = market.capped();
        let data = executeCall { calls: calls.clone() }.abi_encode();
        let gas = 200_000 + capped_calls::gas_limit(calls.iter().map(|call| (CAP, call.data.len() as u64)));
        // As it was simulated, before the attack.
        let snapshot = market.chain.node.snapshot().await?;
        let fair = market.chain.send(capped_calls::ADDRESS, data.clone(), gas).await?;
        assert_eq!(outcomes(market.chain.sender, &calls, &fair.logs), [true; 20]);
        assert_eq!(market.paid().await?, 20);
        market.chain.node.revert(snapshot).await?;

        let receipt = market.attack(attacker, capped_calls::ADDRESS, data, gas).await?;
        let outcomes = outcomes(market.chain.sender, &calls, &receipt.logs);
        assert_eq!(outcomes.iter().filter(|success| **success).count(), 19);
        assert!(!outcomes[attacker]);
        assert_eq!(market.paid().await?, 19);
        let used = receipt.logs.iter().filter(|log| log.topics[0] == IERC3009::AuthorizationUsed::SIGNATURE_HASH);
        assert_eq!(used.count(), 19);
        let (fair, attacked) = (fair.gas_used.to::<u64>(), receipt.gas_used.to::<u64>());
        assert!(attacked <= fair + CAP, "{attacked} > {fair} + {CAP}");
    }
    Ok(())
}
