//! The relay in a page, on a scripted chain.

mod local_relay;
mod world;
