//! Evidence of the relayer's actions: a hash-chained log of its decisions, and Merkle trees for anchors.

#![deny(clippy::float_arithmetic)]

mod decision;
mod merkle;

pub use decision::{
    Acceptance, ChainBreak, ChainFault, Decision, DecodeError, Ending, Entry, Head, verify_chain, verify_chain_from,
};
pub use merkle::{MAX_PROOF_LEN, MerkleTree, leaf_hash, node_hash, verify};
