//! `slackwater`: see `slackwater --help`.

use std::process::ExitCode;

/// Many small blocks live briefly, on several threads: the system's allocator takes a tenth of the time of an acceptance.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    slackwater_relayer::cli::run()
}
