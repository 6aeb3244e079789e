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
pub struct Settlement {
    /// Batch of the nonce.
    pub id: BatchId,
    /// Content of the nonce.
    pub flight: Flight,
    /// Kind of the mined attempt; `None` if the transaction was not ours.
    pub kind: Option<AttemptKind>,
    /// Receipt of the final transaction; `None` if it was not ours.
    pub receipt: Option<Box<TxReceipt>>,
    /// Outcome for each present member, in order.
    pub outcomes: Vec<MemberOutcome>,
    /// The member responsible for cost that no simulation had shown; `None` if there was no search or no result.
    pub culprit: Option<Culprit>,
    /// Index of the mined content in the flight's earlier contents; `None` if the present one was mined. An earlier
    /// content can be mined if every node refused it and one kept it all the same. For an empty transaction in a nonce
    /// without members: the content for which it was sent, else the last one.
    pub earlier: Option<usize>,
}

/// A pending [`Settlement`].
#[derive(Debug)]
pub struct Waiting {
    pub settlement: Settlement,
    /// True while the nodes are asked for its users' nonces.
    pub is_asked: bool,
    /// True while a culprit is searched for.
    pub is_searched: bool,
    pub since: Timestamp,
}

/// A final transaction that used more gas than is known of its members.
#[derive(Debug)]
pub struct Case {
    /// Kind of transaction.
    pub key: VehicleKey,
    /// The contract that the transaction called.
    pub contract: Address,
    /// Requests in the order of the calldata.
    pub members: Vec<Arc<VerifiedRequest>>,
    /// Payer of each member, in order.
    pub payers: Vec<Payer>,
    /// Receipt of the transaction.
    pub receipt: TxReceipt,
    /// Parameters of the lane that sent it.
    pub params: VehicleParams,
}
