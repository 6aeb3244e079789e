//! Messages to the service of one chain.

use tokio::{sync::oneshot, time::Instant};

use super::{
    cluster::Lease,
    error::CancelError,
    keys::LaneKey,
    models::{ModelCommand, ModelReply},
};
use crate::{request::RequestId, schedule::QueuedRequest, sender::Open};

/// Messages to the service of one chain.
#[derive(Debug)]
pub(super) enum Message {
    /// Accepted requests, already durable.
    Accepted(Vec<QueuedRequest>),
    /// Withdraw a waiting request.
    Cancel { tenant: String, id: RequestId, reply: oneshot::Sender<Result<(), CancelError>> },
    /// An operator's command on the forecast models.
    Models { command: ModelCommand, reply: ModelReply },
    /// This instance has acquired the lease on the lanes.
    Takeover(Box<Takeover>),
    /// Actions of other instances while this one holds the lease.
    PeerUpdates(Box<PeerUpdates>),
}

/// Open requests and lanes of a chain, read back.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) open: Open,
    /// In the order of the lanes.
    pub(super) keys: Vec<LaneKey>,
    /// Sequence number of the newest request read.
    pub(super) newest: u64,
}

/// The start of this instance's time as driver of a chain's lanes.
#[derive(Debug)]
pub(super) struct Takeover {
    pub(super) lease: Lease,
    pub(super) restored: Restored,
    /// Time at which the lease was asked for.
    pub(super) asked: Instant,
}

/// Acceptances and withdrawals through other instances.
#[derive(Debug)]
pub(super) struct PeerUpdates {
    /// Fencing token of the lease under which they were read.
    pub(super) token: u64,
    pub(super) accepted: Vec<QueuedRequest>,
    pub(super) withdrawn: Vec<RequestId>,
}
