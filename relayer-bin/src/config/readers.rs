//! Read permissions of files with secrets.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Users besides the owner who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its group.
    Group,
    /// Everybody on the machine.
    Everybody,
}

/// A file that others may read, although its content is only for its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// Description of its content.
    pub what: String,
    /// The file.
    pub path: PathBuf,
    /// Users besides the owner who may read it.
    pub readers: Readers,
}

/// The users besides the owner who can read the file at `path`, taking the permissions of its directories into account;
/// `None` if there are none, or if the file does not exist.
pub(super) fn readers(path: &Path) -> Option<Readers> {
    let path = fs::canonicalize(path).ok()?;
    let mode = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.permissions().mode());
    let file = mode(&path)?;
    let (mut group, mut everybody) = (file & 0o040 != 0, file & 0o004 != 0);
    for directory in path.ancestors().skip(1) {
        let directory = mode(directory)?;
        group &= directory & 0o010 != 0;
        everybody &= directory & 0o001 != 0;
    }
    match (everybody, group) {
        (true, _) => Some(Readers::Everybody),
        (false, true) => Some(Readers::Group),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_directory_protects_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "x").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&path, 0o644);
        set(dir.path(), 0o700);
        assert_eq!(readers(&path), None, "the directory is the owner's");
        set(dir.path(), 0o755);
        assert_eq!(readers(&path), Some(Readers::Everybody));
        set(&path, 0o640);
        assert_eq!(readers(&path), Some(Readers::Group));
        set(&path, 0o600);
        assert_eq!(readers(&path), None);
        assert_eq!(readers(&dir.path().join("none")), None);
    }
}
