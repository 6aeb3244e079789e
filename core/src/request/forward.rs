//! `forward`: an ERC-2771 request for OpenZeppelin's `ERC2771Forwarder`.

use alloy_primitives::{Address, B256, Bytes, ChainId, U256, b256, keccak256};
use serde::{Deserialize, Serialize};

/// `keccak256("ForwardRequest(address from,address to,uint256 value,uint256 gas,uint256 nonce,uint48 deadline,bytes data)")`.
const FORWARD_REQUEST_TYPEHASH: B256 = b256!("7f96328b83274ebc7c1cf4f7a3abda602b51a78b7fa1d86a2ce353d75e587cac");

/// `keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")`.
const DOMAIN_TYPEHASH: B256 = b256!("8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f");

/// An ERC-2771 request as signed by a user, with the signature. Not yet verified.
///
/// Source: OpenZeppelin Contracts 5.x, `metatx/ERC2771Forwarder.sol`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forward {
    /// The forwarder contract; part of the EIP-712 domain.
    pub forwarder: Address,
    /// The user: the sender that the target sees.
    pub from: Address,
    /// The target contract.
    pub to: Address,
    /// Wei passed along to the target, paid by the relayer.
    pub value: U256,
    /// Gas given to the target.
    pub gas: U256,
    /// The user's nonce at the forwarder; sequential per user.
    pub nonce: U256,
    /// Last block timestamp (seconds, inclusive) at which the forwarder accepts it; `uint48`.
    pub deadline: u64,
    /// Calldata for the target.
    pub data: Bytes,
    /// 65 bytes `r ‖ s ‖ v`.
    pub signature: Bytes,
}

impl Forward {
    /// EIP-712 struct hash of the signed part. `deadline` must fit `uint48`; [`super::verify()`] checks it.
    pub fn struct_hash(&self) -> B256 {
        let mut words = [0u8; 8 * 32];
        words[..32].copy_from_slice(FORWARD_REQUEST_TYPEHASH.as_slice());
        words[32 + 12..64].copy_from_slice(self.from.as_slice());
        words[64 + 12..96].copy_from_slice(self.to.as_slice());
        words[96..128].copy_from_slice(&self.value.to_be_bytes::<32>());
        words[128..160].copy_from_slice(&self.gas.to_be_bytes::<32>());
        words[160..192].copy_from_slice(&self.nonce.to_be_bytes::<32>());
        words[192 + 24..224].copy_from_slice(&self.deadline.to_be_bytes());
        words[224..].copy_from_slice(keccak256(&self.data).as_slice());
        keccak256(words)
    }
}

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

    /// The digest that the user signs: `keccak256(0x1901 ‖ separator ‖ structHash)` (EIP-712).
    pub fn digest(&self, forward: &Forward) -> B256 {
        let mut bytes = [0u8; 2 + 64];
        bytes[0] = 0x19;
        bytes[1] = 0x01;
        bytes[2..34].copy_from_slice(self.separator.as_slice());
        bytes[34..].copy_from_slice(forward.struct_hash().as_slice());
        keccak256(bytes)
    }
}
