//! The published view of a chain: status, lanes, prices, health.

use std::{sync::PoisonError, time::Duration};

use alloy_primitives::U256;

use super::{
    health::{self, Signs},
    service::ChainService,
    shared::ChainView,
};
use crate::{
    chain::data_fee::DataFeeModel,
    lane::Blockage,
    provenance::Decision,
    relay::{
        clock,
        handle::status::{ChainHealth, LaneStatus},
        nodes::data_fee::DataFeeFault,
        rpc::Conditions,
    },
    sender::SenderLane,
    time::Timestamp,
};

impl ChainService {
    /// Refreshes the published view.
    pub(in crate::relay) fn publish(&mut self) {
        let now = clock::now();
        let conditions = self.shared.pool.conditions();
        let (health, detail) = health::judge(&self.signs(now, &conditions));
        self.tell_health(health, detail.as_deref());
        let tuning = &self.shared.tuning;
        let chain_id = self.chain_id();
        let mut lanes: Vec<LaneStatus> = self
            .sender
            .lanes
            .iter()
            .map(|lane| LaneStatus {
                chain_id,
                sender: lane.machine.id().sender,
                next_nonce: lane.machine.next_nonce(),
                in_flight: lane.machine.in_flight(),
                unfinal: lane.machine.unfinal(),
                max_in_flight: tuning.lane.max_in_flight,
                balance_wei: lane.machine.balance(),
                paused: if !lane.has_signer {
                    Some("watched only: its signer is not configured".to_owned())
                } else if lane.unsigned > 0 {
                    Some(format!("its key does not sign: {} times in a row", lane.unsigned))
                } else if self.is_poor(lane) {
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
                max_in_flight: tuning.lane.max_in_flight,
                balance_wei: None,
                paused: Some(paused.clone()),
            }));
        }
        let label = chain_id.to_string();
        metrics::gauge!("slackwater_queued_requests", "chain_id" => label.clone())
            .set(self.sender.queue.waiting() as f64);
        metrics::gauge!("slackwater_payload_memory_bytes", "chain_id" => label.clone())
            .set(self.sender.queue.payload_bytes() as f64);
        metrics::gauge!("slackwater_in_flight_requests", "chain_id" => label.clone())
            .set(self.sender.queue.in_flight() as f64);
        let in_flight: usize = lanes.iter().map(|lane| lane.in_flight).sum();
        metrics::gauge!("slackwater_in_flight_transactions", "chain_id" => label).set(in_flight as f64);
        metrics::gauge!("slackwater_guard_time_seconds", "chain_id" => chain_id.to_string())
            .set(self.sender.pricing.guard().as_secs_f64());
        if let Some(price) = self.sender.price {
            metrics::gauge!("slackwater_tip_wei_per_gas", "chain_id" => chain_id.to_string())
                .set(price.quote.max_priority_fee_per_gas as f64);
        }
        let mut view = self.shared.view.write().unwrap_or_else(PoisonError::into_inner);
        let status = &mut view.status;
        status.health = health;
        status.detail = detail;
        status.head = self.sender.head.map(|head| head.number);
        status.head_timestamp_s = self.sender.head.map(|head| head.timestamp_s);
        status.final_block = self.sender.head.and_then(|head| head.final_block);
        status.next_base_fee_wei_per_gas = self.sender.price.map(|price| price.next_base_fee);
        status.quote = self.sender.price.map(|price| price.quote);
        status.guard_time_ms = crate::time::millis(self.sender.pricing.guard());
        status.inclusions_measured = self.sender.pricing.measured() as u64;
        status.queued = self.sender.queue.waiting() as u64;
        status.in_flight = self.sender.queue.in_flight() as u64;
        status.finality_stalled_since_ms = conditions.no_majority_since.map(|since| since.0);
        status.endpoints = self.shared.pool.status();
        let status = status.clone();
        *view = ChainView {
            door: self
                .sender
                .pricing
                .door(&self.shared.tuning, self.shared.pool.fee_cap(self.shared.spec.rpc_tx_fee_cap_wei)),
            status,
            lanes,
            price: self.sender.price,
            priced_at: self.sender.head_at,
            clock_ahead: self.clock_ahead(),
            sources: self.market.sources(),
            forecast: self.sender.fees.view(),
            data_fee: self.sender.data_fee(),
            backlogs: self.sender.backlogs.clone(),
            data_fee_fault: self.data_fee_fault.as_ref().map(ToString::to_string),
        };
    }

    fn signs<'a>(&self, now: Timestamp, conditions: &'a Conditions) -> Signs<'a> {
        let is_known = self.sender.data_fee().is_some();
        let fault = || self.data_fee_fault.as_ref().map_or_else(|| "not read yet".to_owned(), ToString::to_string);
        let can_send = self.is_following()
            || self
                .sender
                .lanes
                .iter()
                .any(|lane| lane.has_signer && lane.machine.next_nonce().is_some() && !self.is_poor(lane));
        let mut own = self.sender.lanes.iter().filter(|lane| lane.has_signer).peekable();
        let is_poor = own.peek().is_some() && own.all(|lane| self.is_poor(lane));
        let why = if is_poor { "no lane can send: all are underfunded" } else { "no lane can send" };
        Signs {
            now,
            block: self.shared.spec.block_time(),
            head_at: self.sender.head.map(|_| self.sender.head_at),
            started_at: self.sender.head_at,
            max_head_age: self.shared.tuning.heads.max_head_age,
            conditions,
            clock_skew_ms: self.clock_skew_ms,
            data_fee_fault: (!is_known).then(fault),
            no_lane: (!can_send).then(|| why.to_owned()).or_else(|| {
                let blocked = |lane: &SenderLane| Some((lane.machine.id(), lane.machine.blockage()?));
                let (lane, Blockage { nonce, trouble }) = self.sender.lanes.iter().find_map(blocked)?;
                Some(format!("lane {} is blocked at nonce {nonce}: {}", lane.sender, trouble.name()))
            }),
        }
    }

    /// The newest L1 parameters. If the read failed, the last ones stay, and the first failure of a kind is
    /// reported.
    pub(in crate::relay) fn learn_data_fee(
        &mut self,
        read: &Result<DataFeeModel, DataFeeFault>,
    ) -> Option<DataFeeModel> {
        let chain_id = self.chain_id();
        let fault = match read {
            Ok(model) => {
                if self.data_fee_fault.take().is_some() {
                    tracing::info!(chain_id, "L1 fee parameters can be read again");
                }
                return Some(*model);
            }
            Err(fault) => fault,
        };
        metrics::counter!("slackwater_l1_fee_reads_failed_total", "chain_id" => chain_id.to_string(), "reason" => fault.code())
            .increment(1);
        let was = self.data_fee_fault.replace(fault.clone());
        if was.is_some_and(|was| was.code() == fault.code()) {
            return None;
        }
        if self.sender.data_fee.is_some() {
            tracing::warn!(chain_id, reason = fault.code(), "{fault}; the last ones are used");
        } else {
            tracing::error!(chain_id, reason = fault.code(), "{fault}; nothing is accepted or sent before it is known");
        }
        let subject = format!("chain {chain_id}");
        self.note(
            Vec::new(),
            vec![Decision::Alert { code: fault.code().to_owned(), subject, detail: fault.to_string() }],
        );
        None
    }

    /// True if the lane waits for a top-up, or could not even pay for an empty transaction.
    fn is_poor(&self, lane: &SenderLane) -> bool {
        let price = self.sender.price.map_or(0, |price| price.next_base_fee).max(1);
        let least = U256::from(price).saturating_mul(U256::from(self.shared.tuning.lane.cancel_gas));
        lane.machine.is_underfunded() || lane.machine.balance().is_some_and(|balance| balance < least)
    }

    /// Logs a change of health, once.
    fn tell_health(&mut self, health: ChainHealth, detail: Option<&str>) {
        let was = std::mem::replace(&mut self.told_health, health);
        if was == health {
            return;
        }
        let chain_id = self.chain_id();
        let detail = detail.unwrap_or_default();
        match health {
            ChainHealth::Healthy if was == ChainHealth::Starting => {}
            ChainHealth::Healthy => tracing::info!(chain_id, ?was, "the chain is healthy again"),
            ChainHealth::Starting => {}
            ChainHealth::Impaired => tracing::warn!(chain_id, detail, "the chain is impaired"),
            ChainHealth::Unavailable => {
                tracing::error!(
                    chain_id,
                    detail,
                    "the chain can't be followed: submissions are refused (chain_unavailable)"
                );
            }
        }
    }

    /// Lead of the chain's clock over ours; zero within [`health::CLOCK_TOLERANCE`].
    fn clock_ahead(&self) -> Duration {
        let ahead = Duration::from_millis(u64::try_from(self.clock_skew_ms).unwrap_or(0));
        if ahead > health::CLOCK_TOLERANCE { ahead } else { Duration::ZERO }
    }

    /// Records the offset of the newest head's timestamp from our clock, and logs once if it is too large.
    pub(in crate::relay) fn note_clock(&mut self, now: Timestamp, timestamp_s: u64) {
        let told = i64::try_from(Timestamp::from_secs(timestamp_s).0).unwrap_or(i64::MAX);
        let ours = i64::try_from(now.0).unwrap_or(i64::MAX);
        let block = self.shared.spec.block_time();
        let had_fault = health::clock_fault(self.clock_skew_ms, block).is_some();
        self.clock_skew_ms = told.saturating_sub(ours);
        let chain_id = self.chain_id();
        let label = chain_id.to_string();
        metrics::gauge!("slackwater_chain_clock_ahead_seconds", "chain_id" => label)
            .set(self.clock_skew_ms as f64 / 1_000.0);
        match health::clock_fault(self.clock_skew_ms, block) {
            Some(fault) if !had_fault => tracing::error!(chain_id, "{fault}"),
            None if had_fault => tracing::info!(chain_id, "the chain's clock agrees with this machine's again"),
            _ => {}
        }
    }
}
