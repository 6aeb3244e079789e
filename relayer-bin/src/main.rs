//! `slackwater`: see `slackwater --help`.

use std::process::ExitCode;

/// Many small allocations on two threads that free each other's: what the system's allocator is slowest at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    slackwater_relayer::cli::run()
}
