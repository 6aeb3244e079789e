//! One service by itself, on a real ledger.

mod cancel;
mod replan;
mod stow;
