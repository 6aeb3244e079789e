//! The Slackwater relayer as a library: configuration, HTTP API and command line. The binary `slackwater` is a thin
//! shell around it; tests and benches use it directly.

pub mod cli;
pub mod config;
pub mod http;
pub mod keystore;
pub mod telemetry;
