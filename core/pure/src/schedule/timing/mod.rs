//! Timing of a request that has slack.
//!
//! At each step the price of sending now is known: EIP-1559 fixes the next base fee with the newest header. Unknown is
//! whether it will be lower before the deadline. Several [`Policy`]s answer that side by side. Each gives, for every
//! slack, a reservation price: the highest price at which it sends. Because a relayer is a price taker, each policy's
//! outcome on the past is known independent of the actual decision, so per slack class every policy has a score (the
//! share of the possible saving that it captured, starting from a prior), weights follow from the scores by Hedge, and
//! the weighted median of the reservation prices decides. Sending at once is one of the policies: where waiting does
//! not pay, it wins.
//!
//! # A worked example
//! A price is 8, 10 or 12 gwei with equal chances, independent of the past. The value of a request with r steps left:
//!
//! | r | value of waiting | sends at |
//! |---|---|---|
//! | 0 | none: it must be sent | 8, 10, 12 |
//! | 1 | (8 + 10 + 12) / 3 = 10 | 8, 10 |
//! | 2 | (8 + 10 + 10) / 3 = 9.33 | 8 |
//! | 3 | (8 + 9.33 + 9.33) / 3 = 8.89 | 8 |
//!
//! Value(r) is the mean, over the next price, of the smaller of that price and value(r − 1). With 3 steps left a price
//! of 10 is refused (8.89 is expected from waiting), with 1 step left it is taken. On average a request with 3 steps of
//! slack pays (8 + 8.89 + 8.89) / 3 = 8.59 instead of 10; the lowest of four prices is 8.42 on average, so 1.41 of 1.58
//! gwei, 89 % of the possible saving, is captured. [`Stopping`] does the same with regressions in place of the known
//! chances: backwards from the deadline, the cost of the best continuation is regressed on the information available at
//! each step.

mod boost;
mod error;
mod experts;
mod features;
mod machine;
mod policy;
mod prior;
mod ridge;
mod rules;
mod state;
mod stopping;
mod train;

pub use error::TimingError;
pub use features::FEATURES;
pub use machine::{FittedTiming, MAX_SLACK, RefitJob, Timing, TimingConfig, TimingDecision};
pub use policy::{Policy, policies};
pub use prior::{PRIOR_VERSION, PriorKind, TimingPrior};
pub use state::TimingState;
pub use stopping::Stopping;
pub use train::{TrainingFile, train};
