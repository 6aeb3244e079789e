//! `slackwater`: see `slackwater --help`.

use std::process::ExitCode;

/// For all of the process, SQLite and libsecp256k1 too: a request takes a seventh less processor time than with glibc's.
#[cfg(all(feature = "jemalloc", not(target_env = "msvc")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    slackwater_relayer::cli::run()
}
