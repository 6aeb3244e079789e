//! The ledger's conformance suite.

mod ledger;
