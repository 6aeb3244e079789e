//! The relayer as its own process, on a real node, through a proxy that injects faults. What happened is read from the
//! chain, never from the relayer alone.

#![allow(clippy::print_stdout, reason = "measured figures and seeds belong in a test's output")]

mod batching;
mod bumps;
mod calls;
mod crash;
mod embed;
mod events;
mod faults;
mod funds;
mod input;
mod lanes;
mod poison;
mod reorg;
mod shutdown;
mod stage;
mod truth;
mod wallets;
