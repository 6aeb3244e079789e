//! The support itself, on a real node and without a relayer: what it counts must be right before it judges others.

mod chain;
mod proxy;
