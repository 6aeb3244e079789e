//! Directions that the compiler does not keep: between the modules of `slackwater-core`, between files, and to the world.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

/// Each room with the rooms it may use. `time` and `table` are open to all.
const ROOMS: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("table", &[]),
    ("json", &[]),
    ("ordered", &[]),
    ("protection", &[]),
    ("private", &[]),
    ("chain", &["time", "protection"]),
    ("market", &["time", "chain"]),
    ("tuning", &["time", "chain", "market"]),
    ("request", &["time", "table", "json", "ordered", "protection", "chain", "tuning"]),
    ("forecast", &["time", "chain", "market"]),
    ("schedule", &["time", "table", "ordered", "protection", "chain", "request", "market", "tuning"]),
    ("policy", &["time", "chain", "request", "tuning"]),
    ("lane", &["time", "table", "protection", "chain", "request"]),
    ("provenance", &["time", "chain", "request"]),
    ("record", &["time", "chain", "request", "lane", "provenance"]),
    (
        "sender",
        &[
            "time",
            "ordered",
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
    ("backtest", &["time", "chain", "request", "market", "forecast", "schedule", "policy", "lane", "provenance"]),
    ("wire", &["time", "chain", "request"]),
];

/// Crates inside `core/`, each with its sources.
const CRATES: [&str; 4] = ["pure/src", "client/src", "ledger/src", "src"];

/// Sources without clock, socket, thread or file access: all of these folders but the modules named.
const PURE: [(&str, &[&str]); 2] = [("pure/src", &["private.rs"]), ("client/src", &["shell/"])];

fn core() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

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

/// Words and punctuation; `::` is one token.
fn tokens(mut code: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    while let Some(first) = code.trim_start().chars().next() {
        code = code.trim_start();
        let length = match code.starts_with("::") {
            true => 2,
            false if is_word(first) => code.find(|c| !is_word(c)).unwrap_or(code.len()),
            false => first.len_utf8(),
        };
        tokens.push(&code[..length]);
        code = &code[length..];
    }
    tokens
}

/// A path as written, with the name that it gets in scope.
type Named<'a> = (Vec<&'a str>, &'a str);

/// Adds the paths of the tree at the start of `tokens`, all below `path`; returns the other tokens.
fn tree<'a, 't>(mut tokens: &'t [&'a str], mut path: Vec<&'a str>, found: &mut Vec<Named<'a>>) -> &'t [&'a str] {
    while let [first, rest @ ..] = tokens {
        tokens = rest;
        if *first == "{" {
            while !matches!(tokens, ["}", ..] | []) {
                tokens = tree(tokens, path.clone(), found);
                tokens = tokens.strip_prefix(&[","]).unwrap_or(tokens);
            }
            return tokens.get(1..).unwrap_or(&[]);
        }
        path.push(first);
        match tokens {
            ["::", rest @ ..] => tokens = rest,
            ["as", name, rest @ ..] => {
                found.push((path, name));
                return rest;
            }
            _ => {
                found.push((path, first));
                return tokens;
            }
        }
    }
    tokens
}

/// Paths and words of a file's code.
#[derive(Default)]
struct Names<'a> {
    /// Paths of private `use` items.
    used: Vec<Named<'a>>,
    /// Paths of `use` items that export.
    exported: Vec<Named<'a>>,
    /// Other paths from `crate` or `super`.
    inline: Vec<Named<'a>>,
    /// Words outside `use` items.
    words: BTreeSet<&'a str>,
}

fn names<'a>(tokens: &[&'a str]) -> Names<'a> {
    let (mut names, mut rest, mut before) = (Names::default(), tokens, "");
    while let [first, after @ ..] = rest {
        rest = match *first {
            "use" if matches!(before, "pub" | ")") => tree(after, Vec::new(), &mut names.exported),
            "use" => tree(after, Vec::new(), &mut names.used),
            "crate" | "super" if matches!(after, ["::", ..]) => tree(rest, Vec::new(), &mut names.inline),
            word => {
                names.words.insert(word);
                after
            }
        };
        before = first;
    }
    names
}

/// First path segments after `crate::`, groups included: `crate::{chain::Fees, time}` names `chain` and `time`.
fn named(code: &str) -> BTreeSet<String> {
    let tokens = tokens(code);
    let Names { used, exported, inline, .. } = names(&tokens);
    let paths = used.into_iter().chain(exported).chain(inline).map(|(path, _)| path);
    paths.filter(|path| path[0] == "crate").filter_map(|path| path.get(1).map(ToString::to_string)).collect()
}

