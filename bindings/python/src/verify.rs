//! Verification of a relayer's claims.

use alloy_primitives::{Address, B256};
use pyo3::prelude::*;
use slackwater_client::{
    Accepted,
    verify::{self, ExpectedPromise, LogProof},
};
use slackwater_core::provenance::{self, Entry, Head};

use crate::{
    error::{argument, client, failure},
    value::{Uint, hash, instant, parse, text},
};

/// Identities as Python gives them: one address, or several.
#[derive(FromPyObject)]
pub(crate) enum Relayers {
    One(String),
    Several(Vec<String>),
}

impl Relayers {
    /// The addresses, at least one.
    pub(crate) fn addresses(&self) -> PyResult<Vec<Address>> {
        let texts = match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        };
        if texts.is_empty() {
            // An empty list would accept any signer.
            return Err(argument("relayer: no identity is given"));
        }
        texts.iter().map(|one| text("relayer", one)).collect()
    }
}

/// Raises unless `accepted` (JSON) is a promise about this request signed by `relayer`, or by one of several.
#[pyfunction]
#[pyo3(signature = (accepted, request_id, chain_id, relayer, not_after=None))]
pub(crate) fn verify_accepted(
    accepted: &str,
    request_id: &str,
    chain_id: Uint<u64>,
    relayer: Relayers,
    not_after: Option<u64>,
) -> PyResult<()> {
    let accepted: Accepted = parse("accepted", accepted)?;
    let expected = ExpectedPromise {
        request: text("request_id", request_id)?,
        chain_id: chain_id.0,
        relayer: verify::pin_for(&relayer.addresses()?, &accepted.promise).unwrap_or_default(),
        not_after: not_after.map(instant),
    };
    verify::verify_accepted(&accepted, &expected).map_err(|fault| client(&fault.into()))
}

/// Raises unless the entries (JSON) form a chain from `start` to `published`.
#[pyfunction]
pub(crate) fn verify_log(start: &str, entries: &str, published: &str) -> PyResult<()> {
    let (start, published): (Head, Head) = (parse("start", start)?, parse("published", published)?);
    let entries: Vec<Entry> = parse("entries", entries)?;
    verify::verify_log(start, &entries, published).map_err(|fault| failure("bad_log", fault))
}

/// The decision (JSON), if the proof leads to `root`.
#[pyfunction]
pub(crate) fn verify_log_proof(proof: &str, root: &[u8]) -> PyResult<String> {
    let proof: LogProof = parse("proof", proof)?;
    let decision = proof.verify(hash("root", root)?).map_err(|fault| failure("bad_log", fault))?;
    Ok(decision.encode())
}

/// Merkle leaf of a 32-byte content.
#[pyfunction]
pub(crate) fn merkle_leaf(content: &[u8]) -> PyResult<[u8; 32]> {
    Ok(provenance::leaf_hash(hash("content", content)?).0)
}

/// True if `siblings` prove that `content` is under `root`.
#[pyfunction]
pub(crate) fn verify_merkle_proof(content: &[u8], siblings: Vec<Vec<u8>>, root: &[u8]) -> PyResult<bool> {
    let siblings: Vec<B256> = siblings.iter().map(|sibling| hash("sibling", sibling)).collect::<PyResult<_>>()?;
    Ok(provenance::verify(hash("content", content)?, &siblings, hash("root", root)?))
}
