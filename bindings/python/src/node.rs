//! Queries to the user's own node.

use alloy_primitives::U256;
use pyo3::{IntoPyObjectExt as _, prelude::*};
use serde_json::json;
use slackwater_client::{
    Event, RequestDetail,
    rpc::{self, BlockRef, RpcCall, RpcError},
    verify::{self, Binding, InclusionClaim, Verdict},
};
use slackwater_core::chain::FinalityRule;

use crate::{
    error::{argument, failure},
    forward::{Forward, ForwarderDomain},
    value::{Uint, int, parse, text, write},
};

#[derive(Debug)]
enum Ask {
    ChainId(RpcCall<u64>),
    Nonce(RpcCall<U256>),
    Domain(RpcCall<slackwater_core::request::ForwarderDomain>),
}

/// A query: send `body`, pass the answer to `parse`.
#[pyclass(frozen, module = "slackwater")]
#[derive(Debug)]
pub(crate) struct NodeCall(Ask);

#[pymethods]
impl NodeCall {
    #[staticmethod]
    fn chain_id() -> Self {
        Self(Ask::ChainId(rpc::chain_id()))
    }

    #[staticmethod]
    fn nonce(forwarder: &str, owner: &str) -> PyResult<Self> {
        let call = rpc::nonces(text("forwarder", forwarder)?, text("owner", owner)?, BlockRef::Tag("latest"));
        Ok(Self(Ask::Nonce(call)))
    }

    #[staticmethod]
    fn domain(forwarder: &str) -> PyResult<Self> {
        Ok(Self(Ask::Domain(rpc::forwarder_domain(text("forwarder", forwarder)?))))
    }

    #[getter]
    fn body(&self) -> String {
        match &self.0 {
            Ask::ChainId(call) => call.body(),
            Ask::Nonce(call) => call.body(),
            Ask::Domain(call) => call.body(),
        }
    }

    fn parse<'py>(&self, py: Python<'py>, answer: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let node_error = |error: RpcError| failure("node_error", error);
        match &self.0 {
            Ask::ChainId(call) => call.parse(answer).map_err(node_error)?.into_bound_py_any(py),
            Ask::Nonce(call) => int(py, call.parse(answer).map_err(node_error)?),
            Ask::Domain(call) => ForwarderDomain(call.parse(answer).map_err(node_error)?).into_bound_py_any(py),
        }
    }
}

/// Check that a forwarder is safe to sign for: send all `bodies`, pass the answers to `judge`.
#[pyclass(frozen, module = "slackwater")]
#[derive(Debug)]
pub(crate) struct ForwarderCheck(verify::ForwarderCheck);

#[pymethods]
impl ForwarderCheck {
    #[new]
    #[pyo3(signature = (chain_id, forwarder, target, *, pinned=false))]
    fn new(chain_id: Uint<u64>, forwarder: &str, target: &str, pinned: bool) -> PyResult<Self> {
        let check = verify::ForwarderCheck::new(chain_id.0, text("forwarder", forwarder)?, text("to", target)?);
        Ok(Self(if pinned { check.pinned() } else { check }))
    }

    #[getter]
    fn bodies(&self) -> Vec<String> {
        self.0.bodies()
    }

    fn judge(&self, answers: Vec<Vec<u8>>) -> PyResult<ForwarderDomain> {
        self.0.judge(&answers).map(ForwarderDomain).map_err(|fault| failure(fault.code(), fault))
    }
}

/// Checks a relayer's claims about the chain at the user's own node.
#[pyclass(module = "slackwater")]
#[derive(Debug)]
pub(crate) struct InclusionCheck(verify::InclusionCheck);

#[pymethods]
impl InclusionCheck {
    /// `claim` is an event or a request of the API. `depth` replaces the node's `finalized` tag. With `pinned`, the
    /// forwarder may have any code.
    #[new]
    #[pyo3(signature = (forward, claim, *, finality="finalized", depth=None, pinned=false))]
    fn new(forward: &Forward, claim: &str, finality: &str, depth: Option<u64>, pinned: bool) -> PyResult<Self> {
        let claim = match serde_json::from_str::<RequestDetail>(claim) {
            Ok(detail) if detail.summary.id.to_string() != forward.id() => {
                return Err(argument("claim: it is about another request"));
            }
            Ok(detail) => InclusionClaim::of_summary(&detail.summary),
            Err(_) => {
                let event: Event = parse("claim", claim)?;
                if event.request_id.to_string() != forward.id() {
                    return Err(argument("claim: it is about another request"));
                }
                InclusionClaim::of_event(&event)
            }
        };
        let claim = claim.ok_or_else(|| failure("no_claim", "it does not say that the request was executed"))?;
        let rule = match (finality, depth) {
            ("finalized", depth) => FinalityRule::FinalizedTag { fallback_depth: depth.unwrap_or(0) },
            ("safe", None) => FinalityRule::SafeTag,
            ("depth", Some(blocks)) => FinalityRule::Depth { blocks },
            _ => return Err(argument("finality: `finalized`, `safe`, or `depth` with `depth=`")),
        };
        let check = verify::InclusionCheck::new(forward.domain.clone(), forward.inner.clone(), claim, rule);
        Ok(Self(if pinned { check.pinned() } else { check }))
    }

    fn next_body(&self) -> Option<String> {
        self.0.next_body()
    }

    fn answer(&mut self, body: &[u8]) {
        self.0.answer(body);
    }

    fn no_answer(&mut self, why: &str) {
        self.0.no_answer(why);
    }

    fn verdict(&self) -> PyResult<Option<String>> {
        let Some(verdict) = self.0.verdict() else { return Ok(None) };
        let out = match verdict {
            Verdict::Confirmed { is_final, is_success, block_number, block_hash, binding } => json!({
                "kind": "confirmed",
                "isFinal": is_final,
                "isSuccess": is_success,
                "blockNumber": block_number,
                "blockHash": block_hash,
                "binding": match binding {
                    Binding::Content => "content",
                    Binding::Nonce => "nonce",
                },
            }),
            Verdict::Pending => json!({ "kind": "pending" }),
            Verdict::UntrustedForwarder => {
                json!({ "kind": "untrusted_forwarder", "detail": "the target does not trust the forwarder" })
            }
            Verdict::UnknownForwarder { code_hash } => json!({
                "kind": "unknown_forwarder",
                "detail": format!("code with hash {code_hash} is no known forwarder"),
            }),
            Verdict::Mismatch(mismatch) => json!({ "kind": "mismatch", "detail": mismatch.to_string() }),
            Verdict::Unknown(detail) => json!({ "kind": "unknown", "detail": detail }),
        };
        write(&out).map(Some)
    }
}
