//! Values of extensible enumerations.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::request::{Reason, Status};

/// Longest stored name of an unknown value, characters.
const MAX_NAME_CHARS: usize = 80;

/// A value known to this build, or the name of one defined by a newer relayer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Open<T> {
    /// Known value.
    Known(T),
    /// Name of an unknown value.
    Other(String),
}

/// A value with a stable name.
pub trait Named: Copy + Sized {
    /// The stable name.
    fn name(self) -> &'static str;
    /// The value with this name; `None` if unknown.
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

/// A status.
pub type OpenStatus = Open<Status>;
/// A reason.
pub type OpenReason = Open<Reason>;

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

    /// The value; `None` if this build does not know it.
    pub const fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Other(_) => None,
        }
    }
}

impl Open<Status> {
    /// True for a known terminal status. An unknown one does not count: the relayer signals the end by ending the
    /// stream.
    pub fn is_terminal(&self) -> bool {
        self.known().is_some_and(Status::is_terminal)
    }
}

impl<T: Named> PartialEq<&str> for Open<T> {
    fn eq(&self, name: &&str) -> bool {
        self.as_str() == *name
    }
}

impl<T> From<T> for Open<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
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
