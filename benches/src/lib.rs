//! Shared support of tests, benchmarks and the demonstration: a real chain, contracts on it, users who sign, a relayer
//! as its own process, faults between the two, and counting outcomes on the chain.
//!
//! Nothing here links the relayer: it is started as a program and spoken to over HTTP.
//!
//! ```no_run
//! use slackwater_benches::{Anvil, Relayer, RelayerClient, World, wallet::Crowd};
//!
//! # async fn run() -> slackwater_benches::Result<()> {
//! let anvil = Anvil::builder().block_time(1).spawn().await?;
//! let world = World::deploy(anvil.node(), 1).await?;
//! let relayer = Relayer::builder(&world).rpc(anvil.url()).spawn().await?;
//! let client = RelayerClient::new(relayer.url())?;
//! let mut crowd = Crowd::new(&world, 5);
//! for request in crowd.marks(100) {
//!     client.submit(&request.body).await?.accepted()?;
//! }
//! # Ok(())
//! # }
//! ```

pub mod anvil;
pub mod client;
pub mod cluster;
pub mod count;
mod error;
pub mod forwarder;
pub mod http;
pub mod node;
pub mod page;
pub mod postgres;
pub mod proxy;
pub mod relayer;
pub mod report;
pub mod rng;
pub mod soak;
pub mod token;
pub mod wait;
pub mod wallet;
pub mod world;

pub use anvil::Anvil;
pub use client::RelayerClient;
pub use cluster::Cluster;
pub use error::{BenchError, Result};
pub use forwarder::Forwarder;
pub use node::Node;
pub use proxy::Proxy;
pub use relayer::Relayer;
pub use world::World;
