//! Falsified answers.

use alloy_primitives::{B256, U64, U256};
use serde_json::{Value, json};

use super::fault::{FALSE_TIP_WEI, ReceiptLie};

/// Methods with a block parameter, and its index.
const BLOCK_PARAMETERS: [(&str, usize); 8] = [
    ("eth_getBlockByNumber", 0),
    ("eth_getBlockReceipts", 0),
    ("eth_getTransactionCount", 1),
    ("eth_getBalance", 1),
    ("eth_getCode", 1),
    ("eth_call", 1),
    ("eth_estimateGas", 1),
    ("eth_feeHistory", 1),
];

/// Replaces the tags that mean the head.
pub(super) fn make_stale(call: &mut Value, method: &str, newest: u64) {
    let Some((_, place)) = BLOCK_PARAMETERS.iter().find(|(name, _)| *name == method) else { return };
    if let Some(parameter) = call["params"].get_mut(*place)
        && matches!(parameter.as_str(), Some("latest" | "pending"))
    {
        *parameter = json!(U64::from(newest));
    }
}

/// Removes everything that a node without blocks after `newest` can't know.
pub(super) fn hide_newer(answer: &mut Value, method: &str, newest: u64) {
    let result = &mut answer["result"];
    match method {
        "eth_blockNumber" => *result = json!(U64::from(newest)),
        "eth_getTransactionReceipt" if quantity(&result["blockNumber"]).is_some_and(|block| block > newest) => {
            *result = Value::Null;
        }
        "eth_getTransactionByHash" if quantity(&result["blockNumber"]).is_some_and(|block| block > newest) => {
            for field in ["blockNumber", "blockHash", "transactionIndex"] {
                result[field] = Value::Null;
            }
        }
        "eth_getBlockByNumber" | "eth_getBlockByHash"
            if quantity(&result["number"]).is_some_and(|block| block > newest) =>
        {
            *result = Value::Null;
        }
        "eth_getBlockReceipts" if quantity(&result[0]["blockNumber"]).is_some_and(|block| block > newest) => {
            *result = Value::Null;
        }
        _ => {}
    }
}

/// A receipt of a transaction that failed in this block.
pub(super) fn invent(transaction: &Value, header: &Value) -> Value {
    json!({
        "transactionHash": transaction, "transactionIndex": "0x0", "blockNumber": header["number"], "blockHash": header["hash"],
        "status": "0x0", "gasUsed": "0x5208", "effectiveGasPrice": "0x3b9aca00", "logs": [],
    })
}

pub(super) fn lie_about(result: &mut Value, lie: ReceiptLie) {
    if lie == ReceiptLie::Null {
        *result = Value::Null;
        return;
    }
    let receipts: Vec<&mut Value> = match result {
        Value::Array(receipts) => receipts.iter_mut().collect(),
        Value::Object(_) => vec![result],
        _ => Vec::new(),
    };
    for receipt in receipts {
        match lie {
            ReceiptLie::Null | ReceiptLie::Invented { .. } => {}
            ReceiptLie::Dear => inflate(&mut receipt["effectiveGasPrice"], 1_000),
            ReceiptLie::Failed => {
                receipt["status"] = json!("0x0");
                receipt["logs"] = json!([]);
            }
            ReceiptLie::OtherBlock => receipt["blockHash"] = json!(B256::repeat_byte(0xee)),
        }
    }
}

/// One fee, or a list of them.
pub(super) fn inflate(fees: &mut Value, times: u64) {
    match fees {
        Value::Array(fees) => fees.iter_mut().for_each(|fee| inflate(fee, times)),
        Value::String(_) => *fees = json!(wide_quantity(fees).saturating_mul(U256::from(times))),
        _ => {}
    }
}

/// Falsifies everything but the base fees of existing blocks.
pub(super) fn tell_half_the_truth(result: &mut Value) {
    if let Some(header) = result.as_object_mut().filter(|header| header.contains_key("gasLimit")) {
        header["gasUsed"] = header["gasLimit"].clone();
    }
    if let Some(ratios) = result["gasUsedRatio"].as_array_mut() {
        ratios.iter_mut().for_each(|ratio| *ratio = json!(1.0));
    }
    if let Some(blocks) = result["reward"].as_array_mut() {
        let tips = blocks.iter_mut().filter_map(Value::as_array_mut).flatten();
        tips.for_each(|tip| *tip = json!(U64::from(FALSE_TIP_WEI)));
    }
    if let Some([.., last, next]) = result["baseFeePerGas"].as_array_mut().map(Vec::as_mut_slice) {
        let fee = wide_quantity(last);
        *next = json!(fee + fee / U256::from(8));
    }
}

pub(super) fn quantity(value: &Value) -> Option<u64> {
    serde_json::from_value::<U64>(value.clone()).ok().map(|number| number.to())
}

pub(super) fn wide_quantity(value: &Value) -> U256 {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_node_knows_nothing_newer() {
        let mut call = json!({ "params": ["0x00", "latest"] });
        make_stale(&mut call, "eth_getTransactionCount", 7);
        assert_eq!(call["params"][1], "0x7");
        let mut answer = json!({ "result": { "blockNumber": "0x8", "status": "0x1" } });
        hide_newer(&mut answer, "eth_getTransactionReceipt", 8);
        assert!(!answer["result"].is_null());
        hide_newer(&mut answer, "eth_getTransactionReceipt", 7);
        assert!(answer["result"].is_null());
    }
}
