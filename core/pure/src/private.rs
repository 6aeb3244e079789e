//! Files readable only by their owner: ledgers and outboxes hold signed requests that have not run yet, and anyone with
//! those may execute them, at another time and in another order.

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
};

/// Permission bits of group and others.
#[cfg(unix)]
const OTHERS: u32 = 0o077;

/// Options for a file created with mode 0600.
pub fn options() -> OpenOptions {
    #[allow(unused_mut, reason = "elsewhere there is no mode to set")]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
}

/// Removes the permissions of group and others from a file. A missing file is fine.
///
/// # Errors
/// If the file belongs to another user.
pub fn tighten(path: &Path) -> io::Result<()> {
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
