//! How does a submission become a durable, promised request?

pub(in crate::relay) mod acceptance;
pub(in crate::relay) mod admit;
pub(in crate::relay) mod hook;
pub(in crate::relay) mod log;
pub(in crate::relay) mod pause;
pub(in crate::relay) mod tenants;
