//! `slackwater-demo`.

fn main() {}
