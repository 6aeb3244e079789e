//! `serve`: configuration, relay, API, and an orderly shutdown.

use std::{future::Future, sync::Arc};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use slackwater::Relay;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::CliError;
use crate::{
    config::{Config, Readers, Sources},
    http::{
        App, HttpLimits, Server,
        reload::{self, Reloader},
    },
    telemetry,
};

pub(super) async fn run(sources: Sources) -> Result<(), CliError> {
    let config = sources.clone().load()?;
    telemetry::init_logs(&config.log);
    for exposed in config.exposed() {
        let (what, path) = (exposed.what, exposed.path.display());
        match exposed.readers {
            Readers::Everybody => tracing::warn!(%what, %path, "everybody on this machine may read it: chmod 600"),
            Readers::Group => tracing::info!(%what, %path, "its group may read it"),
        }
    }
    if !config.of_services.is_empty() {
        let variables = config.of_services.join(", ");
        tracing::info!(%variables, "no configuration keys: Kubernetes tells by them where the Service `slackwater` is");
    }
    let stop = stop_signal()?;
    let running = start(&config, Some(sources)).await?;
    running.serve(stop).await
}

/// A started relay with a listening, not yet served API.
pub(super) struct Running {
    pub(super) relay: Relay,
    pub(super) server: Server,
    app: Arc<App>,
}

/// Fetches secrets, takes the port, and starts the relay. With `sources` its configuration can be reloaded.
pub(super) async fn start(config: &Config, sources: Option<Sources>) -> Result<Running, CliError> {
    let resolved = config.resolve()?;
    let exporter = telemetry::init_metrics();
    // A file that may not grow (`ulimit -f`) is a storage fault like a full disk: the write fails instead of the
    // process.
    drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
    // The port first: a second instance must stop before it opens the database.
    let mut server = Server::bind(config.listen)?;
    if let Some(address) = config.http.probe_listen {
        server = server.with_probes(address)?;
    }
    raise_open_files(&config.http);
    let relay = config.relay_builder(resolved).start().await?;
    let digest = reload::digest(&config.entries);
    if let Err(error) = relay.record_configuration(digest, env!("CARGO_PKG_VERSION")).await {
        tracing::warn!(%error, "the configuration's hash could not be written into the decision log");
    }
    let mut app = App::new(relay.clone(), config.access(), config.http.clone(), exporter);
    if let Some(sources) = sources {
        app = app.with_reloader(Reloader::new(sources, config));
    }
    let app = Arc::new(app);
    Ok(Running { relay, server, app })
}

/// Open files besides connections: the ledger, nodes, logs.
const OTHER_FILES: u64 = 256;

/// Raises the limit of open files to the number that connections may need, as far as the system allows.
fn raise_open_files(limits: &HttpLimits) {
    let needed = (limits.max_connections + limits.max_waiting_connections) as u64 + OTHER_FILES;
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= needed) {
        return;
    }
    let raised = now.maximum.map_or(needed, |maximum| maximum.min(needed));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: now.maximum });
    if raised < needed {
        tracing::warn!(
            open_files = raised,
            needed,
            "the system allows fewer open files than `server.max_connections` and `server.max_waiting_connections` may \
             need: raise it (`ulimit -n`, LimitNOFILE) or lower these"
        );
    }
}

impl Running {
    /// Serves until `stop` resolves or the relay dies, then shuts down in order: connections, relay, ledger.
    pub(super) async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), CliError> {
        let Self { relay, server, app } = self;
        let address = server.address();
        if app.is_open() {
            tracing::warn!(
                "no API key is needed (`server.allow_anonymous`): every program on this machine can spend the relayer's \
                 money, and every web page in a browser on this machine that `server.cors_origins` names"
            );
        }
        tracing::info!(%address, relayer = %relay.identity(), version = env!("CARGO_PKG_VERSION"), "serving");
        let reloading = tokio::spawn(reload_on_hangup(Arc::clone(&app), signal(SignalKind::hangup())?));
        let watched = relay.clone();
        let ended = async move {
            tokio::select! {
                () = stop => tracing::info!("stopping"),
                () = watched.stopped() => tracing::error!("the relay stopped by itself"),
            }
        };
        let served = server.run(app, ended).await;
        reloading.abort();
        relay.shutdown().await;
        served?;
        if relay.has_failed() {
            return Err(CliError::failed(
                "a task of the relay failed; see the log. What was accepted goes on at the next start",
            ));
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Reloads the configuration on SIGHUP.
async fn reload_on_hangup(app: Arc<App>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        let reading = Arc::clone(&app);
        match tokio::task::spawn_blocking(move || reading.reload()).await {
            Ok(Ok(changed)) => {
                let count = changed.len();
                tracing::info!(changed = count, "configuration read again");
                if let Err(error) = app.record_reload("SIGHUP", count).await {
                    tracing::warn!(%error, "the reload could not be written down");
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "the configuration is not taken over; the old one is in force"),
            Err(_) => return,
        }
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
