//! Forecast models of one chain.

use tokio::sync::oneshot;

use super::{
    api::Relay,
    models::{self, ModelAnswer, ModelCommand, ModelError},
};
use crate::relay::{chain::message::Message, clock, market::forecast::ModelInfo};

/// Forecast models of one chain: made by [`Relay::models`]. Each change is durable when its method returns.
#[derive(Debug, Clone)]
pub struct Models {
    relay: Relay,
    chain_id: u64,
}

impl Relay {
    /// Forecast models of a chain.
    pub fn models(&self, chain_id: u64) -> Models {
        Models { relay: self.clone(), chain_id }
    }
}

impl Models {
    async fn ask(&self, command: ModelCommand) -> Result<ModelAnswer, ModelError> {
        let chain = self.relay.chain(self.chain_id).ok_or(ModelError::UnknownChain(self.chain_id))?;
        let (reply, answer) = oneshot::channel();
        let message = Message::Models { command, reply };
        chain.inbox.send(message).await.map_err(|_| ModelError::ShuttingDown)?;
        answer.await.map_err(|_| ModelError::ShuttingDown)?
    }

    async fn change(&self, command: ModelCommand) -> Result<Vec<ModelInfo>, ModelError> {
        match self.ask(command).await? {
            ModelAnswer::Models(models) => Ok(models),
            ModelAnswer::Registry(_) => unreachable!("only an export is answered with a registry"),
        }
    }

    /// Activates a version until the next refit.
    ///
    /// # Errors
    /// [`ModelError`]; nothing is changed in that case.
    pub async fn promote(&self, version: u32) -> Result<Vec<ModelInfo>, ModelError> {
        self.change(ModelCommand::Promote(version)).await
    }

    /// Activates a version and keeps it active until [`Self::unpin`], across restarts.
    ///
    /// # Errors
    /// [`ModelError`]; nothing is changed in that case.
    pub async fn pin(&self, version: u32) -> Result<Vec<ModelInfo>, ModelError> {
        self.change(ModelCommand::Pin(version)).await
    }

    /// Removes the pin, so that the next fitted version is activated.
    ///
    /// # Errors
    /// [`ModelError`].
    pub async fn unpin(&self) -> Result<Vec<ModelInfo>, ModelError> {
        self.change(ModelCommand::Unpin).await
    }

    /// Activates the previously active version again.
    ///
    /// # Errors
    /// [`ModelError`]; nothing is changed in that case.
    pub async fn roll_back(&self) -> Result<Vec<ModelInfo>, ModelError> {
        self.change(ModelCommand::RollBack).await
    }

    /// All models with scores and pin, as one JSON document.
    ///
    /// # Errors
    /// [`ModelError`].
    pub async fn export(&self) -> Result<String, ModelError> {
        let ModelAnswer::Registry(registry) = self.ask(ModelCommand::Export).await? else {
            unreachable!("an export is answered with a registry")
        };
        let chain_id = self.chain_id;
        let written = clock::run_blocking(move || models::export(chain_id, &registry)).await;
        written.map_err(|_| ModelError::ShuttingDown)?
    }

    /// Replaces the models by those of an export, after checking each against its content hash.
    ///
    /// # Errors
    /// [`ModelError`]; nothing is changed in that case.
    pub async fn import(&self, export: String) -> Result<Vec<ModelInfo>, ModelError> {
        let chain_id = self.chain_id;
        let chain = self.relay.chain(chain_id).ok_or(ModelError::UnknownChain(chain_id))?;
        let (bytes, limit) = (export.len(), chain.tuning.forecast.learned_max_bytes);
        if bytes > limit {
            return Err(ModelError::TooLarge { bytes, limit });
        }
        let read = clock::run_blocking(move || models::import(chain_id, &export)).await;
        let registry = read.map_err(|_| ModelError::ShuttingDown)??;
        self.change(ModelCommand::Import(Box::new(registry))).await
    }
}
