//! Forward requests and their signatures.

use alloy_primitives::{Address, U256};
use pyo3::prelude::*;
use slackwater_client::{ForwardBuilder, KeySigner, SignDigest as _};
use slackwater_core::request;

use crate::{
    error::{argument, client as client_error, failure},
    value::{Uint, hash, int, repr, text},
};

/// The EIP-712 domain of an `ERC2771Forwarder`.
#[pyclass(frozen, eq, from_py_object, module = "slackwater")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwarderDomain(pub(crate) request::ForwarderDomain);

#[pymethods]
impl ForwarderDomain {
    #[new]
    fn new(name: String, chain_id: Uint<u64>, forwarder: &str) -> PyResult<Self> {
        let forwarder = text("forwarder", forwarder)?;
        Ok(Self(request::ForwarderDomain::new(name, chain_id.0, forwarder)))
    }

    #[getter]
    fn name(&self) -> String {
        self.0.name().to_owned()
    }

    #[getter]
    fn chain_id(&self) -> u64 {
        self.0.chain_id()
    }

    #[getter]
    fn forwarder(&self) -> String {
        self.0.forwarder().to_string()
    }

    fn __repr__(&self) -> String {
        repr("ForwarderDomain", format_args!("{:?}, {}, '{}'", self.0.name(), self.0.chain_id(), self.0.forwarder()))
    }
}

/// A request without its user's signature.
#[pyclass(frozen, module = "slackwater")]
#[derive(Debug)]
pub(crate) struct UnsignedForward(pub(crate) slackwater_client::UnsignedForward);

#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn builder(
    domain: &ForwarderDomain,
    sender: &str,
    to: &str,
    nonce: Option<Uint<U256>>,
    deadline: Uint<u64>,
    data: Vec<u8>,
    value: Option<Uint<U256>>,
    gas: Option<Uint<u64>>,
) -> PyResult<ForwardBuilder> {
    let (sender, to): (Address, Address) = (text("sender", sender)?, text("to", to)?);
    let mut builder = ForwardBuilder::new(domain.0.clone(), sender, to).data(data).deadline_s(deadline.0);
    builder = builder.value(value.map_or(U256::ZERO, |value| value.0));
    if let Some(nonce) = nonce {
        builder = builder.nonce(nonce.0);
    }
    if let Some(gas) = gas {
        builder = builder.gas(gas.0);
    }
    Ok(builder)
}

#[pymethods]
impl UnsignedForward {
    #[new]
    #[pyo3(signature = (domain, sender, to, *, nonce, deadline, data=Vec::new(), value=None, gas=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        domain: &ForwarderDomain,
        sender: &str,
        to: &str,
        nonce: Uint<U256>,
        deadline: Uint<u64>,
        data: Vec<u8>,
        value: Option<Uint<U256>>,
        gas: Option<Uint<u64>>,
    ) -> PyResult<Self> {
        let wanted = builder(domain, sender, to, Some(nonce), deadline, data, value, gas)?;
        wanted.build().map(Self).map_err(|error| client_error(&error))
    }

    #[getter]
    fn digest(&self) -> [u8; 32] {
        self.0.digest().0
    }

    #[getter]
    fn id(&self) -> String {
        self.0.id().to_string()
    }

    #[getter]
    fn sender(&self) -> String {
        self.0.forward().from.to_string()
    }

    #[getter]
    fn nonce<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        int(py, self.0.forward().nonce)
    }

    #[getter]
    fn typed_data_json(&self) -> String {
        self.0.typed_data()
    }

    fn with_signature(&self, signature: &[u8]) -> PyResult<Forward> {
        let signed = self.0.clone().with_signature(signature).map_err(|error| client_error(&error))?;
        Ok(Forward { domain: self.0.domain().clone(), inner: signed })
    }

    fn __repr__(&self) -> String {
        repr("UnsignedForward", format_args!("id='{}'", self.0.id()))
    }
}

/// A request with its user's signature.
#[pyclass(frozen, module = "slackwater")]
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) domain: request::ForwarderDomain,
    pub(crate) inner: request::Forward,
}

#[pymethods]
impl Forward {
    #[getter]
    pub(crate) fn id(&self) -> String {
        request::RequestId(self.domain.digest(&self.inner)).to_string()
    }

    #[getter]
    fn domain(&self) -> ForwarderDomain {
        ForwarderDomain(self.domain.clone())
    }

    #[getter]
    fn sender(&self) -> String {
        self.inner.from.to_string()
    }

    #[getter]
    fn nonce<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        int(py, self.inner.nonce)
    }

    #[getter]
    fn signature(&self) -> Vec<u8> {
        self.inner.signature.to_vec()
    }

    fn __repr__(&self) -> String {
        repr("Forward", format_args!("id='{}'", self.id()))
    }
}

/// A private key in memory, zeroed when it is dropped; shows only its address.
#[pyclass(frozen, module = "slackwater")]
#[derive(Debug)]
pub(crate) struct Key(KeySigner);

#[derive(FromPyObject)]
enum Secret {
    Text(String),
    Bytes(Vec<u8>),
}

#[pymethods]
impl Key {
    #[new]
    fn new(secret: Secret) -> PyResult<Self> {
        let key = match secret {
            Secret::Text(text) => KeySigner::from_hex(&text),
            Secret::Bytes(bytes) => {
                let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| argument("key: 32 bytes are needed"))?;
                KeySigner::from_bytes(&bytes)
            }
        };
        key.map(Self).map_err(|error| client_error(&error))
    }

    #[getter]
    fn address(&self) -> String {
        self.0.address().to_string()
    }

    fn sign_digest(&self, digest: &[u8]) -> PyResult<[u8; 65]> {
        self.0.sign_digest(hash("digest", digest)?).map_err(|error| failure("signing_failed", error))
    }

    fn __repr__(&self) -> String {
        repr("Key", format_args!("address='{}'", self.0.address()))
    }
}

/// Address of the signer of `digest`.
#[pyfunction]
pub(crate) fn recover_signer(digest: &[u8], signature: &[u8]) -> PyResult<String> {
    let signer = request::recover(hash("digest", digest)?, signature);
    signer.map(|signer| signer.to_string()).map_err(|error| failure("invalid_signature", error))
}
