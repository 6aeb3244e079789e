//! Who drives the lanes where several instances share a ledger?

pub(in crate::relay) mod instances;
pub(in crate::relay) mod keeper;
pub(in crate::relay) mod lease;
pub(in crate::relay) mod membership;
