//! What holds for the crates together: dependencies, names, keys.

mod direction;
mod facade;
mod local_key;
