//! Tests of the support itself, on a real node and without a relayer: its counts must be right before it judges
//! others. And of contracts: what they promise must hold before anything relies on it.

mod authorizations;
mod capped_calls;
mod chain;
mod proxy;
