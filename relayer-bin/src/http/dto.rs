//! Wire types of the API, and their conversion to and from the relay's types.

mod answer;
mod operations;
mod story;
mod submit;

pub use answer::*;
pub use operations::*;
pub use story::*;
pub use submit::*;