fn room_sources(room: &str) -> Vec<(String, String)> {
    let src = core().join("pure/src");
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
    let found =
        named("use crate::{\n    chain::{Fees, x},\n    time::Timestamp, lane,\n};\nfn f() { crate::policy::g() }");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["chain", "lane", "policy", "time"]);
    assert!(named("my_crate::chain").is_empty() && named(&code("/// [`crate::lane`]")).is_empty());
}

#[test]
fn every_room_is_listed() {
    let src = core().join("pure/src");
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

/// Most files of a circle.
const CIRCLE: usize = 3;

/// Names by module, one for each file without tests.
type Files<'a> = BTreeMap<Vec<&'a str>, Names<'a>>;

/// A path from the crate's root; `None` for paths into other crates.
fn from_root<'a>(files: &Files<'_>, here: &[&'a str], path: &[&'a str]) -> Option<Vec<&'a str>> {
    let ups = path.iter().take_while(|segment| **segment == "super").count();
    let (base, path) = match path {
        ["crate", path @ ..] => (&here[..0], path),
        ["self", path @ ..] => (here, path),
        _ => (&here[..here.len().saturating_sub(ups)], &path[ups..]),
    };
    let whole = [base, path].concat();
    let is_ours = base.len() < here.len() || files.contains_key(&whole[..=base.len().min(whole.len() - 1)]);
    is_ours.then_some(whole)
}

/// Module of the file that defines the item of a path from the root; exports are followed.
fn definer<'a>(files: &Files<'a>, path: &[&'a str], depth: usize) -> Option<Vec<&'a str>> {
    let at = (0..=path.len()).rev().find(|at| files.contains_key(&path[..*at]))?;
    let exports = &files[&path[..at]].exported;
    match exports.iter().find(|(_, name)| path.get(at) == Some(name)).filter(|_| depth < 8) {
        Some((export, _)) => {
            let export = from_root(files, &path[..at], export)?;
            definer(files, &[&export, &path[at + 1..]].concat(), depth + 1)
        }
        None => Some(path[..at].to_vec()),
    }
}

/// Modules that the file of module `here` needs. Exports that its code does not use are a table of contents.
fn needs<'a>(files: &Files<'a>, here: &[&'a str]) -> BTreeSet<Vec<&'a str>> {
    let Names { used, exported, inline, words } = &files[here];
    let exported = exported.iter().filter(|(_, name)| words.contains(name));
    let paths = used.iter().chain(inline).chain(exported);
    let paths = paths.filter_map(|(path, _)| from_root(files, here, path)).filter(|path| !path.is_empty());
    paths.filter_map(|path| definer(files, &path, 0)).filter(|needed| needed != here).collect()
}

/// Modules by module.
type Graph<'a> = BTreeMap<Vec<&'a str>, BTreeSet<Vec<&'a str>>>;

fn reachable<'a>(graph: &Graph<'a>, from: &[&'a str]) -> BTreeSet<Vec<&'a str>> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        next.extend(graph[file].iter().filter(|needed| seen.insert((*needed).clone())).map(Vec::as_slice));
    }
    seen
}

#[test]
fn no_large_circle_of_files() {
    for krate in CRATES {
        assert_no_large_circle(&core().join(krate));
    }
}

fn assert_no_large_circle(src: &Path) {
    let mut found = Vec::new();
    sources(src, &mut found);
    assert!(found.len() > 10, "{}: no sources", src.display());
    let code: Vec<(String, String)> = found
        .into_iter()
        .map(|(path, text)| {
            let module = path.trim_start_matches(&*src.to_string_lossy()).trim_end_matches(".rs");
            let module = module.trim_end_matches("/mod").trim_end_matches("/lib");
            (module.to_owned(), code(text.split("\nmod tests {").next().unwrap_or("")))
        })
        .filter(|(module, _)| !module.ends_with("tests"))
        .collect();
    let files: Files<'_> =
        code.iter().map(|(path, code)| (path.split('/').skip(1).collect(), names(&tokens(code)))).collect();
    let graph: Graph<'_> = files.keys().map(|file| (file.clone(), needs(&files, file))).collect();
    let reach: Graph<'_> = graph.keys().map(|file| (file.clone(), reachable(&graph, file))).collect();
    for file in files.keys() {
        let circle: Vec<String> =
            reach[file].iter().filter(|other| reach[*other].contains(file)).map(|other| other.join("/")).collect();
        assert!(circle.len() <= CIRCLE, "files that need each other: {circle:?}");
    }
}

/// Names of the variants of `pub enum name` in `code`.
fn variants(code: &str, name: &str) -> Vec<String> {
    let start = code.find(&format!("pub enum {name} {{")).unwrap();
    let body = code[start..].lines().skip(1).take_while(|line| !line.starts_with('}'));
    body.map(|line| line.trim().chars().take_while(|c| c.is_alphanumeric()).collect::<String>())
        .filter(|variant| variant.starts_with(|c: char| c.is_ascii_uppercase()))
        .collect()
}

/// A new kind is one file: nobody outside `request/kind/` chooses between kinds, or between the transactions that carry them.
#[test]
fn only_the_kinds_know_the_kinds() {
    let root = core().parent().unwrap();
    let kinds = root.join("core/pure/src/request/kind");
    let mut found = Vec::new();
    for place in [
        "core",
        "core/pure",
        "core/client",
        "core/ledger",
        "relayer-bin",
        "wasm",
        "bindings/python",
        "benches",
        "simulation",
    ] {
        sources(&root.join(place).join("src"), &mut found);
    }
    for (file, name) in [("mod.rs", "RequestKind"), ("key.rs", "VehicleKey")] {
        let variants = variants(&code(&fs::read_to_string(kinds.join(file)).unwrap()), name);
        assert!(variants.len() > 1, "{variants:?}");
        for (path, text) in &found {
            let code = code(text);
            for variant in variants.iter().map(|variant| format!("{name}::{variant}")) {
                let is_there = code.contains(&variant) && !Path::new(path).starts_with(&kinds);
                assert!(!is_there, "{path}: `{variant}` outside of `request/kind/`");
            }
        }
    }
}

/// Invariant I2: only what commits can say that something is durable. The simulator may lie, to show that it is noticed.
#[test]
fn only_ledgers_make_proofs_of_durability() {
    let may = ["core/ledger/src/", "core/client/src/local/storage.rs", "core/pure/src/record.rs"];
    let lie = "lane.durable.insert(key, Durable::committed(attempt));";
    let root = core().parent().unwrap();
    let mut found = Vec::new();
    for krate in CRATES
        .map(|krate| format!("core/{krate}"))
        .into_iter()
        .chain(["relayer-bin/src", "wasm/src", "bindings/python/src"].map(str::to_owned))
    {
        sources(&root.join(krate), &mut found);
    }
    let mut makers = 0;
    for (path, text) in found.iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
        let shipped = code(text.split("\nmod tests {").next().unwrap_or(""));
        // One line, where the simulator switches a protection off.
        let is_lie = path.ends_with("core/pure/src/sender/lanes.rs") && shipped.matches(lie).count() == 1;
        let count = shipped.matches("Durable::committed").count() - usize::from(is_lie);
        let is_ledger = may.iter().any(|may| path.contains(may));
        assert!(count == 0 || is_ledger, "{path} says that something is durable");
        makers += count;
    }
    assert!(makers > 5, "{makers}");
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
    for (folder, worldly_files) in PURE {
        let src = core().join(folder);
        let mut found = Vec::new();
        sources(&src, &mut found);
        for (path, text) in found {
            let inside = path.trim_start_matches(&*src.to_string_lossy()).trim_start_matches('/');
            if worldly_files.iter().any(|file| inside.starts_with(file)) {
                continue;
            }
            let code = code(&text);
            for word in worldly {
                let starts_there = |at| !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
                let is_there = code.match_indices(word).any(|(at, _)| starts_there(at));
                assert!(!is_there, "{path}: `{word}` in pure code");
            }
        }
    }
}

