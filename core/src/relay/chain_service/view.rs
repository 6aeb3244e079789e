//! What the outside sees of a chain.

use std::{sync::PoisonError, time::Duration};

use super::{
    super::{
        admission::ChainView,
        clock,
        status::{ChainHealth, LaneStatus},
    },
    ChainService,
};
use crate::lane::Blockage;

/// Head silence after which the chain counts as unavailable, in block times and at least this long.
const STALE_HEAD_BLOCKS: u32 = 20;
const STALE_HEAD_LEAST: Duration = Duration::from_secs(30);

impl ChainService {
    /// Refreshes what the outside sees.
    pub(super) fn publish(&self) {
        let now = clock::now();
        let tuning = &self.shared.tuning;
        let silence = now.since(self.head_at);
        let stale = (self.shared.spec.block_time() * STALE_HEAD_BLOCKS).max(STALE_HEAD_LEAST);
        let can_send = self.is_following()
            || self.lanes.iter().any(|lane| {
                let is_working = !lane.machine.is_underfunded() || lane.machine.in_flight() > 0;
                lane.machine.next_nonce().is_some() && is_working
            });
        let blocked = self.lanes.iter().find_map(|lane| Some((lane.machine.id(), lane.machine.blockage()?)));
        let (health, detail) = match self.head {
            None => (ChainHealth::Starting, Some("no block has been seen yet".to_owned())),
            Some(_) if silence > stale => {
                (ChainHealth::Unavailable, Some(format!("no new block for {} s", silence.as_secs())))
            }
            Some(_) if self.data_fee().is_none() => {
                (ChainHealth::Impaired, self.data_fee_fault.as_ref().map(ToString::to_string))
            }
            Some(_) if !can_send => (ChainHealth::Impaired, Some("no lane can send".to_owned())),
            Some(_) if blocked.is_some() => (
                ChainHealth::Impaired,
                blocked.map(|(lane, Blockage { nonce, trouble })| {
                    format!("lane {} is blocked at nonce {nonce}: {}", lane.sender, trouble.name())
                }),
            ),
            Some(_) => (ChainHealth::Healthy, None),
        };
        let chain_id = self.chain_id();
        let mut lanes: Vec<LaneStatus> = self
            .lanes
            .iter()
            .map(|lane| LaneStatus {
                chain_id,
                sender: lane.machine.id().sender,
                next_nonce: lane.machine.next_nonce(),
                in_flight: lane.machine.in_flight(),
                unfinal: lane.machine.unfinal(),
                max_in_flight: tuning.max_in_flight,
                balance_wei: lane.machine.balance(),
                paused: if lane.machine.is_underfunded() {
                    Some("underfunded".to_owned())
                } else if let Some(Blockage { nonce, trouble }) = lane.machine.blockage() {
                    Some(format!("blocked at nonce {nonce}: {}", trouble.name()))
                } else if lane.machine.next_nonce().is_none() {
                    Some("not reconciled yet".to_owned())
                } else {
                    None
                },
            })
            .collect();
        if let Some(membership) = self.membership.as_ref().filter(|_| self.is_following()) {
            let paused = format!("driven by instance `{}`", membership.holder());
            lanes.extend(membership.senders.iter().map(|&sender| LaneStatus {
                chain_id,
                sender,
                next_nonce: None,
                in_flight: 0,
                unfinal: 0,
                max_in_flight: tuning.max_in_flight,
                balance_wei: None,
                paused: Some(paused.clone()),
            }));
        }
        let label = chain_id.to_string();
        metrics::gauge!("slackwater_queued_requests", "chain_id" => label.clone()).set(self.queue.waiting() as f64);
        metrics::gauge!("slackwater_in_flight_requests", "chain_id" => label.clone())
            .set(self.queue.in_flight() as f64);
        let in_flight: usize = lanes.iter().map(|lane| lane.in_flight).sum();
        metrics::gauge!("slackwater_in_flight_transactions", "chain_id" => label).set(in_flight as f64);
        let mut view = self.shared.view.write().unwrap_or_else(PoisonError::into_inner);
        let status = &mut view.status;
        status.health = health;
        status.detail = detail;
        status.head = self.head.map(|head| head.number);
        status.head_timestamp_s = self.head.map(|head| head.timestamp_s);
        status.final_block = self.head.and_then(|head| head.final_block);
        status.next_base_fee_wei_per_gas = self.price.map(|price| price.next_base_fee);
        status.quote = self.price.map(|price| price.quote);
        status.guard_time_ms = crate::time::millis(self.pricing.guard());
        status.inclusions_measured = self.pricing.measured() as u64;
        status.queued = self.queue.waiting() as u64;
        status.in_flight = self.queue.in_flight() as u64;
        status.endpoints = self.shared.pool.status();
        let status = status.clone();
        *view = ChainView {
            door: self.pricing.door(self.shared.pool.fee_cap(self.shared.spec.rpc_tx_fee_cap_wei)),
            status,
            lanes,
            price: self.price,
            sources: self.market.sources(),
            forecast: self.forecast.clone(),
            data_fee: self.data_fee(),
            data_fee_fault: self.data_fee_fault.as_ref().map(ToString::to_string),
        };
    }
}
