//! Secrets by reference: the configuration holds the location of a secret, never its value.

use std::{
    borrow::Cow,
    fmt, fs,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::plain;

/// Largest secret file that is read.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// The text of a reference as written in a file. It may be a secret itself, put there by mistake: never shown unless it
/// has the form of a reference.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl SecretText {
    /// The text if it has the form of a reference, else `(hidden)`.
    pub fn shown(&self) -> Cow<'_, str> {
        match SecretRef::parse(&self.0) {
            Ok(reference) => Cow::Owned(reference.to_string()),
            Err(_) => Cow::Borrowed("(hidden)"),
        }
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl JsonSchema for SecretText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("Secret")
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "secret" })
    }
}

/// A value that is used but never shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq;
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

/// Reference to a secret. Parts that could be the secret itself are hidden when shown: it may have been written behind
/// `env:` or `file:` by mistake.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// `env:NAME`: an environment variable.
    Env(String),
    /// `file:PATH`: the file's content without white space at the ends.
    File(PathBuf),
    /// `keystore:PATH,password=REF`: an encrypted key (Web3 Secret Storage), and the reference to its password.
    Keystore {
        /// The key file.
        path: PathBuf,
        /// Reference to the password: `env:` or `file:`.
        password: Box<Self>,
    },
    /// `inline:VALUE`: for local development only.
    Inline(Secret),
}

/// Failure to fetch a secret. The configuration's or the environment's fault. Never contains the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Not a reference: perhaps the secret itself.
    #[error("not a reference (a text of {0} characters, not shown: it may be a secret)")]
    NotAReference(usize),
    /// A key management service, which this version does not support.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// The variable is not set, or empty.
    #[error("environment variable {0} is not set")]
    NoVariable(String),
    /// The file can't be read.
    #[error("can't read {}: {problem}", shown_path(path))]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error message.
        problem: String,
    },
    /// The key file could not be decrypted.
    #[error("can't open keystore {}: {problem}", shown_path(path))]
    Keystore {
        /// The key file.
        path: PathBuf,
        /// Wrong password, or not a key file.
        problem: String,
    },
}