/// The simulator's switches, and the doors for arbitrary input, are in no shipped program.
#[test]
fn the_program_has_no_switches() {
    for shipped in ["slackwater-relayer", "slackwater-python", "slackwater-wasm"] {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--locked", "-p", shipped, "-e", "normal", "--prefix", "none"])
            .args(["--format", "{p} features:{f}"])
            .current_dir(core())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout).unwrap();
        let ours: BTreeSet<&str> = tree.lines().filter(|line| line.starts_with("slackwater")).collect();
        assert!(ours.len() > 2, "{tree}");
        for line in ours {
            let features = line.split("features:").nth(1).unwrap_or("");
            let has = |name: &str| features.split(|c: char| !c.is_alphanumeric() && c != '-').any(|one| one == name);
            assert!(!has("simulation") && !has("fuzzing"), "{shipped}: {line}");
        }
    }
}

/// What browsers get: no runtime, no sockets, no database.
#[test]
fn the_pure_crates_need_no_runtime() {
    for pure in ["slackwater-core", "slackwater-client"] {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--locked", "-p", pure, "--no-default-features", "-e", "normal"])
            .args(["--prefix", "none", "--format", "{p}"])
            .current_dir(core())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout).unwrap();
        let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert!(names.contains("slackwater-core") && names.contains("alloy-primitives"), "{tree}");
        let banned = ["tokio", "reqwest", "moka", "governor", "sqlx", "mio", "hyper", "tungstenite", "libsqlite3-sys"];
        for banned in banned {
            assert!(!names.contains(banned), "`{banned}` is a dependency of `{pure}`");
        }
    }
}
