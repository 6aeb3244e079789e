//! Logs and metrics of a chain's sender.

use alloy_primitives::U256;

use crate::{
    chain::RpcErrorClass,
    lane::LaneAlert,
    request::{Reason, Status},
    sender::Notice,
};

/// Logs and counts `notice` of the chain.
pub(in crate::relay) fn tell(chain_id: u64, notice: Notice) {
    let chain = || chain_id.to_string();
    match notice {
        Notice::SimulationsUsedUp => {
            tracing::debug!(
                chain_id,
                "no more simulations at this head (`chain.simulations_per_head`): the rest waits"
            );
            metrics::counter!("slackwater_simulations_put_off_total").increment(1);
        }
        Notice::SimulationFailed => metrics::counter!("slackwater_simulations_failed_total").increment(1),
        Notice::DataFeeWaits(members) => {
            metrics::counter!("slackwater_data_fee_waits_total", "chain_id" => chain()).increment(members);
        }
        Notice::Planned { trigger, members } => {
            metrics::counter!("slackwater_batches_planned_total", "trigger" => trigger).increment(1);
            metrics::histogram!("slackwater_batch_requests").record(members as f64);
        }
        Notice::NotTaken { lane, error } => tracing::debug!(%lane, error, "lane does not take the batch"),
        Notice::NonceLost(batch) => {
            tracing::error!(%batch, "the nonce was consumed by a transaction that is not ours: somebody else uses the lane's key");
        }
        Notice::Replacing { batch, attempt } => {
            metrics::counter!("slackwater_replacements_total").increment(1);
            let (max_fee, tip) = (attempt.fees.max_fee_per_gas, attempt.fees.max_priority_fee_per_gas);
            tracing::info!(%batch, index = attempt.index, kind = ?attempt.kind, max_fee, tip, "replacing");
        }
        Notice::AttemptRefused { batch, outcome } => {
            tracing::error!(%batch, ?outcome, "the ledger refused an attempt");
        }
        Notice::NobodyTook { batch, class, members } => {
            let class = class.map_or("not sent", RpcErrorClass::as_str);
            tracing::info!(%batch, class, members, "no node took it");
            metrics::counter!("slackwater_refused_batches_total").increment(1);
        }
        Notice::TakenBack(batch) => {
            tracing::warn!(%batch, "inclusion was taken back by a reorg");
            metrics::counter!("slackwater_reorged_batches_total").increment(1);
        }
        Notice::KeptInSpite(batch) => {
            tracing::warn!(%batch, "a node kept what it said it refused, and it was mined");
        }
        Notice::Included { batch, block, members, waited } => {
            metrics::histogram!("slackwater_inclusion_delay_seconds").record(waited.as_secs_f64());
            metrics::counter!("slackwater_batches_included_total").increment(1);
            tracing::debug!(%batch, block, members, "included");
        }
        Notice::LaneAlert { lane, alert } => {
            metrics::counter!("slackwater_lane_alerts_total", "alert" => alert.name()).increment(1);
            match alert {
                LaneAlert::Resumed => tracing::info!(%lane, "lane resumed"),
                alert => tracing::warn!(%lane, alert = alert.name(), detail = ?alert, "lane needs attention"),
            }
        }
        Notice::Ended { status, reason, count } => count_ended(status, reason, count),
        Notice::PromisesMissed(count) => {
            metrics::counter!("slackwater_promises_missed_total").increment(count as u64);
        }
        Notice::Replanned(count) => {
            metrics::counter!("slackwater_replanned_requests_total").increment(count as u64);
        }
        Notice::AccountBears { batch, account, tenant, wei } => {
            tracing::warn!(%batch, account, tenant, %wei, "an account bears a part of a transaction's cost");
            let gwei = u64::try_from(wei / U256::from(1_000_000_000)).unwrap_or(u64::MAX);
            metrics::counter!("slackwater_account_gwei_total", "account" => account).increment(gwei);
        }
        Notice::Surprise { target, hash, until } => {
            tracing::warn!(
                chain_id,
                %target,
                %hash,
                until_ms = until.0,
                "a target that a policy names did on chain what no simulation showed: until then its requests share transactions \
                 with the same signer's only (`chain.suspect_ms`)"
            );
            metrics::counter!("slackwater_target_surprises_total", "chain_id" => chain()).increment(1);
        }
        Notice::ForeignUnbooked { batch, hash, block } => {
            tracing::error!(%batch, %hash, block, "no majority of the nodes tells what somebody else's transaction took from the lane: it is not booked");
            metrics::counter!("slackwater_foreign_unbooked_total", "chain_id" => chain()).increment(1);
        }
        Notice::TipJudged { was_included } => {
            let outcome = if was_included { "included" } else { "missed" };
            metrics::counter!("slackwater_tip_offers_total", "chain_id" => chain(), "outcome" => outcome).increment(1);
        }
    }
}

/// Counts ended requests by status and reason.
pub(in crate::relay) fn count_ended(status: Status, reason: Option<Reason>, count: u64) {
    let reason = reason.map_or("", Reason::as_str);
    metrics::counter!("slackwater_requests_ended_total", "status" => status.as_str(), "reason" => reason)
        .increment(count);
}
