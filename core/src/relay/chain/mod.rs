//! Who carries out what a chain's sender wants? The service: a shell of tasks, journal and published view.

pub(in crate::relay) mod health;
pub(in crate::relay) mod host;
pub(in crate::relay) mod journal;
pub(in crate::relay) mod keys;
pub(in crate::relay) mod message;
pub(in crate::relay) mod model_store;
pub(in crate::relay) mod notices;
pub(in crate::relay) mod service;
pub(in crate::relay) mod shared;
pub(in crate::relay) mod takeover;
pub(in crate::relay) mod view;
pub(in crate::relay) mod work;
