//! Arbitrary input for everything that Slackwater reads from outside: requests, RPC replies, headers' extra data,
//! signatures, configuration, ledger rows, models, fee files, and answers to a client.
//!
//! A [`Target`] must not panic, and must have the properties in its documentation. [`run`] feeds it known inputs and
//! mutations of them by [`mutate`], on stable Rust and reproducibly. It is not guided by coverage: the corpus has to
//! reach the code under test, and a run fails if too few of its inputs are understood.

mod mutate;
mod targets;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use alloy_primitives::{hex, keccak256};

pub use mutate::{Rng, mutate};
pub use targets::TARGETS;

/// One reader of external input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, also of its corpus folder.
    pub name: &'static str,
    /// Reads an input; panics if a property does not hold. `true` if the input was understood.
    pub read: fn(&[u8]) -> bool,
}

/// Length of a run.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// Number of inputs.
    Inputs(u64),
    /// Elapsed time.
    Passed(Duration),
}

/// Result of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Inputs read.
    pub inputs: u64,
    /// Inputs that were understood: if there are none, the corpus does not reach the code behind the parser.
    pub understood: u64,
}

/// An input that made a target panic.
#[derive(Debug, Clone)]
pub struct Crash {
    /// The input.
    pub input: Vec<u8>,
    /// The panic's message.
    pub message: String,
}

impl std::fmt::Display for Crash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\ninput ({} bytes): {}", self.message, self.input.len(), String::from_utf8_lossy(&self.input))?;
        write!(f, "\nhex: {}", hex::encode(&self.input))
    }
}

/// Known inputs of a target.
///
/// # Errors
/// If its folder can't be read, or is empty.
pub fn corpus(target: &Target) -> anyhow::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map_err(|error| anyhow::anyhow!("{}: {error}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    anyhow::ensure!(!files.is_empty(), "{} is empty", folder.display());
    Ok(files.iter().map(std::fs::read).collect::<Result<_, _>>()?)
}

/// Reads all known inputs, then mutated ones.
///
/// # Errors
/// The first input that makes the target panic.
pub fn run(target: &Target, corpus: &[Vec<u8>], seed: u64, until: Until) -> Result<Seen, Box<Crash>> {
    let mut seen = Seen::default();
    let mut rng = Rng(seed);
    let started = Instant::now();
    let mut read = |input: &[u8]| {
        seen.inputs += 1;
        let is_understood = attempt(target, input)?;
        seen.understood += u64::from(is_understood);
        Ok::<_, Box<Crash>>(seen)
    };
    for input in corpus {
        read(input)?;
    }
    loop {
        let seen = read(&mutate(&mut rng, corpus))?;
        let is_over = match until {
            Until::Inputs(most) => seen.inputs >= most,
            Until::Passed(most) => started.elapsed() >= most,
        };
        if is_over {
            return Ok(seen);
        }
    }
}

fn attempt(target: &Target, input: &[u8]) -> Result<bool, Box<Crash>> {
    catch_unwind(AssertUnwindSafe(|| (target.read)(input))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Box::new(Crash { input: input.to_vec(), message: format!("{}: {}", target.name, text.unwrap_or_default()) })
    })
}

/// Writes an input that made a target panic to the artifacts.
///
/// # Errors
/// If it can't be written.
pub fn keep(target: &Target, crash: &Crash) -> anyhow::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(target.name);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("crash-{}", hex::encode(&keccak256(&crash.input)[..8])));
    std::fs::write(&path, &crash.input)?;
    Ok(path)
}
