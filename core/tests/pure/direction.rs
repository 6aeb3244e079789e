//! Allowed dependencies between rooms: a lower room never uses a higher one.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Each room with the rooms it may use. `time` and `table` are open to all.
const ROOMS: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("table", &[]),
    ("protection", &[]),
    ("private", &[]),
    ("chain", &["time", "protection"]),
    ("market", &["time", "chain"]),
    ("tuning", &["time", "chain", "market"]),
    ("request", &["time", "table", "protection", "chain", "tuning"]),
    ("forecast", &["time", "chain", "market"]),
    ("schedule", &["time", "table", "protection", "chain", "request", "market", "tuning"]),
    ("policy", &["time", "chain", "request", "tuning"]),
    ("lane", &["time", "table", "protection", "chain", "request"]),
    ("provenance", &["time", "chain", "request"]),
    ("record", &["time", "chain", "request", "lane", "provenance"]),
    (
        "sender",
        &[
            "time",
            "protection",
            "chain",
            "request",
            "market",
            "forecast",
            "schedule",
            "policy",
            "lane",
            "provenance",
            "tuning",
            "record",
        ],
    ),
    ("sim", &["time", "chain", "request", "market", "forecast", "schedule", "policy", "lane", "provenance"]),
    ("wire", &["time", "chain", "request"]),
    ("client", &["time", "table", "chain", "request", "wire", "market", "schedule", "lane", "provenance", "tuning"]),
    ("client_http", &["time", "private", "client", "request"]),
    (
        "ledger",
        &["time", "protection", "private", "chain", "request", "policy", "lane", "provenance", "record", "tuning"],
    ),
    (
        "relay",
        &[
            "time",
            "protection",
            "chain",
            "request",
            "schedule",
            "policy",
            "lane",
            "provenance",
            "ledger",
            "market",
            "forecast",
            "tuning",
            "record",
            "sender",
        ],
    ),
];

/// Rooms without clock, socket, thread or file access.
const PURE: &[&str] = &[
    "time",
    "table",
    "chain",
    "market",
    "tuning",
    "request",
    "forecast",
    "schedule",
    "policy",
    "lane",
    "provenance",
    "record",
    "sender",
    "sim",
    "wire",
    "client",
];

fn sources(at: &Path, found: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Code without line comments: a doc link may point to any room.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// First path segments after `crate::`, groups included: `crate::{chain::Fees, time}` names `chain` and `time`.
fn named(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = code[at + "crate::".len()..].trim_start();
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let (mut depth, mut is_start) = (0, true);
        for (index, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    is_start = true;
                    continue;
                }
                c if c.is_whitespace() => continue,
                _ if is_start && depth == 0 => {
                    names.insert(word(&group[index..]));
                }
                _ => {}
            }
            is_start = false;
        }
    }
    names
}

fn room_sources(room: &str) -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let file = src.join(format!("{room}.rs"));
    if file.is_file() {
        found.push((file.to_string_lossy().into_owned(), fs::read_to_string(file).unwrap()));
    }
    if src.join(room).is_dir() {
        sources(&src.join(room), &mut found);
    }
    assert!(!found.is_empty(), "room `{room}` has no sources");
    found
}

#[test]
fn the_reader_sees_groups() {
    let names =
        named("use crate::{\n    chain::{Fees, x},\n    time::Timestamp, lane,\n};\nfn f() { crate::policy::g() }");
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["chain", "lane", "policy", "time"]);
    assert!(named("my_crate::chain").is_empty() && named(&code("/// [`crate::lane`]")).is_empty());
}

#[test]
fn every_room_is_listed() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            name == "lib" || ROOMS.iter().any(|(room, _)| *room == name),
            "room `{name}` has no place in the order"
        );
    }
}

#[test]
fn rooms_only_use_those_before_them() {
    let rooms: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    for (place, (room, allowed)) in ROOMS.iter().enumerate() {
        for used in *allowed {
            assert!(ROOMS[..place].iter().any(|(earlier, _)| earlier == used), "`{used}` stands after `{room}`");
        }
        for (path, text) in room_sources(room) {
            for name in named(&code(&text)) {
                // Types and macros at the root.
                if name == *room || ["Timestamp", "BlockTimestamp", "keys", "choice"].contains(&name.as_str()) {
                    continue;
                }
                assert!(rooms.contains(name.as_str()), "{path}: `crate::{name}` is no room");
                assert!(allowed.contains(&name.as_str()), "{path}: room `{room}` may not use `{name}`");
            }
        }
    }
}

#[test]
fn pure_rooms_touch_no_world() {
    let worldly = [
        "tokio",
        "reqwest",
        "tungstenite",
        "sqlx",
        "moka",
        "governor",
        "Instant::now",
        "SystemTime",
        "std::fs",
        "std::net",
        "std::thread",
        "std::env",
        "rand::",
        "getrandom",
        "tracing",
        "metrics::",
    ];
    for room in PURE {
        for (path, text) in room_sources(room) {
            let code = code(&text);
            for word in worldly {
                assert!(!code.contains(word), "{path}: `{word}` in a pure room");
            }
        }
    }
}

/// `slackwater` without features is the build for browsers: no runtime, no sockets, no database.
#[test]
fn the_pure_crate_needs_no_runtime() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-p", "slackwater", "--no-default-features", "-e", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains("slackwater") && names.contains("alloy-primitives"), "{tree}");
    let banned =
        ["tokio", "reqwest", "moka", "governor", "sqlx", "mio", "hyper", "tungstenite", "rusqlite", "libsqlite3-sys"];
    for banned in banned {
        assert!(!names.contains(banned), "`{banned}` is a dependency of the pure crate");
    }
}
