//! Keccak Merkle tree over 32-byte content hashes.
//!
//! ```text
//! leaf(content) = keccak256(0x00 ‖ content)                 33 bytes hashed
//! node(a, b)    = keccak256(min(a, b) ‖ max(a, b))          64 bytes hashed
//! ```
//! The tagged leaf and the length keep leaves and nodes apart, so no node can be passed off as content (no second
//! preimage). Pairs are sorted, hence a proof is a plain list of siblings and OpenZeppelin's `MerkleProof.verify(proof,
//! root, leaf(content))` accepts it on chain. An odd last node moves up unchanged: it is never paired with itself, which
//! would give two lists one root. The order of leaves is not proven.

use alloy_primitives::{B256, Keccak256, keccak256};

/// First byte of a leaf's preimage.
const LEAF_TAG: u8 = 0x00;

/// Longest proof accepted by [`verify`]: no tree is deeper than an index has bits.
pub const MAX_PROOF_LEN: usize = 64;

/// A built tree; holds every level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MerkleTree {
    /// Leaves first, the root alone last.
    levels: Vec<Vec<B256>>,
}

/// Hash of a leaf that holds `content`.
#[must_use]
pub fn leaf_hash(content: B256) -> B256 {
    let mut preimage = [LEAF_TAG; 33];
    preimage[1..].copy_from_slice(content.as_slice());
    keccak256(preimage)
}

/// Hash of the node above `a` and `b`, in either order.
#[must_use]
pub fn node_hash(a: B256, b: B256) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(a.min(b));
    hasher.update(a.max(b));
    hasher.finalize()
}

impl MerkleTree {
    /// The tree over `contents` in this order; `None` when there are none. Contents may repeat.
    #[must_use]
    pub fn new(contents: &[B256]) -> Option<Self> {
        if contents.is_empty() {
            return None;
        }
        let mut level: Vec<B256> = contents.iter().copied().map(leaf_hash).collect();
        let mut levels = Vec::new();
        while level.len() > 1 {
            let pair_up = |pair: &[B256]| match *pair {
                [a, b] => node_hash(a, b),
                [alone] => alone,
                _ => unreachable!("chunks of two hold one or two"),
            };
            let above = level.chunks(2).map(pair_up).collect();
            levels.push(std::mem::replace(&mut level, above));
        }
        levels.push(level);
        Some(Self { levels })
    }

    /// The root. For a single content it is that content's leaf.
    #[must_use]
    pub fn root(&self) -> B256 {
        match self.levels.last().and_then(|level| level.first()) {
            Some(root) => *root,
            None => unreachable!("a tree has a root"),
        }
    }

    /// Number of contents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// Always false: a tree has at least one content.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Siblings from the content at `index` up to the root, to be checked with [`verify`]; `None` past the end.
    #[must_use]
    pub fn proof(&self, index: usize) -> Option<Vec<B256>> {
        if index >= self.len() {
            return None;
        }
        let siblings = self.levels.iter().enumerate();
        // A level without a sibling at this place moved its node up unchanged.
        Some(siblings.filter_map(|(height, level)| level.get((index >> height) ^ 1).copied()).collect())
    }
}

/// True if `proof` shows that `content` is under `root`.
#[must_use]
pub fn verify(content: B256, proof: &[B256], root: B256) -> bool {
    proof.len() <= MAX_PROOF_LEN && proof.iter().copied().fold(leaf_hash(content), node_hash) == root
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contents(n: u64) -> Vec<B256> {
        (0..n).map(|i| keccak256(i.to_be_bytes())).collect()
    }

    #[test]
    fn small_trees_by_hand() {
        assert_eq!(MerkleTree::new(&[]), None);
        let c = contents(3);
        let [a, b, d] = [leaf_hash(c[0]), leaf_hash(c[1]), leaf_hash(c[2])];
        assert_eq!(MerkleTree::new(&c[..1]).map(|t| t.root()), Some(a));
        assert_eq!(MerkleTree::new(&c[..2]).map(|t| t.root()), Some(node_hash(a, b)));
        let three = MerkleTree::new(&c).expect("three");
        assert_eq!(three.root(), node_hash(node_hash(a, b), d));
        assert_eq!(three.proof(0), Some(vec![b, d]));
        assert_eq!(three.proof(2), Some(vec![node_hash(a, b)]), "the odd one moved up");
        assert_eq!(three.proof(3), None);
    }

    #[test]
    fn a_node_is_no_content() {
        let c = contents(4);
        let tree = MerkleTree::new(&c).expect("four");
        let inner = node_hash(leaf_hash(c[0]), leaf_hash(c[1]));
        let sibling = node_hash(leaf_hash(c[2]), leaf_hash(c[3]));
        assert_eq!(node_hash(inner, sibling), tree.root());
        assert!(!verify(inner, &[sibling], tree.root()));
        assert!(!verify(tree.root(), &[], tree.root()));
        assert!(!verify(leaf_hash(c[0]), &tree.proof(0).expect("in range"), tree.root()));
    }

    #[test]
    fn the_last_one_twice_is_another_tree() {
        let c = contents(3);
        let doubled = [c.clone(), vec![c[2]]].concat();
        assert_ne!(MerkleTree::new(&c).map(|t| t.root()), MerkleTree::new(&doubled).map(|t| t.root()));
    }

    #[test]
    fn long_proofs_are_refused() {
        let content = B256::ZERO;
        let proof = vec![B256::ZERO; MAX_PROOF_LEN + 1];
        let root = proof.iter().copied().fold(leaf_hash(content), node_hash);
        assert!(!verify(content, &proof, root));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_proof_verifies_and_no_other_does(n in 1_u64..200, other in any::<[u8; 32]>(), flip in any::<usize>()) {
            let c = contents(n);
            let tree = MerkleTree::new(&c).expect("not empty");
            prop_assert_eq!(tree.len(), c.len());
            for (i, content) in c.iter().enumerate() {
                let mut proof = tree.proof(i).expect("in range");
                prop_assert!(proof.len() <= 8);
                prop_assert!(verify(*content, &proof, tree.root()));
                prop_assert!(!verify(B256::from(other), &proof, tree.root()));
                if !proof.is_empty() {
                    let at = flip % proof.len();
                    proof[at] = B256::from(other);
                    prop_assert!(!verify(*content, &proof, tree.root()));
                }
            }
        }
    }
}
