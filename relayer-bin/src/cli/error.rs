//! Errors of commands, and their exit codes.

use std::{fmt, process::ExitCode};

use slackwater::{BuildError, RpcError};

use super::printable::printable_lines;
use crate::{config::ConfigErrors, http::ServeError};

/// Exit codes, as documented in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command failed.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// Relayer or node not reachable.
    Unreachable = 3,
    /// Refused, or the request ended badly.
    Refused = 4,
}

/// Error of a command.
#[derive(Debug)]
pub struct CliError {
    exit: Exit,
    message: String,
}

impl CliError {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The exit code.
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// Prints it to standard error. An empty message has been printed already.
    pub(super) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("slackwater: {}", printable_lines(&self.message));
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<ConfigErrors> for CliError {
    fn from(errors: ConfigErrors) -> Self {
        Self::usage(errors.to_string())
    }
}

impl From<ServeError> for CliError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Listen { .. } => Self::usage(error.to_string()),
            ServeError::Recall(_) => Self::failed(error.to_string()),
        }
    }
}

impl From<BuildError> for CliError {
    fn from(error: BuildError) -> Self {
        let exit = match error {
            BuildError::Chain { .. } => Exit::Unreachable,
            BuildError::Ledger(_) => Exit::Failed,
            _ => Exit::Usage,
        };
        Self::new(exit, format!("can't start: {error}"))
    }
}

impl From<RpcError> for CliError {
    fn from(error: RpcError) -> Self {
        Self::new(Exit::Unreachable, error.to_string())
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}
