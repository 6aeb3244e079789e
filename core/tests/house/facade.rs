//! What an embedder sees: every public name of the crate `slackwater`, counted in its source.

use std::{collections::BTreeSet, fs, path::Path};

/// Most public names.
const MOST: usize = 120;

/// Words before an item's name.
const KEYWORDS: [&str; 9] = ["async", "const", "enum", "fn", "static", "struct", "trait", "type", "union"];

/// One item of a module: attributes and the item itself.
fn items(source: &str) -> Vec<(String, String)> {
    let (mut items, mut attributes, mut item, mut depth) = (Vec::new(), String::new(), String::new(), 0_i32);
    for line in source.lines().map(str::trim).filter(|line| !line.starts_with("//") && !line.is_empty()) {
        if item.is_empty() && line.starts_with('#') {
            attributes.push_str(line);
            continue;
        }
        item.push_str(line);
        item.push(' ');
        depth += line.chars().map(|c| i32::from(c == '{') - i32::from(c == '}')).sum::<i32>();
        if depth == 0 && (line.ends_with(';') || line.ends_with('}')) {
            items.push((std::mem::take(&mut attributes), std::mem::take(&mut item)));
        }
    }
    items
}

/// The names that a `use` tree brings into scope.
fn leaves(tree: &str, found: &mut BTreeSet<String>) {
    let tree = tree.trim();
    assert!(!tree.ends_with('*'), "`{tree}` exports what nobody counted");
    match tree.split_once('{') {
        Some((_, group)) => {
            let (mut depth, mut start) = (0, 0);
            let group = group.trim().strip_suffix('}').unwrap_or_else(|| panic!("unbalanced: {tree}"));
            for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
                depth += i32::from(c == '{') - i32::from(c == '}');
                if c == ',' && depth == 0 {
                    if !group[start..at].trim().is_empty() {
                        leaves(&group[start..at], found);
                    }
                    start = at + 1;
                }
            }
        }
        None => {
            let name = tree.rsplit([' ', ':']).next().unwrap_or(tree);
            assert!(found.insert(name.to_owned()), "`{name}` is exported twice");
        }
    }
}

/// Public names of a module, those of its public modules included.
fn names(source: &str, folder: &Path, found: &mut BTreeSet<String>) {
    for (attributes, item) in items(source) {
        let Some(public) = item.trim().strip_prefix("pub ").filter(|_| !attributes.contains("doc(hidden)")) else {
            continue;
        };
        if let Some(tree) = public.strip_prefix("use ") {
            leaves(tree.trim_end().trim_end_matches(';'), found);
            continue;
        }
        let Some(module) = public.strip_prefix("mod ") else {
            let mut words = public.split([' ', '(', '<', ':', ';', '{']);
            let name = words.find(|word| !KEYWORDS.contains(word)).unwrap_or(public);
            assert!(found.insert(name.to_owned()), "`{name}` is public twice");
            continue;
        };
        match module.split_once('{') {
            Some((_, inside)) => {
                // One statement a line again.
                let inside = inside.trim().trim_end_matches('}').replace("; ", ";\n");
                names(&inside, folder, found);
            }
            None => {
                let name = module.trim().trim_end_matches(';');
                let file = folder.join(format!("{name}.rs"));
                names(&fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}")), folder, found);
            }
        }
    }
}

#[test]
fn an_embedder_sees_few_names() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    names(&fs::read_to_string(src.join("lib.rs")).unwrap(), &src, &mut found);
    for name in ["Relay", "Submission", "Accepted", "ChainTuning", "TenantPolicy", "SubmitError"] {
        assert!(found.contains(name), "`{name}` is not seen: {found:?}");
    }
    assert!(!found.contains("UrlFault"), "hidden");
    assert!(found.len() < MOST, "{} public names, fewer than {MOST} are allowed: {found:?}", found.len());
}

#[test]
fn every_way_to_export_is_counted() {
    let source = "
        mod relay;
        /// Words; {.
        pub use relay::{A, b::{C, D as E}};
        #[doc(hidden)]
        pub mod internal { pub use x::Hidden; }
        pub mod tuning {
            pub use y::F;
            pub use y::{G, H};
        }
        pub struct I { pub field: u8 }
        pub async fn j() {}
        pub const fn k() {}
        use z::Private;
    ";
    let mut found = BTreeSet::new();
    names(source, Path::new("."), &mut found);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["A", "C", "E", "F", "G", "H", "I", "j", "k"]);
    let glob = || leaves("everything::*", &mut BTreeSet::new());
    assert!(std::panic::catch_unwind(glob).is_err(), "a glob hides what it exports");
}
