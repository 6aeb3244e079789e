//! Tests of the support itself, on a real node and without a relayer: its counts must be right before it judges
//! others.

mod chain;
mod proxy;
