//! Values of an enumeration that may grow.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::request::{Reason, Status};

/// Longest name of an unknown value that is kept, characters.
const MAX_NAME_CHARS: usize = 80;

/// A value that this build knows, or the name of one that a newer relayer has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Open<T> {
    /// Known.
    Known(T),
    /// Its name.
    Other(String),
}

/// What has a stable name.
pub trait Named: Copy + Sized {
    /// The name.
    fn name(self) -> &'static str;
    /// The value with this name.
    fn with_name(name: &str) -> Option<Self>;
}

impl Named for Status {
    fn name(self) -> &'static str {
        self.as_str()
    }

    fn with_name(name: &str) -> Option<Self> {
        Self::from_name(name)
    }
}

impl Named for Reason {
    fn name(self) -> &'static str {
        self.as_str()
    }

    fn with_name(name: &str) -> Option<Self> {
        Self::from_name(name)
    }
}

impl<T: Named> Open<T> {
    /// The value with this name.
    pub fn from_name(name: &str) -> Self {
        T::with_name(name).map_or_else(|| Self::Other(name.chars().take(MAX_NAME_CHARS).collect()), Self::Known)
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(value) => value.name(),
            Self::Other(name) => name,
        }
    }

    /// The value, if this build knows it.
    pub const fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Other(_) => None,
        }
    }
}

impl Open<Status> {
    /// Known to be an end. What is not known is not taken for one: the relayer says so by ending the stream.
    pub fn is_terminal(&self) -> bool {
        self.known().is_some_and(Status::is_terminal)
    }
}

impl<T: Named> fmt::Display for Open<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<T: Named> Serialize for Open<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, T: Named> Deserialize<'de> for Open<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Ok(Self::from_name(&name))
    }
}
