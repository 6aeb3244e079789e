//! The RPC error corpus: every recorded text gets its class, in upper or lower case.

use serde::Deserialize;
use slackwater_core::chain::{RpcErrorClass, Taken, classify};

#[derive(Deserialize)]
struct Corpus {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    class: String,
    client: String,
    code: Option<i64>,
    message: String,
}

fn corpus() -> Vec<Row> {
    let corpus: Corpus = serde_json::from_str(include_str!("../vectors/rpc_errors.json")).expect("the corpus parses");
    assert_eq!(corpus.rows.len(), 197, "rows may be added, with this number; none may go");
    corpus.rows
}

fn class_named(name: &str) -> RpcErrorClass {
    RpcErrorClass::ALL.into_iter().find(|class| format!("{class:?}") == name).expect(name)
}

#[test]
fn every_recorded_text_gets_its_class() {
    let mut wrong = Vec::new();
    for row in corpus() {
        let expect = class_named(&row.class);
        let code = row.code.unwrap_or(0);
        for message in [row.message.clone(), row.message.to_uppercase(), format!("  {}\n", row.message)] {
            let class = classify(code, &message, None);
            if class != expect {
                wrong.push(format!("{} {code} {message:?}: {class}, expected {expect}", row.client));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_text_decides_and_not_the_code() {
    for row in corpus() {
        let expect = class_named(&row.class);
        // These codes mean different things in different clients, so none of them may change a class.
        for code in [0, 3, -32_000, -32_003, -32_005, -32_010, -32_603] {
            assert_eq!(classify(code, &row.message, None), expect, "{} with code {code}", row.message);
        }
    }
}

#[test]
fn a_contract_cannot_choose_the_class() {
    // Any recorded text as a revert reason, in every form in which nodes and replicas report reverts.
    for row in corpus() {
        let reason = row.message;
        for text in [
            format!("execution reverted: {reason}"),
            format!("Execution reverted ({reason})"),
            format!("VM Exception while processing transaction: reverted with reason string '{reason}'"),
            format!("failed to validate the transaction. reason: Validation revert: {reason}"),
            format!(
                "failed to forward tx to sequencer, please try again. Error message: 'execution reverted: {reason}'"
            ),
            format!("transaction reverted: {reason}"),
            format!("err: execution reverted: {reason} (supplied gas 100000)"),
        ] {
            let class = classify(3, &text, Some(&reason));
            assert_eq!(class, RpcErrorClass::Reverted, "{text}");
            assert_eq!(class.taken(), Taken::No);
        }
        // The reason may also come in `data`, which is never searched.
        assert_eq!(classify(3, "execution reverted", Some(&reason)), RpcErrorClass::Reverted);
        assert_eq!(classify(-32_000, "no idea", Some(&reason)), RpcErrorClass::Unknown);
    }
}

#[test]
fn specific_before_general() {
    use RpcErrorClass as C;
    for (message, class) in [
        ("replacement transaction underpriced", C::ReplacementUnderpriced),
        ("transaction underpriced", C::Underpriced),
        ("Gas price below current base fee", C::FeeCapBelowBaseFee),
        ("intrinsic gas too high -- GasFloorMoreThanGasLimit", C::GasTooLow),
        ("intrinsic gas too high", C::GasTooHigh),
        ("delegation nonce gap", C::DelegatedLimit),
        ("authority already reserved", C::AuthorityBusy),
        ("account limit exceeded: pooled 16 txs", C::PoolFull),
        ("limit exceeded", C::RateLimited),
        ("nonce has max value", C::BadTransaction),
    ] {
        assert_eq!(classify(-32_000, message, None), class, "{message}");
    }
}
