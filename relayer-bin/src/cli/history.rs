//! Fee histories on disk: `.csv` and `.csv.gz`, one by one, by folder, or by pattern.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use slackwater_core::market::csv::{CsvOptions, FeeTable, parse};

use super::error::CliError;

/// Largest file after unpacking, bytes.
pub(super) const MAX_BYTES: u64 = 512 * 1024 * 1024;
/// Most files of one command.
pub(super) const MAX_FILES: usize = 1_000;

/// True if the name is that of a packed file.
pub(super) fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
}

fn is_history(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    path.is_file() && (name.ends_with(".csv") || name.ends_with(".csv.gz"))
}

/// Name of a file without folder.
pub(super) fn short_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// True if `name` matches `pattern`, in which `*` stands for anything and `?` for one character.
fn matches(pattern: &[char], name: &[char]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some('*'), _) => matches(&pattern[1..], name) || (!name.is_empty() && matches(pattern, &name[1..])),
        (Some('?'), Some(_)) => matches(&pattern[1..], &name[1..]),
        (Some(wanted), Some(found)) if wanted == found => matches(&pattern[1..], &name[1..]),
        _ => false,
    }
}

/// The files to read: a folder stands for the `.csv` and `.csv.gz` in it; `*` and `?` may occur in a file's name.
pub(super) fn find(asked: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let listed = |folder: &Path| -> Result<Vec<PathBuf>, CliError> {
        let entries =
            fs::read_dir(folder).map_err(|e| CliError::usage(format!("can't read {}: {e}", folder.display())))?;
        let mut paths: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_history(path)).collect();
        paths.sort();
        Ok(paths)
    };
    let mut found: Vec<PathBuf> = Vec::new();
    for path in asked {
        let name = short_name(path);
        let some = if path.is_dir() {
            listed(path)?
        } else if !path.exists() && name.contains(['*', '?']) {
            // Several stars in a row match the same as one, and only cost time.
            let mut pattern: Vec<char> = name.chars().collect();
            pattern.dedup_by(|a, b| *a == '*' && *b == '*');
            let folder =
                path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
            let is_meant = |path: &PathBuf| matches(&pattern, &short_name(path).chars().collect::<Vec<_>>());
            listed(folder)?.into_iter().filter(is_meant).collect()
        } else {
            vec![path.clone()]
        };
        if some.is_empty() {
            return Err(CliError::usage(format!("no .csv or .csv.gz file is {}", path.display())));
        }
        found.extend(some);
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|path| seen.insert(path.clone()));
    if found.len() > MAX_FILES {
        return Err(CliError::usage(format!("{} files, limit {MAX_FILES}", found.len())));
    }
    Ok(found)
}

/// The text of a file, unpacked.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    let read = if is_packed(path) {
        MultiGzDecoder::new(file).take(MAX_BYTES + 1).read_to_end(&mut text)
    } else {
        file.take(MAX_BYTES + 1).read_to_end(&mut text)
    };
    let read = read.map_err(|error| error.to_string())?;
    if read as u64 > MAX_BYTES {
        return Err(format!("more than {MAX_BYTES} bytes"));
    }
    String::from_utf8(text).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        format!("line {}: not UTF-8 text", line + 1)
    })
}

/// Reads a history. The error does not name the file.
pub(super) fn read(path: &Path, price_column: Option<&str>) -> Result<FeeTable, String> {
    let options = CsvOptions { price_column: price_column.map(str::to_owned) };
    parse(&read_text(path)?, &options).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.csv", "a.csv.gz", "c.txt", "ab.csv"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let names = |asked: &[&str]| {
            let asked: Vec<_> = asked.iter().map(|name| dir.path().join(name)).collect();
            find(&asked).map(|paths| paths.iter().map(|path| short_name(path)).collect::<Vec<_>>())
        };
        assert_eq!(names(&[""]).unwrap(), ["a.csv.gz", "ab.csv", "b.csv"]);
        assert_eq!(names(&["a*.csv*", "b.csv", "ab.csv"]).unwrap(), ["a.csv.gz", "ab.csv", "b.csv"]);
        assert_eq!(names(&["?.csv"]).unwrap(), ["b.csv"]);
        assert!(names(&["z*"]).is_err());
        fs::write(dir.path().join("bad.csv"), b"a,b\n\xff\n").unwrap();
        assert_eq!(read_text(&dir.path().join("bad.csv")).unwrap_err(), "line 2: not UTF-8 text");
        assert!(read_text(&dir.path().join("a.csv.gz")).is_err());
    }
}
