//! Messages to the service of one chain.

use tokio::{sync::oneshot, time::Instant};

use super::keys::LaneKey;
use crate::{
    relay::{
        cluster::lease::Lease,
        handle::{
            error::CancelError,
            models::{ModelCommand, ModelReply},
        },
    },
    request::RequestId,
    schedule::QueuedRequest,
    sender::Open,
};

/// Messages to the service of one chain.
#[derive(Debug)]
pub(in crate::relay) enum Message {
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
pub(in crate::relay) struct Restored {
    pub(in crate::relay) open: Open,
    /// In the order of the lanes.
    pub(in crate::relay) keys: Vec<LaneKey>,
    /// Sequence number of the newest request read.
    pub(in crate::relay) newest: u64,
}

/// The start of this instance's time as driver of a chain's lanes.
#[derive(Debug)]
pub(in crate::relay) struct Takeover {
    pub(in crate::relay) lease: Lease,
    pub(in crate::relay) restored: Restored,
    /// Time at which the lease was asked for.
    pub(in crate::relay) asked: Instant,
}

/// Acceptances and withdrawals through other instances.
#[derive(Debug)]
pub(in crate::relay) struct PeerUpdates {
    /// Fencing token of the lease under which they were read.
    pub(in crate::relay) token: u64,
    pub(in crate::relay) accepted: Vec<QueuedRequest>,
    pub(in crate::relay) withdrawn: Vec<RequestId>,
}
