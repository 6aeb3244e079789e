//! Redaction of URL secrets from nodes' texts: some providers repeat the URL, or the project's id, in their errors.

use super::MAX_ERROR_BYTES;

/// Least length of a URL's path segment, query value or password to count as a possible access key.
const MIN_KEY_LEN: usize = 16;
/// Placeholder for a redacted part.
const GAP: &str = "…";

/// The secret parts of `url`: its host, its user info, and every long part of its path and query.
pub(in crate::relay) fn parts(url: &str) -> Vec<String> {
    let Some((_, rest)) = url.split_once("://") else { return Vec::new() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (user, host) = rest[..end].rsplit_once('@').unwrap_or(("", &rest[..end]));
    let long = rest[end..].split(['/', '?', '#', '&', '=']).filter(|part| part.len() >= MIN_KEY_LEN);
    let user = user.split(':').filter(|part| part.len() > 3);
    let mut parts: Vec<String> = std::iter::once(host).chain(user).chain(long).map(str::to_owned).collect();
    // The host without its port is secret too.
    if let Some((name, _)) = host.rsplit_once(':') {
        parts.push(name.to_owned());
    }
    parts.retain(|part| !part.is_empty());
    // Longest first: a shorter part may be contained in a longer one.
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts
}

/// `text` without those parts, and without the text after any `://`.
pub(in crate::relay) fn cut<'a>(text: &str, parts: impl Iterator<Item = &'a str>) -> String {
    // The text is truncated further later on; a part cut in two here lies beyond that limit.
    let mut end = text.len().min(MAX_ERROR_BYTES * 16);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut text = text[..end].to_owned();
    for part in parts {
        let (mut out, mut rest) = (String::with_capacity(text.len()), text.as_str());
        while let Some(at) = find(rest, part) {
            out.push_str(&rest[..at]);
            out.push_str(GAP);
            rest = &rest[at + part.len()..];
        }
        out.push_str(rest);
        text = out;
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text.as_str());
    while let Some(at) = rest.find("://") {
        let after = &rest[at + 3..];
        let end = after.find(|c: char| c.is_whitespace() || "\"'`<>)]}".contains(c)).unwrap_or(after.len());
        out.push_str(&rest[..at + 3]);
        if end > 0 {
            out.push_str(GAP);
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// Index of `part` in `text`, ignoring ASCII case; `None` if absent.
fn find(text: &str, part: &str) -> Option<usize> {
    let (text, part) = (text.as_bytes(), part.as_bytes());
    text.windows(part.len()).position(|window| window.eq_ignore_ascii_case(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_do_not_repeat_the_url_of_the_node() {
        let url = "https://me:hunter2@eth-mainnet.example.org:8443/v2/0123456789abcdefXYZ?apikey=fedcba9876543210";
        let parts = parts(url);
        let told = |text: &str| cut(text, parts.iter().map(String::as_str));
        for text in [
            url,
            "project 0123456789ABCDEFxyz has no credits",
            "quota of eth-mainnet.example.org exceeded",
            "POST /v2/0123456789abcdefXYZ?apikey=fedcba9876543210 is forbidden",
            "see wss://other.example.org/0123456789abcdefXYZ",
            "user me:hunter2",
        ] {
            let told = told(text).to_lowercase();
            for secret in ["hunter2", "eth-mainnet", "0123456789abcdef", "fedcba98", "other.example"] {
                assert!(!told.contains(secret), "{text}: {told}");
            }
        }
        assert_eq!(told("nonce too low: next nonce 5, tx nonce 4"), "nonce too low: next nonce 5, tx nonce 4");
        assert_eq!(told("see https://docs.example.org/limits, please"), "see https://… please");
        assert!(super::parts("no url").is_empty());
    }
}
