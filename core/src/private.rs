//! Files that only their owner reads: ledgers and outboxes hold signed requests that have not run yet, and whoever has those
//! may execute them, at another time and in another order.

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
};

/// Permissions that nobody but the owner has any more.
#[cfg(unix)]
const OTHERS: u32 = 0o077;

/// For a file that is made with 0600.
pub(crate) fn options() -> OpenOptions {
    #[allow(unused_mut, reason = "elsewhere there is no mode to set")]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
}

/// Takes from a file what group and others may do with it. A file that is not there is fine.
///
/// # Errors
/// If it belongs to somebody else.
pub(crate) fn tighten(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mode = metadata.permissions().mode();
        if metadata.is_file() && mode & OTHERS != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777 & !OTHERS))?;
        }
    }
    #[cfg(not(unix))]
    {
        let _ = fs::metadata(path);
    }
    Ok(())
}