fn shown_path(path: &Path) -> String {
    plain::shown(&path.display().to_string()).into_owned()
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{}", plain::variable(name)),
            Self::File(path) => write!(f, "file:{}", shown_path(path)),
            Self::Keystore { path, password } => write!(f, "keystore:{},password={password}", shown_path(path)),
            Self::Inline(_) => f.write_str("(hidden)"),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Remedy given in every message about a malformed reference.
pub(super) const REFERENCE_FORMS: &str = "write env:NAME, file:PATH or keystore:PATH,password=env:NAME";

impl SecretRef {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`SecretError::NotAReference`], which does not contain `text`, or [`SecretError::Unsupported`].
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let not_a_reference = || SecretError::NotAReference(text.chars().count());
        let (scheme, rest) = text.split_once(':').ok_or_else(not_a_reference)?;
        if rest.is_empty() {
            return Err(not_a_reference());
        }
        match scheme {
            "env" if rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => Ok(Self::Env(rest.to_owned())),
            "file" => Ok(Self::File(rest.into())),
            "inline" => Ok(Self::Inline(Secret::new(rest))),
            "keystore" => {
                let (path, password) = rest.split_once(",password=").ok_or_else(not_a_reference)?;
                match Self::parse(password)? {
                    password @ (Self::Env(_) | Self::File(_) | Self::Inline(_)) if !path.is_empty() => {
                        Ok(Self::Keystore { path: path.into(), password: Box::new(password) })
                    }
                    _ => Err(not_a_reference()),
                }
            }
            "aws-kms" | "gcp-kms" => Err(SecretError::Unsupported(scheme.to_owned())),
            _ => Err(not_a_reference()),
        }
    }

    /// True if the secret itself is in the configuration.
    pub fn is_inline(&self) -> bool {
        match self {
            Self::Inline(_) => true,
            Self::Keystore { password, .. } => password.is_inline(),
            Self::Env(_) | Self::File(_) => false,
        }
    }

    /// The files that hold it.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Env(_) | Self::Inline(_) => Vec::new(),
            Self::File(path) => vec![path.clone()],
            Self::Keystore { path, password } => [vec![path.clone()], password.files()].concat(),
        }
    }

    /// Fetches the secret. A keystore gives its private key as hex.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::Env(name) => match std::env::var(name) {
                Ok(value) if !value.trim().is_empty() => Ok(Secret::new(Zeroizing::new(value).trim())),
                _ => Err(SecretError::NoVariable(plain::variable(name).into_owned())),
            },
            Self::File(path) => {
                let failed = |problem: String| SecretError::File { path: shown_path(path).into(), problem };
                let size = fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
                if size > MAX_SECRET_BYTES {
                    return Err(failed(format!("{size} bytes, limit {MAX_SECRET_BYTES}")));
                }
                let content = Zeroizing::new(fs::read_to_string(path).map_err(|error| failed(error.to_string()))?);
                if content.trim().is_empty() {
                    return Err(failed("it is empty".to_owned()));
                }
                Ok(Secret::new(content.trim()))
            }
            Self::Keystore { path, password } => {
                let password = password.resolve()?;
                let key = crate::keystore::open(path, password.expose()).map_err(|error| SecretError::Keystore {
                    path: shown_path(path).into(),
                    problem: error.to_string(),
                })?;
                Ok(Secret::new(alloy_primitives::hex::encode(key.as_slice())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        assert_eq!(SecretRef::parse("env:KEY"), Ok(SecretRef::Env("KEY".to_owned())));
        assert_eq!(SecretRef::parse("file:/run/key"), Ok(SecretRef::File("/run/key".into())));
        let keystore = SecretRef::parse("keystore:keys/a.json,password=env:PW").unwrap();
        assert_eq!(
            keystore,
            SecretRef::Keystore { path: "keys/a.json".into(), password: Box::new(SecretRef::Env("PW".to_owned())) }
        );
        assert!(SecretRef::parse("keystore:a,password=inline:x").unwrap().is_inline());
        for bad in [
            "",
            "KEY",
            "env:",
            "env:A B",
            "keystore:a",
            "keystore:,password=env:A",
            "vault:x",
            "aws-kms:k",
            "keystore:a,password=keystore:b,password=env:C",
        ] {
            assert!(SecretRef::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pasted_key_is_never_shown() {
        let key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
        for text in [key.to_owned(), format!("0x{key}"), format!("inline:{key}"), format!("key:{key}")] {
            let secret = SecretText(text.clone());
            assert!(!format!("{secret:?}").contains("ac0974"), "{text}");
            if let Err(error) = SecretRef::parse(&text) {
                assert!(!format!("{error} {error:?}").contains("ac0974"));
            }
            assert!(!format!("{:?}", SecretRef::parse(&text)).contains("ac0974"));
        }
        assert_eq!(format!("{:?}", SecretText("env:KEY".to_owned())), "env:KEY");
    }

    #[test]
    fn a_key_behind_a_scheme_is_never_shown() {
        let key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
        for text in [
            format!("env:{key}"),
            format!("env:{}", key.to_uppercase()),
            format!("file:{key}"),
            format!("file:0x{key}"),
            format!("keystore:{key},password=env:PW"),
            format!("keystore:a.json,password=env:{key}"),
            format!("keystore:a.json,password=file:{key}"),
            format!("keystore:a.json,password=inline:{key}"),
        ] {
            let reference = SecretRef::parse(&text).unwrap();
            let error = reference.resolve().map(|_| ()).err();
            let told = format!("{:?} {reference} {reference:?} {error:?}", SecretText(text.clone())).to_lowercase();
            let told = told + &error.map(|error| error.to_string().to_lowercase()).unwrap_or_default();
            assert!(!told.contains("ac0974") || told.contains("is the key"), "{text}: {told}");
        }
    }

    #[test]
    fn files_are_trimmed_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, " abc\n").unwrap();
        assert_eq!(SecretRef::File(path.clone()).resolve().unwrap().expose(), "abc");
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(SecretRef::File(path).resolve().is_err());
        assert!(SecretRef::File(dir.path().join("none")).resolve().is_err());
        assert!(SecretRef::Env("SLACKWATER_TEST_SURELY_NOT_SET".to_owned()).resolve().is_err());
    }
}
