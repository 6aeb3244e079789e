//! What holds for the crates together: dependencies, names, keys.

mod direction;
mod local_key;
