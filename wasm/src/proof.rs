//! Verification of a relayer's claims.

use alloy_primitives::B256;
use serde::Deserialize;
use slackwater_core::{
    provenance,
    request::{Promise, RequestId},
};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::{
    interop::{Failure, read},
    scalar::{Account, Hash, Quantity},
};

#[wasm_bindgen]
extern "C" {
    /// `InclusionPromise` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "InclusionPromise")]
    #[derive(Debug)]
    pub type JsPromise;
    /// A list of hashes.
    #[wasm_bindgen(typescript_type = "readonly string[]")]
    #[derive(Debug)]
    pub type JsHashes;
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromiseBody {
    request_hash: Hash,
    chain_id: Quantity<u64>,
    deadline: Quantity<u64>,
    relayer: Account,
}

/// True if `signature` over the promise was made by the relayer that the promise names. Compare that name with the
/// expected relayer.
///
/// # Errors
/// `invalid_argument`, `invalid_signature` for a malformed signature.
#[wasm_bindgen(js_name = verifyPromise)]
pub fn verify_promise(promise: &JsPromise, signature: &str) -> Result<bool, Failure> {
    let body: PromiseBody = read("promise", promise)?;
    let promise = Promise {
        request_hash: RequestId(body.request_hash.0),
        chain_id: body.chain_id.0,
        deadline: body.deadline.0,
        relayer: body.relayer.0,
    };
    let signature = crate::request::bytes("signature", signature)?;
    promise.is_signed_by_relayer(&signature).map_err(|error| Failure::new("invalid_signature", error))
}

/// Merkle leaf of a 32-byte content.
///
/// # Errors
/// `invalid_argument`.
#[wasm_bindgen(js_name = merkleLeaf)]
pub fn merkle_leaf(content: &str) -> Result<String, Failure> {
    Ok(provenance::leaf_hash(hash("content", content)?).to_string())
}

/// True if `proof` proves that `content` is under `root`.
///
/// # Errors
/// `invalid_argument`.
#[wasm_bindgen(js_name = verifyMerkleProof)]
pub fn verify_merkle_proof(content: &str, proof: &JsHashes, root: &str) -> Result<bool, Failure> {
    let proof: Vec<Hash> = read("proof", proof)?;
    let proof: Vec<B256> = proof.into_iter().map(|hash| hash.0).collect();
    Ok(provenance::verify(hash("content", content)?, &proof, hash("root", root)?))
}

fn hash(what: &str, text: &str) -> Result<B256, Failure> {
    text.parse().map_err(|_| Failure::argument(format_args!("{what}: not a hash of 32 bytes")))
}
