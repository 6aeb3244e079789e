//! Registry of model versions, with the active one.

use serde::{Deserialize, Serialize};

use super::{Fitted, ModelId};

/// Retained versions besides the active one.
const KEPT: usize = 16;
/// Limit on versions in a registry.
pub const MAX_VERSIONS: usize = KEPT + 1;
/// Limit on promotions that can be rolled back.
const MAX_ACTIVE: usize = 64;
/// Version of the export format.
const FORMAT: u32 = 1;

/// One fitted set of models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelVersion {
    /// Version number, from 1; never reused.
    pub version: u32,
    /// The models, with their content hash, training range and scores.
    pub fitted: Fitted,
}

/// Versions of one chain's models: the newest is promoted automatically unless one is pinned.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRegistry {
    format: u32,
    next: u32,
    versions: Vec<ModelVersion>,
    /// History of active versions, oldest first; the last one is active.
    active: Vec<u32>,
    is_pinned: bool,
}

/// Refusal of a registry operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No such version: it never existed, or was evicted as the oldest.
    #[error("no model version {version}")]
    Unknown {
        /// The requested version.
        version: u32,
    },
    /// No earlier version to roll back to.
    #[error("no earlier model version to roll back to")]
    NoEarlier,
    /// The import is not a registry.
    #[error("the import is no model registry")]
    Json(#[from] serde_json::Error),
    /// The import has an unsupported format.
    #[error("registry format {found}, understood is {FORMAT}")]
    Format {
        /// Format of the import.
        found: u32,
    },
    /// The import exceeds a registry's limits.
    #[error("{count} {what}, limit {limit}")]
    TooMany {
        /// Kind of the excess items.
        what: &'static str,
        /// Number in the import.
        count: usize,
        /// Limit of a registry.
        limit: usize,
    },
    /// A model does not match its hash, or cannot be evaluated: the file was changed or damaged.
    #[error("model version {version} does not match its content hash, or is malformed")]
    Damaged {
        /// The damaged version.
        version: u32,
    },
}

impl ModelRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        Self { format: FORMAT, next: 1, ..Self::default() }
    }

    /// Stores `fitted` as a new version, and activates it unless another is pinned. Returns its number.
    pub fn add(&mut self, fitted: Fitted) -> u32 {
        let version = self.next;
        self.next = self.next.saturating_add(1);
        self.versions.push(ModelVersion { version, fitted });
        if !self.is_pinned {
            self.put_in_force(version);
        }
        while self.versions.len() > KEPT + 1 {
            let active = self.active.last().copied();
            let Some(oldest) = self.versions.iter().position(|kept| Some(kept.version) != active) else { break };
            let dropped = self.versions.remove(oldest).version;
            self.active.retain(|version| *version != dropped);
        }
        version
    }

    fn put_in_force(&mut self, version: u32) {
        self.active.push(version);
        if self.active.len() > MAX_ACTIVE {
            self.active.remove(0);
        }
    }

    /// All versions, oldest first.
    pub fn list(&self) -> &[ModelVersion] {
        &self.versions
    }

    /// The active version; `None` before the first.
    pub fn active(&self) -> Option<&ModelVersion> {
        self.find(*self.active.last()?).ok()
    }

    /// The version with this content hash, if retained.
    pub fn by_id(&self, id: ModelId) -> Option<&ModelVersion> {
        self.versions.iter().find(|kept| kept.fitted.id() == id)
    }

    /// True while a version is pinned; later versions then wait for [`Self::unpin`].
    pub const fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    fn find(&self, version: u32) -> Result<&ModelVersion, RegistryError> {
        self.versions.iter().find(|kept| kept.version == version).ok_or(RegistryError::Unknown { version })
    }

    /// Activates a version until the next one is added.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`].
    pub fn promote(&mut self, version: u32) -> Result<&ModelVersion, RegistryError> {
        self.find(version)?;
        if self.active.last() != Some(&version) {
            self.put_in_force(version);
        }
        self.find(version)
    }

    /// Activates a version and pins it.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`].
    pub fn pin(&mut self, version: u32) -> Result<&ModelVersion, RegistryError> {
        self.promote(version)?;
        self.is_pinned = true;
        self.find(version)
    }

    /// Allows the next added version to become active.
    pub const fn unpin(&mut self) {
        self.is_pinned = false;
    }

    /// Reactivates the previously active version.
    ///
    /// # Errors
    /// [`RegistryError::NoEarlier`].
    pub fn roll_back(&mut self) -> Result<&ModelVersion, RegistryError> {
        if self.active.len() < 2 {
            return Err(RegistryError::NoEarlier);
        }
        self.active.pop();
        self.active().ok_or(RegistryError::NoEarlier)
    }

    /// The registry as one JSON text.
    ///
    /// # Errors
    /// [`RegistryError::Json`]; never for a registry made by this type.
    pub fn export(&self) -> Result<String, RegistryError> {
        Ok(serde_json::to_string(self)?)
    }

    /// Parses an export, and checks each model against its content hash.
    ///
    /// # Errors
    /// [`RegistryError::Json`], [`RegistryError::Format`], [`RegistryError::TooMany`], [`RegistryError::Damaged`], or
    /// [`RegistryError::Unknown`] if an active version is missing.
    pub fn import(text: &str) -> Result<Self, RegistryError> {
        let registry: Self = serde_json::from_str(text)?;
        if registry.format != FORMAT {
            return Err(RegistryError::Format { found: registry.format });
        }
        for (what, count, limit) in
            [("versions", registry.versions.len(), MAX_VERSIONS), ("promotions", registry.active.len(), MAX_ACTIVE)]
        {
            if count > limit {
                return Err(RegistryError::TooMany { what, count, limit });
            }
        }
        let mut last = 0;
        for kept in &registry.versions {
            if !kept.fitted.is_sound() || kept.version <= last || kept.version >= registry.next {
                return Err(RegistryError::Damaged { version: kept.version });
            }
            last = kept.version;
        }
        for version in &registry.active {
            registry.find(*version)?;
        }
        Ok(registry)
    }
}
