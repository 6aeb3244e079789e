//! What do the nodes say, and which of it counts?

pub(in crate::relay) mod contracts;
pub(in crate::relay) mod culprit;
pub(in crate::relay) mod data_fee;
pub(in crate::relay) mod foreign;
pub(in crate::relay) mod payments;
pub(in crate::relay) mod pruned;
pub(in crate::relay) mod receipts;
pub(in crate::relay) mod simulate;
pub(in crate::relay) mod spender;
