//! `slackwater-load`.

fn main() {}
