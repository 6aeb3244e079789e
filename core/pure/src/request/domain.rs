//! EIP-712 domain of a forwarder.

use alloy_primitives::{Address, B256, ChainId, b256, keccak256};

/// `keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")`.
const DOMAIN_TYPEHASH: B256 = b256!("8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f");

/// The EIP-712 domain of one deployed forwarder, with its separator computed once.
///
/// The name is the forwarder's constructor argument: read it with `eip712Domain()`, don't guess.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwarderDomain {
    name: String,
    chain_id: ChainId,
    forwarder: Address,
    separator: B256,
}

impl ForwarderDomain {
    /// Domain of the forwarder at `forwarder` on `chain_id`; its version is always `"1"`.
    pub fn new(name: impl Into<String>, chain_id: ChainId, forwarder: Address) -> Self {
        let name = name.into();
        let mut words = [0u8; 5 * 32];
        words[..32].copy_from_slice(DOMAIN_TYPEHASH.as_slice());
        words[32..64].copy_from_slice(keccak256(name.as_bytes()).as_slice());
        words[64..96].copy_from_slice(keccak256(b"1").as_slice());
        words[96 + 24..128].copy_from_slice(&chain_id.to_be_bytes());
        words[128 + 12..].copy_from_slice(forwarder.as_slice());
        Self { name, chain_id, forwarder, separator: keccak256(words) }
    }

    /// The forwarder's name (constructor argument).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The chain this domain is bound to.
    pub const fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    /// The forwarder's address.
    pub const fn forwarder(&self) -> Address {
        self.forwarder
    }

    /// EIP-712 domain separator.
    pub const fn separator(&self) -> B256 {
        self.separator
    }
}
