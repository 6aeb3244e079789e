//! Merkle trees and proofs by another implementation: `tests/vectors/merkle.json`, written by `tools/npm/merkle.mjs`.

use alloy_primitives::B256;
use serde_json::Value;
use slackwater_core::provenance::{MerkleTree, leaf_hash, verify};

fn hash(value: &Value) -> B256 {
    value.as_str().expect("a hash").parse().expect("32 bytes")
}

#[test]
fn trees_and_proofs() {
    let file: Value = serde_json::from_str(include_str!("../vectors/merkle.json")).expect("the vectors parse");
    let trees = file["trees"].as_array().expect("trees");
    assert_eq!(trees.len(), 6);
    for row in trees {
        let leaves = row["leaves"].as_array().expect("leaves");
        let contents: Vec<B256> = leaves.iter().map(|leaf| hash(&leaf["content"])).collect();
        let tree = MerkleTree::new(&contents).expect("not empty");
        assert_eq!(tree.root(), hash(&row["root"]));
        for (index, leaf) in leaves.iter().enumerate() {
            let proof: Vec<B256> = leaf["proof"].as_array().expect("proof").iter().map(hash).collect();
            assert_eq!(leaf_hash(contents[index]), hash(&leaf["leaf"]));
            assert_eq!(tree.proof(index), Some(proof.clone()));
            assert!(verify(contents[index], &proof, tree.root()));
        }
    }
}
