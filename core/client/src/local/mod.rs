//! A relay inside the caller, for callers without a relayer: it queues, batches and sends by itself, through one node,
//! and pays from a *session key*.
//!
//! [`LocalRelay`] is an edge of the sender that the relayer runs too: what is sent when, what together, for how much, and
//! what a receipt means, is decided there. The edge calls one node by JSON-RPC, keeps records in its caller's storage, and
//! takes the time as an argument.
//!
//! Lifecycle of a request: [`LocalRelay::admit`] checks it and returns a record; the caller stores that;
//! [`LocalRelay::take`] queues it. Everything else comes as [`LocalCommand`]s, in order, until there is none:
//!
//! | command | report with |
//! |---|---|
//! | `Store` | [`LocalRelay::stored`] once it is durable, or [`LocalRelay::store_failed`] |
//! | `Remove` | – |
//! | `Call` | [`LocalRelay::answered`] |
//! | `Changed`, `Alert` | – |
//!
//! and [`LocalRelay::timeout`] at [`LocalRelay::next_timeout`].
//!
//! Records by key, all JSON:
//!
//! | key | holds |
//! |---|---|
//! | `r:<id>` | a request, with its end |
//! | `a:<nonce>:<index>` | a signed attempt; with index 0 also the batch |
//! | `l` | the next nonce |
//!
//! **I1** a batch's record names its members; they return only when the chain's final word is that the batch did not
//! run. **I2** an attempt's `Store` comes before its `Call`, which waits for `stored`; a request's end is reported once
//! it is stored. **I3, I4, I6, I7** are kept by the lane. **I5** a call without an answer is ambiguous. **I8** each
//! request's ceiling per gas follows from its maximum cost. **I9** terminal statuses come from final blocks. **I11**
//! every batch is simulated.
//!
//! There is only one node, so it is trusted: one that lies about receipts or finality is believed. A relayer asks
//! several.

mod calls;
mod command;
mod config;
mod heads;
mod host;
mod key;
mod machine;
mod parts;
mod receipts;
mod record;
mod requests;
mod simulate;
mod spender;
mod state;
mod storage;
mod users;
mod view;
mod withdraw;

pub use command::{CallAnswer, LocalCommand, LocalReport};
pub use config::{ConfigError, LocalConfig, LocalTiming};
pub use key::SessionKey;
pub use requests::{Admitted, LocalAsk, LocalError};
pub use state::LocalRelay;
pub use view::{AccountView, LocalPlace, LocalView};
pub use withdraw::{WithdrawAsk, WithdrawError, Withdrawal};
