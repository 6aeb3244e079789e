//! Tests that need the feature `relay`: the ledger's conformance suite, and keys.

mod ledger;
mod local_key;
