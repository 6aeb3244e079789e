//! What goes over the wire, and how it becomes (and comes from) what the relay understands.

mod answer;
mod operations;
mod story;
mod submit;

pub use answer::*;
pub use operations::*;
pub use story::*;
pub use submit::*;
