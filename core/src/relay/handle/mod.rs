//! What does an embedder hold? [`Relay`](api::Relay), its builder, and the types that they take and give.

pub(in crate::relay) mod api;
pub(in crate::relay) mod builder;
pub(in crate::relay) mod config;
pub(in crate::relay) mod error;
pub(in crate::relay) mod history;
pub(in crate::relay) mod models;
pub(in crate::relay) mod registry;
pub(in crate::relay) mod setup;
pub(in crate::relay) mod status;
pub(in crate::relay) mod tenant;
