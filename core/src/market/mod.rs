//! What does gas cost now?

mod point;

pub use point::{FeePoint, Tips, Utilisation};
