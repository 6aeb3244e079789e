//! The one place in the crate that reads the wall clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::time::Timestamp;

/// Now. A clock before 1970 reads as 1970.
#[expect(clippy::disallowed_methods, reason = "the shell's clock; everything else gets time as an argument")]
pub(super) fn now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(crate::time::millis(elapsed))
}
