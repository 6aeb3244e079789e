//! Record storage in a file: an append-only journal, synced to disk.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::private;

/// The journal is compacted when it is larger than this and than [`COMPACT_FACTOR`] times its live content.
const COMPACT_BYTES: u64 = 1 << 20;
const COMPACT_FACTOR: u64 = 4;

/// Failure of the storage file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Reading or writing failed.
    #[error("outbox file: {0}")]
    Io(#[from] io::Error),
    /// Another process has it open; two would send everything twice.
    #[error("the outbox file is in use by another process")]
    InUse,
    /// A line before the last one can't be read: the file was changed or damaged. It is left unchanged.
    #[error("line {line} of the outbox file is damaged")]
    Damaged {
        /// Line number, from 1.
        line: usize,
    },
}

/// A line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    key: std::borrow::Cow<'a, str>,
    /// The record; absent if it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<std::borrow::Cow<'a, str>>,
}

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileWrite {
    Put(String, String),
    Remove(String),
}

/// Records by key, durable when a write returns. One process at a time.
#[derive(Debug)]
pub struct FileStorage {
    path: PathBuf,
    file: File,
    /// Length of the intact part, bytes; the rest belongs to a failed write.
    len: u64,
    live_bytes: u64,
    records: BTreeMap<String, String>,
    _lock: File,
}

impl FileStorage {
    /// Opens or creates the file. An unfinished last line is dropped: its write never returned.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        let path = path.as_ref().to_owned();
        let lock = private::options().create(true).truncate(false).write(true).open(with_suffix(&path, ".lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StorageError::InUse),
            Err(fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        let mut file = private::options().create(true).truncate(false).read(true).write(true).open(&path)?;
        private::tighten(&path)?;
        sync_directory(&path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut records = BTreeMap::new();
        for (index, line) in text[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
            let line: Line<'_> = serde_json::from_slice(line).map_err(|_| StorageError::Damaged { line: index + 1 })?;
            match line.record {
                Some(record) => records.insert(line.key.into_owned(), record.into_owned()),
                None => records.remove(line.key.as_ref()),
            };
        }
        let live_bytes = records.iter().map(|(key, record)| live(key, record)).sum();
        let mut storage = Self { path, file, len: whole as u64, live_bytes, records, _lock: lock };
        storage.cut()?;
        Ok(storage)
    }

    /// All records.
    pub const fn records(&self) -> &BTreeMap<String, String> {
        &self.records
    }

    /// Truncates the remains of a failed write, and seeks to the end.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.file.seek(SeekFrom::Start(self.len))?;
        Ok(())
    }

    /// Applies all `writes` with a single disk sync.
    pub(super) fn apply(&mut self, writes: &[FileWrite]) -> io::Result<()> {
        let mut text = Vec::new();
        for write in writes {
            let line = match write {
                FileWrite::Put(key, record) => Line { key: key.into(), record: Some(record.into()) },
                FileWrite::Remove(key) => Line { key: key.into(), record: None },
            };
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        self.cut()?;
        self.file.write_all(&text)?;
        self.file.sync_data()?;
        self.len += text.len() as u64;
        for write in writes {
            let (old, new) = match write {
                FileWrite::Put(key, record) => (self.records.insert(key.clone(), record.clone()), live(key, record)),
                FileWrite::Remove(key) => (self.records.remove(key), 0),
            };
            let key = match write {
                FileWrite::Put(key, _) | FileWrite::Remove(key) => key,
            };
            self.live_bytes = self.live_bytes + new - old.map_or(0, |old| live(key, &old));
        }
        if self.len > COMPACT_BYTES && self.len > COMPACT_FACTOR * self.live_bytes {
            // The writes are durable already; a failed compaction is harmless.
            let _ = self.compact();
        }
        Ok(())
    }

    /// Rewrites the journal with its current content.
    fn compact(&mut self) -> io::Result<()> {
        let beside = with_suffix(&self.path, ".new");
        let mut text = Vec::new();
        for (key, record) in &self.records {
            serde_json::to_writer(&mut text, &Line { key: key.into(), record: Some(record.into()) })?;
            text.push(b'\n');
        }
        let mut file = private::options().create(true).truncate(true).read(true).write(true).open(&beside)?;
        private::tighten(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        (self.file, self.len) = (file, text.len() as u64);
        sync_directory(&self.path)
    }
}

/// Approximate size of a record in the journal, bytes.
fn live(key: &str, record: &str) -> u64 {
    (key.len() + record.len()) as u64
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes a file's directory entry durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Only Unix supports it, and needs it.
    if cfg!(unix) { File::open(parent)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, record: &str) -> FileWrite {
        FileWrite::Put(key.to_owned(), record.to_owned())
    }

    #[cfg(unix)]
    #[test]
    fn an_outbox_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outbox");
        // A file made by an older version, or copied.
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut storage = FileStorage::open(&path).unwrap();
        storage.apply(&[put("a", "signed")]).unwrap();
        storage.compact().unwrap();
        for entry in fs::read_dir(directory.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn records_survive_and_a_torn_line_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outbox");
        let mut storage = FileStorage::open(&path).unwrap();
        assert!(matches!(FileStorage::open(&path), Err(StorageError::InUse)));
        storage.apply(&[put("a", "1\n\""), put("b", "2")]).unwrap();
        storage.apply(&[FileWrite::Remove("b".to_owned()), put("a", "3")]).unwrap();
        drop(storage);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut storage = FileStorage::open(&path).unwrap();
            storage.apply(&[put("c", "4")]).unwrap();
            drop(storage);
            let storage = FileStorage::open(&path).unwrap();
            assert_eq!(storage.records().get("c").map(String::as_str), Some("4"), "cut at {cut}");
        }
        fs::write(&path, &whole).unwrap();
        let expected = BTreeMap::from([("a".to_owned(), "3".to_owned())]);
        assert_eq!(*FileStorage::open(&path).unwrap().records(), expected);
        let damaged = String::from_utf8(whole).unwrap().replacen("{\"key\":\"b\"", "{\"kex\":\"b\"", 1);
        fs::write(&path, &damaged).unwrap();
        assert!(matches!(FileStorage::open(&path), Err(StorageError::Damaged { line: 2 })));
        assert_eq!(fs::read_to_string(&path).unwrap(), damaged, "left as it is");
    }

    #[test]
    fn a_long_journal_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outbox");
        let mut storage = FileStorage::open(&path).unwrap();
        let record = "x".repeat(100_000);
        for n in 0..30 {
            storage.apply(&[put("kept", "k"), put("a", &format!("{n}{record}"))]).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < 2 << 20);
        storage.apply(&[FileWrite::Remove("a".to_owned())]).unwrap();
        drop(storage);
        let expected = BTreeMap::from([("kept".to_owned(), "k".to_owned())]);
        assert_eq!(*FileStorage::open(&path).unwrap().records(), expected);
    }
}
