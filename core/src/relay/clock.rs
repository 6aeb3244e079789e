//! The only place in the crate that reads the wall clock, and that moves long work off the runtime's threads.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::time::Timestamp;

/// Current time. A clock before 1970 reads as 1970.
#[expect(clippy::disallowed_methods, reason = "the shell's clock; everything else gets time as an argument")]
pub(in crate::relay) fn now() -> Timestamp {
    #[cfg(feature = "simulation")]
    if let Some(now) = simulated::now() {
        return now;
    }
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(crate::time::millis(elapsed))
}

/// Runs `work` on a blocking thread.
pub(in crate::relay) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    #[cfg(feature = "simulation")]
    if simulated::now().is_some() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

/// A clock that the simulator sets: it follows tokio's, which can be paused.
#[cfg(feature = "simulation")]
pub mod simulated {
    use std::cell::{Cell, RefCell};

    use tokio::time::Instant;

    use crate::time::{Timestamp, millis};

    thread_local! {
        static CLOCK: Cell<Option<(Instant, Timestamp)>> = const { Cell::new(None) };
        static SALT: Cell<u64> = const { Cell::new(0) };
        static STEP: RefCell<Option<Step>> = const { RefCell::new(None) };
    }

    /// Called before each command of a sender.
    pub type Step = Box<dyn FnMut()>;

    /// Sets what this thread calls before each command of a sender; `None` for nothing.
    pub fn set_step(step: Option<Step>) {
        STEP.set(step);
    }

    /// A sender's next command is carried out.
    pub(in crate::relay) fn step() {
        STEP.with_borrow_mut(|step| step.iter_mut().for_each(|step| step()));
    }

    /// Sets this thread's clock to `now`; from then on it advances with tokio's, and long work runs in place. `None`
    /// restores the wall clock.
    pub fn set_clock(now: Option<Timestamp>) {
        CLOCK.set(now.map(|now| (Instant::now(), now)));
        SALT.set(0);
    }

    /// A salt unique on this thread since the clock was set; `None` with the wall clock.
    pub(in crate::relay) fn next_salt() -> Option<String> {
        let now = now()?;
        let salt = SALT.get();
        SALT.set(salt + 1);
        Some(format!("{}-{salt}", now.0))
    }

    pub(in crate::relay) fn now() -> Option<Timestamp> {
        CLOCK.get().map(|(start, at)| Timestamp(at.0.saturating_add(millis(start.elapsed()))))
    }
}
