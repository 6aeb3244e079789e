//! What does gas cost now?

pub mod csv;
mod point;

pub use point::{FeePoint, Tips, Utilisation};
