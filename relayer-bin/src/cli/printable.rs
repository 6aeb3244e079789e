//! Sanitises text from outside, so that a terminal displays it and does nothing else.

use std::borrow::Cow;

use serde_json::Value;

/// Replaces a character that a terminal, or a reader, would take for something else.
const REPLACEMENT: char = '\u{fffd}';

/// True for control characters, which move the cursor or change the title, and for direction marks and zero-width
/// characters, which disguise text.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// `text` in printable form: one line, without escapes.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_hidden) {
        Cow::Owned(text.chars().map(|c| if is_hidden(c) { REPLACEMENT } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// As [`printable`], for a message of ours of several lines.
pub(super) fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// As [`printable`], for every text and name of a JSON answer.
pub(super) fn printable_json(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(printable(&text).into_owned()),
        Value::Array(items) => Value::Array(items.into_iter().map(printable_json).collect()),
        Value::Object(members) => Value::Object(
            members.into_iter().map(|(name, value)| (printable(&name).into_owned(), printable_json(value))).collect(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_from_outside_steers_the_terminal() {
        assert_eq!(printable("héllo"), "héllo");
        for text in ["\u{1b}]0;title\u{7}", "\u{9b}31m", "a\rb", "a\nb", "\u{202e}gnp", "\u{200b}"] {
            let told = printable(text);
            assert!(!told.chars().any(is_hidden), "{text:?}");
        }
        assert_eq!(printable_lines("one\ntwo\u{1b}[2J"), "one\ntwo\u{fffd}[2J");
        let answer = printable_json(json!({ "a\u{1b}": ["\u{1b}[31m", 1, null] }));
        assert_eq!(answer, json!({ "a\u{fffd}": ["\u{fffd}[31m", 1, null] }));
    }
}
