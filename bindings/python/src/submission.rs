//! Submissions to a relayer.

use alloy_primitives::U256;
use pyo3::prelude::*;
use slackwater_client::{CallAsk, IdempotencyKey, Submit};
use slackwater_core::{Timestamp, request::Authorization};

use crate::{
    error::{argument, client as client_error},
    forward::Forward,
    value::{Uint, hash, repr, span, text},
};

/// One request, ready to be sent.
#[pyclass(frozen, module = "slackwater")]
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) inner: Submit,
    pub(crate) id: Option<String>,
}

/// Applies the options that all kinds of requests share.
fn limits(
    mut submit: Submit,
    within: Option<f64>,
    deadline: Option<Uint<u64>>,
    max_cost_wei: Option<Uint<U256>>,
    idempotency_key: Option<String>,
) -> PyResult<Submit> {
    submit = match (span("within", within)?, deadline) {
        (Some(_), Some(_)) => return Err(argument("`within` excludes `deadline`")),
        (Some(within), None) => submit.within(within),
        (None, Some(at)) => submit.deadline(Timestamp::from_secs(at.0)),
        (None, None) => submit,
    };
    if let Some(wei) = max_cost_wei {
        submit = submit.max_cost_wei(wei.0);
    }
    if let Some(key) = idempotency_key {
        submit = submit.idempotency_key(IdempotencyKey::new(key).map_err(|error| client_error(&error))?);
    }
    Ok(submit)
}

#[pymethods]
impl Submission {
    #[staticmethod]
    #[pyo3(signature = (forward, *, within=None, deadline=None, max_cost_wei=None, idempotency_key=None))]
    fn forward(
        forward: &Forward,
        within: Option<f64>,
        deadline: Option<Uint<u64>>,
        max_cost_wei: Option<Uint<U256>>,
        idempotency_key: Option<String>,
    ) -> PyResult<Self> {
        let submit = Submit::forward(forward.domain.chain_id(), forward.inner.clone());
        let inner = limits(submit, within, deadline, max_cost_wei, idempotency_key)?;
        Ok(Self { inner, id: Some(forward.id()) })
    }

    #[staticmethod]
    #[pyo3(signature = (chain_id, to, *, salt, gas, data=Vec::new(), value=None, any_sender=false, within=None,
        deadline=None, max_cost_wei=None, idempotency_key=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn call(
        chain_id: Uint<u64>,
        to: &str,
        salt: &[u8],
        gas: Uint<u64>,
        data: Vec<u8>,
        value: Option<Uint<U256>>,
        any_sender: bool,
        within: Option<f64>,
        deadline: Option<Uint<u64>>,
        max_cost_wei: Option<Uint<U256>>,
        idempotency_key: Option<String>,
    ) -> PyResult<Self> {
        let value = value.map_or(U256::ZERO, |value| value.0);
        let ask = CallAsk { to: text("to", to)?, value, gas: gas.0, data: data.into(), any_sender };
        let submit = Submit::call(chain_id.0, ask, salt);
        Ok(Self { inner: limits(submit, within, deadline, max_cost_wei, idempotency_key)?, id: None })
    }

    #[staticmethod]
    #[pyo3(signature = (chain_id, token, *, payer, payee, value, valid_before, nonce, signature, valid_after=None,
        within=None, deadline=None, max_cost_wei=None, idempotency_key=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn authorization(
        chain_id: Uint<u64>,
        token: &str,
        payer: &str,
        payee: &str,
        value: Uint<U256>,
        valid_before: Uint<U256>,
        nonce: &[u8],
        signature: Vec<u8>,
        valid_after: Option<Uint<U256>>,
        within: Option<f64>,
        deadline: Option<Uint<u64>>,
        max_cost_wei: Option<Uint<U256>>,
        idempotency_key: Option<String>,
    ) -> PyResult<Self> {
        let authorization = Authorization {
            token: text("token", token)?,
            from: text("payer", payer)?,
            to: text("payee", payee)?,
            value: value.0,
            valid_after: valid_after.map_or(U256::ZERO, |after| after.0),
            valid_before: valid_before.0,
            nonce: hash("nonce", nonce)?,
            signature: signature.into(),
        };
        let submit = Submit::authorization(chain_id.0, authorization);
        Ok(Self { inner: limits(submit, within, deadline, max_cost_wei, idempotency_key)?, id: None })
    }

    #[getter]
    fn id(&self) -> Option<String> {
        self.id.clone()
    }

    #[getter]
    fn key(&self) -> String {
        self.inner.key().to_string()
    }

    #[getter]
    fn chain_id(&self) -> u64 {
        self.inner.chain_id()
    }

    #[getter]
    fn body(&self) -> String {
        self.inner.body()
    }

    fn __repr__(&self) -> String {
        repr("Submission", format_args!("chain_id={}, key='{}'", self.inner.chain_id(), self.inner.key()))
    }
}
