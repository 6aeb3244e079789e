//! What is done next for all requests of one chain: queue, lanes, candidates and settlements as one machine without I/O.
//!
//! [`Sender`] is told what happened ([`Input`], [`Sender::cancel`]) and says what is to be done ([`Command`]). A shell does it: the
//! relay with tasks and a ledger, a page with its node and its storage.
//!
//! | in this order | answers |
//! |---|---|
//! | `input` | what can happen, and what can be wanted? |
//! | `state` | what is remembered? |
//! | `machine` | what does each input lead to? |
//! | `dispatch` | what is sent now, and what together? |
//! | `offers`, `pricing`, `data_fee` | what does it offer, and what may it cost? |
//! | `lanes` | what happens to a transaction? |
//! | `stow` | which bytes are needed in memory? |
//! | `settle`, `strangers` | what does a final transaction mean, and who pays for it? |
//! | `replan` | who may enter another transaction before finality? |
//! | `evidence` | what do transactions show about their targets? |
//! | `endings`, `users` | what ends without a transaction? |

mod candidate;
mod data_fee;
mod dispatch;
mod endings;
mod evidence;
mod facts;
mod flight;
mod foreign;
mod host;
mod input;
mod lanes;
mod machine;
mod offers;
mod payments;
mod price;
mod pricing;
mod replan;
mod settle;
mod settlement;
mod state;
mod stow;
mod strangers;
pub mod tuning;
mod turns;
mod users;

pub use candidate::{Candidate, DataQuote};
pub use data_fee::{beyond_gas, usual_forward};
pub use endings::CancelRefusal;
pub use facts::ChainFacts;
pub use flight::{Content, Flight, MemberSize, Mined, SenderLane, Stowed, without_bytes};
pub use foreign::{ForeignTransaction, Taken};
pub use host::{Books, FeeView, ForecastRef, Host, Pending, Surroundings};
pub use input::{
    Account, Command, Confirmed, HeadFacts, Input, Inspection, LeftOut, Notice, Paid, SendReport, Simulation, User,
    Whole, WriteId,
};
pub use price::Price;
pub use pricing::{DoorLimits, Pricing};
pub use settlement::{Case, Settlement};
pub use state::{Open, Sender, UnderWay};
