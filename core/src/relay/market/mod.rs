//! What does the chain look like now, and what will it cost?

pub(in crate::relay) mod forecast;
pub(in crate::relay) mod header;
pub(in crate::relay) mod pace;
pub(in crate::relay) mod saved;
pub(in crate::relay) mod sources;
pub(in crate::relay) mod watcher;
