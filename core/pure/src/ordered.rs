//! Maps and sets of the sender and its queue: trees and hash maps; in a WASM module sorted lists, as a page holds few
//! requests, and each type of a tree's entries adds kilobytes to its download.

#[cfg(any(test, target_arch = "wasm32"))]
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, reason = "only its test uses it"))]
pub mod list;

#[cfg(target_arch = "wasm32")]
pub use list::{Map as HashMap, Map, Set, SetIter};
#[cfg(not(target_arch = "wasm32"))]
pub use std::collections::{BTreeMap as Map, BTreeSet as Set, HashMap, btree_set::Iter as SetIter};
