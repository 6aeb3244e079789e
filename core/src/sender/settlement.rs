//! Final transactions on their way to being settled.

use std::sync::Arc;

use alloy_primitives::Address;

use super::flight::Flight;
use crate::{
    lane::AttemptKind,
    request::{
        BatchId, VerifiedRequest,
        outcome::{MemberOutcome, TxReceipt},
        settlement::{Culprit, Payer},
        vehicle::{VehicleKey, VehicleParams},
    },
    time::Timestamp,
};

/// A final lane nonce and the transaction it carried.
#[derive(Debug)]
pub(crate) struct Settlement {
    pub(crate) id: BatchId,
    pub(crate) flight: Flight,
    /// Kind of the mined attempt; `None` if the transaction was not ours.
    pub(crate) kind: Option<AttemptKind>,
    pub(crate) receipt: Option<Box<TxReceipt>>,
    /// Outcome for each present member, in order.
    pub(crate) outcomes: Vec<MemberOutcome>,
    /// The member responsible for cost that no simulation had shown; `None` if there was no search or no result.
    pub(crate) culprit: Option<Culprit>,
    /// Index of the mined content in the flight's earlier contents; `None` if the present one was mined. An earlier
    /// content can be mined if every node refused it and one kept it all the same. For an empty transaction in a nonce
    /// without members: the content for which it was sent, else the last one.
    pub(crate) earlier: Option<usize>,
}

/// A pending [`Settlement`].
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) settlement: Settlement,
    /// True while the nodes are asked for its users' nonces.
    pub(crate) is_asked: bool,
    /// True while a culprit is searched for.
    pub(crate) is_searched: bool,
    pub(crate) since: Timestamp,
}

/// A final transaction that used more gas than is known of its members.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) key: VehicleKey,
    /// The contract that the transaction called.
    pub(crate) contract: Address,
    pub(crate) members: Vec<Arc<VerifiedRequest>>,
    pub(crate) payers: Vec<Payer>,
    pub(crate) receipt: TxReceipt,
    /// Parameters of the lane that sent it.
    pub(crate) params: VehicleParams,
}
