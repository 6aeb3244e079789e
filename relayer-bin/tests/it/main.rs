//! Black-box tests of the relayer. Configuration, bodies and HTTP run on a stub node; everything else runs the real
//! program on a real node, through a proxy that injects faults, and is checked against the chain.

#![allow(clippy::print_stdout, reason = "measured figures and seeds belong in a test's output")]

mod attempts;
mod backtest;
mod backup;
mod batching;
mod bodies;
mod bumps;
mod calls;
mod chaos;
mod cli;
mod clients;
mod cluster;
mod company;
mod config;
mod crash;
mod deadlines;
mod embed;
mod events;
mod extension;
mod faults;
mod fees;
mod funds;
mod heads;
mod hedges;
mod hostile;
mod http;
mod input;
mod lanes;
mod limits;
mod log;
mod market;
mod models;
mod money;
mod node;
mod page_keys;
mod pauses;
mod payments;
mod poison;
mod problems;
mod reload;
mod reorg;
mod replan;
mod rollups;
mod shutdown;
mod siege;
mod soak;
mod stage;
mod storage;
mod truth;
mod twins;
mod upgrade;
mod wallets;
