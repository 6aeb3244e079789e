//! Relayer.
fn main() {}
