//! The native module of the Python package: an interface without logic.
//!
//! All decisions are made by the crates `slackwater-core` and `slackwater-client`; Python transfers bytes, keeps time
//! and waits. Structured values cross as JSON, whole numbers as Python's `int` of any size. Invalid input raises an
//! exception with a stable code, never a panic.

mod error;
mod exchange;
mod fees;
mod follow;
mod forecaster;
mod forward;
mod node;
mod outbox;
mod submission;
mod value;
mod verify;

use pyo3::prelude::*;

/// `slackwater._native`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::{
        exchange::Exchange,
        fees::{classify_rpc_error, max_base_fee_after, next_base_fee},
        follow::Follow,
        forecaster::Forecaster,
        forward::{Forward, ForwarderDomain, Key, UnsignedForward, recover_signer},
        node::{ForwarderCheck, InclusionCheck, NodeCall},
        outbox::Outbox,
        submission::Submission,
        verify::{merkle_leaf, verify_accepted, verify_log, verify_log_proof, verify_merkle_proof},
    };

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
