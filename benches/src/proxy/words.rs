//! Clients' real error texts.

use serde::Deserialize;
use serde_json::{Value, json};
use slackwater_core::chain::RpcErrorClass;

#[derive(Deserialize)]
struct Corpus {
    rows: Vec<CorpusRow>,
}

#[derive(Deserialize)]
struct CorpusRow {
    class: String,
    client: String,
    code: Option<i64>,
    message: String,
}

/// The real error of `client` for `class`: code and text. If the corpus has none of that client, another client's.
///
/// # Panics
/// If the corpus has none at all for `class`.
pub fn error_text(client: &str, class: RpcErrorClass) -> (i64, String) {
    let corpus: Corpus = serde_json::from_str(include_str!("../../../core/pure/tests/vectors/rpc_errors.json"))
        .unwrap_or_else(|error| panic!("rpc_errors.json: {error}"));
    let name = format!("{class:?}");
    let mut rows: Vec<_> = corpus.rows.into_iter().filter(|row| row.class == name).collect();
    // Stable: the corpus has the current text of each client first.
    rows.sort_by_key(|row| row.client != client);
    let row = rows.into_iter().next().unwrap_or_else(|| panic!("rpc_errors.json has no {name}"));
    (row.code.unwrap_or(-32_000), row.message)
}

pub(super) fn refusal(id: &Value, client: &str, class: RpcErrorClass) -> Value {
    let (code, message) = error_text(client, class);
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_each_client() {
        let (code, text) = error_text("besu", RpcErrorClass::ReplacementUnderpriced);
        assert_eq!((code, text.as_str()), (-32_000, "Replacement transaction underpriced"));
        let (_, text) = error_text("reth", RpcErrorClass::PoolFull);
        assert!(!text.is_empty());
    }
}
