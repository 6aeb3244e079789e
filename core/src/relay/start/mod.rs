//! How does a configuration become a running relay?

pub(in crate::relay) mod assemble;
pub(in crate::relay) mod restore;
pub(in crate::relay) mod tokens;
