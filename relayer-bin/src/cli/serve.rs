//! `serve`: configuration, relay, API, and an orderly end.

use std::{future::Future, sync::Arc};

use slackwater::relay::Relay;
use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use crate::{
    config::{Config, Sources},
    http::{App, Server},
    telemetry,
};

pub(super) async fn run(sources: Sources) -> Result<(), CliError> {
    let config = sources.load()?;
    telemetry::init_logs(&config.log);
    let stop = stop_signal()?;
    let running = start(&config).await?;
    running.serve(stop).await
}

/// A started relay with a listening, not yet served API.
pub(super) struct Running {
    pub(super) relay: Relay,
    pub(super) server: Server,
    app: Arc<App>,
}

/// Fetches secrets, takes the port, and starts the relay.
pub(super) async fn start(config: &Config) -> Result<Running, CliError> {
    let resolved = config.resolve()?;
    let exporter = telemetry::init_metrics();
    // A file that may not grow (`ulimit -f`) is a storage fault like a full disk: the write fails instead of the process.
    drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
    // The port first: a second instance must stop before it looks at the database.
    let server = Server::bind(config.listen)?;
    let relay = config.relay_builder(resolved).start().await?;
    let app = Arc::new(App::new(relay.clone(), config.keys(), config.http.clone(), exporter));
    Ok(Running { relay, server, app })
}

impl Running {
    /// Serves until `stop` resolves or the relay dies, then ends in order: connections, relay, ledger.
    pub(super) async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), CliError> {
        let Self { relay, server, app } = self;
        let address = server.address();
        tracing::info!(%address, relayer = %relay.identity(), version = env!("CARGO_PKG_VERSION"), "serving");
        let watched = relay.clone();
        let ended = async move {
            tokio::select! {
                () = stop => tracing::info!("stopping"),
                () = watched.stopped() => tracing::error!("the relay stopped by itself"),
            }
        };
        server.run(app, ended).await;
        relay.shutdown().await;
        if relay.has_failed() {
            return Err(CliError::failed(
                "a task of the relay failed; see the log. What was accepted goes on at the next start",
            ));
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Resolves at SIGTERM or SIGINT. From this call on they no longer end the process by themselves.
pub(super) fn stop_signal() -> Result<impl Future<Output = ()>, CliError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
