//! Filter for texts in messages: nothing secret is shown, even if it was put where it does not belong.
//!
//! A message shows a value if it is a number, a boolean or a known choice, or if its key is on the list of plain texts
//! and the text looks like nothing secret. Of everything else only the length is shown.

use std::borrow::Cow;

/// Longest plain text that is shown.
const MAX_SHOWN: usize = 255;
/// Longest name of a key or an environment variable that is shown.
const MAX_NAME: usize = 64;
/// Hexadecimal digits in a row that are taken for a key.
const KEY_DIGITS: usize = 32;
/// Hexadecimal digits of an address, which is no secret.
const ADDRESS_DIGITS: usize = 40;
/// Letters and digits in a row that are taken for a token if they are well mixed.
const TOKEN_LEN: usize = 20;
/// Prefix of API keys.
const KEY_MARK: &str = "sw_";
/// Prefixes of references to secrets.
const REFERENCES: [&str; 4] = ["inline:", "keystore:", "env:", "file:"];
/// Words that are taken for a mnemonic phrase.
const PHRASE_WORDS: usize = 12;

/// Keys whose texts are names, addresses and paths: an index stands as `0`.
const PLAIN: &[&str] = &[
    "server.listen",
    "server.cors_origins.0",
    "ledger.path",
    "ledger.schema",
    "ledger.instance",
    "log.level",
    "chain.0.preset",
    "chain.0.name",
    "chain.0.rpc.0.name",
    "chain.0.forwarders.0.address",
    "chain.0.tokens.0.address",
    "chain.0.tokens.0.name",
    "chain.0.tokens.0.version",
    "tenant.0.id",
];

/// Tables below which every text is plain.
const PLAIN_BELOW: &[&str] = &["chain.0.spec.", "tenant.0.targets."];

/// True if texts of the key at `path` may be shown.
pub(super) fn is_plain(path: &str) -> bool {
    let general: Vec<&str> =
        path.split('.').map(|part| if part.bytes().all(|b| b.is_ascii_digit()) { "0" } else { part }).collect();
    let general = general.join(".");
    PLAIN.contains(&general.as_str()) || PLAIN_BELOW.iter().any(|table| general.starts_with(table))
}

/// Placeholder for a hidden text: its length.
pub(crate) fn hidden(text: &str) -> String {
    let count = text.chars().count();
    format!("(a text of {count} character{})", if count == 1 { "" } else { "s" })
}

/// A plain text, unless it looks like a secret that was put in the wrong place.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    if looks_secret(text) { Cow::Owned(hidden(text)) } else { Cow::Borrowed(text) }
}

/// The name of an environment variable if it is safe to show: `[A-Z_][A-Z0-9_]*`, at most 64 characters, without a key
/// in it.
pub(super) fn variable(name: &str) -> Cow<'_, str> {
    let is_first = name.bytes().next().is_some_and(|b| b.is_ascii_uppercase() || b == b'_');
    let is_name = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if is_first && is_name && name.len() <= MAX_NAME && !looks_secret(name) {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(format!("with a name of {} characters, not shown", name.chars().count()))
    }
}

/// A key path, with those parts hidden that are no valid names.
pub(super) fn path(path: &str) -> String {
    path.split('.').map(part).collect::<Vec<_>>().join(".")
}

fn part(part: &str) -> Cow<'_, str> {
    let is_name = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if is_name && part.len() <= MAX_NAME && !looks_secret(part) {
        Cow::Borrowed(part)
    } else {
        Cow::Owned(hidden(part))
    }
}

/// True if `text` could be a key, an access token, a password in a URL or a mnemonic phrase.
pub(crate) fn looks_secret(text: &str) -> bool {
    if text.chars().count() > MAX_SHOWN || text.chars().any(char::is_control) {
        return true;
    }
    // An API key, or a reference to a secret, also inside a list or a table: whatever follows belongs to it.
    if text.contains("password") || text.contains(KEY_MARK) || REFERENCES.iter().any(|form| text.contains(form)) {
        return true;
    }
    if text.split_whitespace().count() >= PHRASE_WORDS {
        return true;
    }
    if let Some((_, rest)) = text.split_once("://") {
        // Scheme and host only: an origin.
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return true;
        }
    }
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_token)
}

/// True if a path is a reference to a secret. Other secret-looking texts may be paths: directories have long names.
pub(super) fn is_reference(path: &str) -> bool {
    path.contains("password=") || REFERENCES.iter().any(|form| path.starts_with(form))
}

