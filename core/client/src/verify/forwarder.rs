//! Check of a forwarder at the user's own node, before a user signs for it.

use alloy_primitives::{Address, B256, keccak256};
use slackwater_contracts::forwarder::forwarder_build;

use crate::{
    request::ForwarderDomain,
    rpc::{self, BlockRef, RpcCall, RpcError},
};

/// Reason not to sign a request for a forwarder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwarderFault {
    /// The node's answer can't be used.
    #[error(transparent)]
    Node(#[from] RpcError),
    /// The node, or the forwarder's EIP-712 domain, is of another chain.
    #[error("the node or the forwarder is of chain {found}, not {expected}")]
    OtherChain {
        /// Requested chain id.
        expected: u64,
        /// Actual chain id.
        found: u64,
    },
    /// Its EIP-712 domain names another contract.
    #[error("the forwarder {expected} signs for the contract {found}")]
    OtherContract {
        /// Requested contract.
        expected: Address,
        /// Contract in the domain.
        found: Address,
    },
    /// The target does not trust it, and would not attribute forwarded calls to the user.
    #[error("{target} does not trust the forwarder {forwarder}: nothing would happen there in the user's name")]
    Untrusted {
        /// The target.
        target: Address,
        /// The forwarder.
        forwarder: Address,
    },
    /// Its code is not a published build of OpenZeppelin's `ERC2771Forwarder`, and the caller did not pin it.
    #[error(
        "the code at {forwarder} (hash {code_hash}) is no known forwarder: it could claim to have run a request and not do \
         it. If you know this forwarder from elsewhere than the relayer, pin it"
    )]
    UnknownCode {
        /// The forwarder.
        forwarder: Address,
        /// Keccak-256 of its code.
        code_hash: B256,
    },
}

impl ForwarderFault {
    /// Stable code: `node_error`, `wrong_chain`, `untrusted_forwarder` or `unknown_forwarder`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Node(_) => "node_error",
            Self::OtherChain { .. } | Self::OtherContract { .. } => "wrong_chain",
            Self::Untrusted { .. } => "untrusted_forwarder",
            Self::UnknownCode { .. } => "unknown_forwarder",
        }
    }
}

/// Check of a forwarder, such as one named by a relayer, at the user's own node.
///
/// Anybody can deploy a contract that has an EIP-712 domain and nonces, and emits `ExecutedForwardRequest` without
/// calling anything. So the *target* is asked whether it trusts the forwarder, and the forwarder's code is compared
/// with the builds published by OpenZeppelin. A caller that knows the forwarder from a source other than the relayer
/// [pins](Self::pinned) it: then any code is accepted.
///
/// ```
/// # use alloy_primitives::Address;
/// # use slackwater_client::verify::ForwarderCheck;
/// # fn ask_own_node(body: &str) -> Vec<u8> { br#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#.to_vec() }
/// let check = ForwarderCheck::new(8453, Address::repeat_byte(1), Address::repeat_byte(2));
/// let answers: Vec<_> = check.bodies().iter().map(|body| ask_own_node(body)).collect();
/// let fault = check.judge(&answers).expect_err("that node is of chain 1");
/// assert_eq!(fault.code(), "wrong_chain");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwarderCheck {
    chain_id: u64,
    forwarder: Address,
    target: Address,
    is_pinned: bool,
}

impl ForwarderCheck {
    /// A check of `forwarder` for requests to `target` on a chain.
    pub const fn new(chain_id: u64, forwarder: Address, target: Address) -> Self {
        Self { chain_id, forwarder, target, is_pinned: false }
    }

    /// Pins the forwarder, which the caller knows from a source other than the relayer: its code is not compared. The
    /// target's trust is still checked.
    #[must_use]
    pub const fn pinned(mut self) -> Self {
        self.is_pinned = true;
        self
    }

    fn domain(&self) -> RpcCall<ForwarderDomain> {
        rpc::forwarder_domain(self.forwarder)
    }

    fn trust(&self) -> RpcCall<bool> {
        rpc::is_trusted_forwarder(self.target, self.forwarder, BlockRef::Tag("latest"))
    }

    /// JSON-RPC bodies to send to the node, in any order or concurrently.
    pub fn bodies(&self) -> Vec<String> {
        let mut bodies = vec![rpc::chain_id().body(), self.domain().body(), self.trust().body()];
        if !self.is_pinned {
            bodies.push(rpc::code(self.forwarder, BlockRef::Tag("latest")).body());
        }
        bodies
    }

    /// The forwarder's EIP-712 domain, if it is safe to sign for. `answers` are the node's, in the order of
    /// [`Self::bodies`].
    ///
    /// # Errors
    /// [`ForwarderFault`]: don't let the user sign.
    pub fn judge(&self, answers: &[impl AsRef<[u8]>]) -> Result<ForwarderDomain, ForwarderFault> {
        let answer = |index: usize| {
            let answer = answers.get(index).map(AsRef::as_ref);
            answer.ok_or_else(|| RpcError::Unreadable(format!("none to question {index}")))
        };
        let of_chain = |found: u64| {
            let expected = self.chain_id;
            if found == expected { Ok(()) } else { Err(ForwarderFault::OtherChain { expected, found }) }
        };
        of_chain(rpc::chain_id().parse(answer(0)?)?)?;
        let domain = self.domain().parse(answer(1)?)?;
        of_chain(domain.chain_id())?;
        if domain.forwarder() != self.forwarder {
            return Err(ForwarderFault::OtherContract { expected: self.forwarder, found: domain.forwarder() });
        }
        if !trusts(self.trust().parse(answer(2)?))? {
            return Err(ForwarderFault::Untrusted { target: self.target, forwarder: self.forwarder });
        }
        if !self.is_pinned {
            let code = rpc::code(self.forwarder, BlockRef::Tag("latest")).parse(answer(3)?)?;
            if forwarder_build(&code).is_none() {
                return Err(ForwarderFault::UnknownCode { forwarder: self.forwarder, code_hash: keccak256(&code) });
            }
        }
        Ok(domain)
    }
}

/// The trust answer; a target that reverts trusts nobody, as in OpenZeppelin's forwarder.
pub(super) fn trusts(answer: Result<bool, RpcError>) -> Result<bool, RpcError> {
    match answer {
        Err(error) if error.is_revert() => Ok(false),
        answer => answer,
    }
}
