//! Which models there are, and which is in force.

use serde::{Deserialize, Serialize};

use super::{Fitted, ModelId};

/// Versions that are kept besides the active one.
const KEPT: usize = 16;
/// Most versions of a registry.
pub const MAX_VERSIONS: usize = KEPT + 1;
/// Most promotions that can be rolled back.
const MAX_ACTIVE: usize = 64;
/// Format of the export.
const FORMAT: u32 = 1;

/// One fitted set of models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelVersion {
    /// Counts up from 1; never given twice.
    pub version: u32,
    /// The models, with their content hash, training range and scores.
    pub fitted: Fitted,
}

/// Versions of one chain's models: the newest is promoted by itself unless one is pinned.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRegistry {
    format: u32,
    next: u32,
    versions: Vec<ModelVersion>,
    /// Versions that were in force, oldest first; the last one is.
    active: Vec<u32>,
    is_pinned: bool,
}

/// Why a registry refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No such version: it never was, or was dropped as the oldest.
    #[error("no model version {version}")]
    Unknown {
        /// The version.
        version: u32,
    },
    /// Nothing to go back to.
    #[error("no earlier model version to roll back to")]
    NoEarlier,
    /// The import is no registry.
    #[error("the import is no model registry")]
    Json(#[from] serde_json::Error),
    /// The import has another format.
    #[error("registry format {found}, understood is {FORMAT}")]
    Format {
        /// What it says.
        found: u32,
    },
    /// The import has more than a registry keeps.
    #[error("{count} {what}, limit {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many a registry keeps.
        limit: usize,
    },
    /// A model is not what its hash says, or cannot be evaluated: the file was changed or damaged.
    #[error("model version {version} does not match its content hash, or is malformed")]
    Damaged {
        /// The version.
        version: u32,
    },
}

impl ModelRegistry {
    /// Without versions.
    pub fn new() -> Self {
        Self { format: FORMAT, next: 1, ..Self::default() }
    }

    /// Keeps `fitted` as a new version, and puts it in force unless another is pinned. Returns its number.
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

    /// The version in force.
    pub fn active(&self) -> Option<&ModelVersion> {
        self.find(*self.active.last()?).ok()
    }

    /// The version with this content hash.
    pub fn by_id(&self, id: ModelId) -> Option<&ModelVersion> {
        self.versions.iter().find(|kept| kept.fitted.id() == id)
    }

    /// Whether later versions wait for [`Self::unpin`].
    pub const fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    fn find(&self, version: u32) -> Result<&ModelVersion, RegistryError> {
        self.versions.iter().find(|kept| kept.version == version).ok_or(RegistryError::Unknown { version })
    }

    /// Puts a version in force, until the next is added.
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

    /// Puts a version in force and keeps it there.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`].
    pub fn pin(&mut self, version: u32) -> Result<&ModelVersion, RegistryError> {
        self.promote(version)?;
        self.is_pinned = true;
        self.find(version)
    }

    /// Lets the next version that is added come into force.
    pub const fn unpin(&mut self) {
        self.is_pinned = false;
    }

    /// Goes back to the version that was in force before.
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

    /// Everything as one JSON.
    ///
    /// # Errors
    /// [`RegistryError::Json`] never, for a registry that was made by this type.
    pub fn export(&self) -> Result<String, RegistryError> {
        Ok(serde_json::to_string(self)?)
    }

    /// Reads an export, and checks each model against its content hash.
    ///
    /// # Errors
    /// [`RegistryError::Json`], [`RegistryError::Format`], [`RegistryError::TooMany`], [`RegistryError::Damaged`], or [`RegistryError::Unknown`] if
    /// a version in force is missing.
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
