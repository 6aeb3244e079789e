//! Waiting for a condition instead of sleeping.

use std::time::{Duration, Instant};

use crate::error::{BenchError, Result};

/// Polls `probe` until it returns a value.
///
/// # Errors
/// [`BenchError::Timeout`] after `within`, or the probe's.
pub async fn until<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = probe().await? {
            return Ok(answer);
        }
        if started.elapsed() > within {
            return Err(BenchError::Timeout { what: what.to_owned(), after: within });
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
