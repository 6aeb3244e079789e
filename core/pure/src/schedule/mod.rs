//! Scheduling: the time of dispatch and the composition of batches.
//!
//! [`Queue`] holds every accepted request whose transaction is not final, in executable order. [`Queue::compose`]
//! decides for one lane whether to send now and which batch: the dispatch decision and the batch composer.
//! [`FeeOutlook`] gives the slack for which the current price is acceptable; [`PercentileOutlook`] derives it from fee
//! history, [`timing::Timing`] from policies weighted by the cost they would have had. [`GuardTime`], [`fee_cap`] and
//! [`TipEstimator`] set the safety margin before a deadline, the fee cap and the tip; [`OfferLog`] follows our own
//! attempts and feeds their outcomes back.
//!
//! # A worked example
//! The last eight base fees were 8, 9, 10, 10, 11, 12, 12, 14 gwei, the tip is 0 and the next block costs 11 gwei. Four of
//! eight blocks were cheaper, so the price has rank 50 %. With `patience_percentile` 40, `urgent_within` 1 min and a horizon
//! of 31 min, rank 50 is acceptable for slacks up to `1 + (31 − 1) · (100 − 50) / (100 − 40) = 26` minutes: a request
//! with 20 minutes left is sent now, one with an hour left waits for a block at rank 40 or lower.

mod company;
mod guard;
mod least_tip;
mod offer;
mod outlook;
mod pace;
mod paid;
mod queue;
mod targets;
pub mod timing;

pub use guard::{GuardTime, TipEstimator, fee_cap};
pub use least_tip::{LeastTip, tip_bound};
pub use offer::{Inclusion, Judged, OfferLog, urgency_blocks};
pub use outlook::less;
pub use outlook::{FeeOutlook, PercentileOutlook};
pub use pace::{Backlog, DueCounts, TenantPace};
pub use paid::PaidTips;
pub use queue::{Callers, ComposeLimits, Queue, QueuedRequest, Refusals, Selection, Short, Trigger};
pub use targets::{Accused, RecordRule, Showing};
