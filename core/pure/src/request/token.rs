//! Tokens with EIP-3009, their EIP-712 domains, and payments as their events show them.

use alloy_primitives::{Address, B256, ChainId, Log, U256};
use alloy_sol_types::{Eip712Domain, SolEvent as _};
use slackwater_contracts::{eip3009::IERC3009::AuthorizationUsed, fiat_token::IFiatToken::Transfer};

/// The EIP-712 domain of one token, with its separator computed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenDomain {
    chain_id: ChainId,
    token: Address,
    separator: B256,
}

impl TokenDomain {
    /// Domain of the token at `token` on `chain_id`. Bridged tokens differ in name, version and fields from those that they
    /// stand for: compare [`Self::separator`] with `DOMAIN_SEPARATOR()`, don't guess.
    pub fn new(name: &str, version: &str, chain_id: ChainId, token: Address) -> Self {
        let domain = Eip712Domain::new(
            Some(name.to_owned().into()),
            Some(version.to_owned().into()),
            Some(U256::from(chain_id)),
            Some(token),
            None,
        );
        Self::with_separator(domain.separator(), chain_id, token)
    }

    /// Domain of the token at `token` on `chain_id` with the separator that the token itself names.
    pub const fn with_separator(separator: B256, chain_id: ChainId, token: Address) -> Self {
        Self { chain_id, token, separator }
    }

    /// The chain this domain is bound to.
    pub const fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    /// The token's address.
    pub const fn token(&self) -> Address {
        self.token
    }

    /// EIP-712 domain separator.
    pub const fn separator(&self) -> B256 {
        self.separator
    }
}

/// A payment as the chain shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payment {
    /// The token contract.
    pub token: Address,
    /// The payer.
    pub from: Address,
    /// The payee.
    pub to: Address,
    /// Amount, in the token's smallest unit.
    pub value: U256,
    /// The payer's nonce.
    pub nonce: B256,
}

impl Payment {
    /// True if the log says that an authorization of this payer and nonce was executed, of whatever payee and amount.
    pub(super) fn is_used_by(&self, log: &Log) -> bool {
        let used = AuthorizationUsed::decode_log(log);
        log.address == self.token && used.is_ok_and(|used| used.authorizer == self.from && used.nonce == self.nonce)
    }

    /// True if these logs of one transaction, in order, show that this very payment was made.
    ///
    /// A used nonce alone says nothing: the payer may have voided it, or used it for another payment. The transfer follows
    /// its authorization in Circle's and OpenZeppelin's tokens, so that none counts for two.
    pub fn is_made_by(&self, logs: &[Log]) -> bool {
        let is_its_transfer = |log: &Log| {
            let moved = Transfer::decode_log(log);
            log.address == self.token
                && moved.is_ok_and(|moved| (moved.from, moved.to, moved.value) == (self.from, self.to, self.value))
        };
        logs.windows(2).any(|pair| self.is_used_by(&pair[0]) && is_its_transfer(&pair[1]))
    }
}

/// A token whose payments are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Its EIP-712 domain.
    pub domain: TokenDomain,
    /// Gas that one payment may use, without the transaction's own.
    pub gas: u64,
}