/// True if these letters and digits look like a key or a token.
fn is_token(run: &str) -> bool {
    let digits = run.strip_prefix("0x").or_else(|| run.strip_prefix("0X")).unwrap_or(run);
    let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex && digits.len() == ADDRESS_DIGITS {
        return false;
    }
    let longest = run.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap_or(0);
    let count = |of: fn(&u8) -> bool| run.bytes().filter(of).count();
    let (digits, upper, lower) =
        (count(u8::is_ascii_digit), count(u8::is_ascii_uppercase), count(u8::is_ascii_lowercase));
    let is_mixed = digits >= 2 && upper + lower >= 2 || digits >= 1 && upper >= 1 && lower >= 1;
    longest >= KEY_DIGITS || run.len() >= TOKEN_LEN && is_mixed
}

/// The message of a library without the value that it is about: only the expected type, or the missing name.
pub(super) fn expectation(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    if line.starts_with("missing field") {
        return line.to_owned();
    }
    if let Some((name, _)) = line.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        return format!("`{}` is not a key here", path(name));
    }
    // The last one: the value before it may contain the word itself.
    if let Some((_, expected)) = line.rsplit_once(", expected ") {
        return format!("expected {expected}");
    }
    for known in [
        "not a hexadecimal integer",
        "not a non-negative integer",
        "not a decimal integer",
        "too large",
        "above 2^256 - 1",
    ] {
        if line.ends_with(known) {
            return format!("is {known}");
        }
    }
    "can't be read as what this key needs".to_owned()
}

/// A message about text that could not be parsed, without the quoted parts.
pub(super) fn unquoted(message: &str) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some(start) = rest.find(['`', '"', '\'']) {
        let quote = &rest[start..=start];
        let (before, after) = (&rest[..start], &rest[start + 1..]);
        out.push_str(before);
        let Some(end) = after.find(quote) else {
            rest = "";
            break;
        };
        let content = &after[..end];
        // Punctuation is the parser's own.
        out.push_str(quote);
        out.push_str(if content.chars().any(char::is_alphanumeric) { "…" } else { content });
        out.push_str(quote);
        rest = &after[end + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_recognised_and_names_are_not() {
        for secret in [
            "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
            "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
            "sw_shop_x",
            "https://eth.example.org/v2/abc",
            "postgres://relay:hunter2@db",
            "wJalrXUtnFEMIK7MDENG",
            "a b c d e f g h i j k l",
            "two\nlines",
        ] {
            assert!(looks_secret(secret), "{secret}");
            assert!(!shown(secret).contains("ac0974") && !shown(secret).contains("hunter2"));
        }
        for plain in [
            "127.0.0.1:7700",
            "https://app.example.org",
            "/var/lib/slackwater/ledger.db",
            "info,slackwater::relay::lane_shell=debug",
            "0xcA11bde05977b3631167028862bE2a173976CA11",
            "keys/0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266.json",
            "slackwater-europe-west-production-1",
            "",
        ] {
            assert!(!looks_secret(plain), "{plain}");
        }
    }

    #[test]
    fn a_reference_is_no_path() {
        for form in ["env:LEDGER", "file:/run/secrets/ledger", "inline:hunter2", "keystore:key.json,password=env:A"] {
            assert!(is_reference(form) && looks_secret(form), "{form}");
        }
        for path in
            ["/data/0a1b2c3d4e5f60718293a4b5c6d7e8f9/ledger.db", "/home/sw_ops/ledger.db", "profile:a/ledger.db"]
        {
            assert!(!is_reference(path), "{path}");
        }
    }

    #[test]
    fn variables_are_shown_only_if_they_are_names() {
        for name in ["RELAYER_KEY_0", "_A", "A"] {
            assert_eq!(variable(name), name);
        }
        let key = "AC0974BEC39A17E36BA4A6B4D238FF944BACB478CBED5EFCAE784D7BF4F2FF80";
        for name in [key, &key.to_lowercase(), "hunter2", "0ABC", &"A".repeat(65)] {
            assert!(!variable(name).contains(name), "{name}");
        }
    }

    #[test]
    fn messages_of_libraries_lose_their_values() {
        for message in [
            "invalid type: string \"hunter2\", expected u64",
            "invalid type: string \"x, expected hunter2\", expected u64",
            "unknown variant `hunter2`, expected one of `a`, `b`",
            "hunter2: not a non-negative integer",
            "odd hunter2",
        ] {
            assert!(!expectation(message).contains("hunter2"), "{message}");
        }
        assert_eq!(expectation("missing field `kind`"), "missing field `kind`");
        assert_eq!(expectation("unknown field `blocktime_ms`, expected x"), "`blocktime_ms` is not a key here");
        assert_eq!(
            unquoted("duplicate key `hunter2` in 'hunter2', expected `=`"),
            "duplicate key `…` in '…', expected `=`"
        );
        assert!(!unquoted("broken `hunter2").contains("hunter2"));
    }
}
