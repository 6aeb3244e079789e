//! The transactions of one sender: nonces, attempts, bumps, cancels, receipts, reorgs.
//!
//! [`Lane`] is a pure state machine: events and time in, [`Command`]s out. It never waits, reads no clock and opens no
//! socket. The shell carries commands out and reports back; every command is safe to repeat.
//!
//! Life of one nonce (its *slot*):
//!
//! | state | meaning | transitions |
//! |---|---|---|
//! | signing | first attempt being signed and committed | `Persisted` → pending · `Abandoned` → gone, nonce free |
//! | pending | has a durable attempt; a node may hold it | receipt → included · nonce final by an unknown hash → lost |
//! | included | an attempt is in a block | block orphaned → pending · final → settled |
//! | vacant | held by no node; members given back | next plan → signing · younger wait too long → pending (cancel) |
//! | settled, lost | reported upward, slot removed | – |
//!
//! Invariants kept here: **I2** `Broadcast` is only emitted for an attempt whose `Persisted` arrived. **I3** a slot
//! never changes its payload while a node may hold an attempt (a plan that every node refused, and that is guarded on
//! chain against a second execution, makes way for the next plan); it leaves only through a final receipt of one of its
//! own hashes, or a final nonce that none of them explains. **I4** no second nonce is allocated while one is being
//! committed. **I5** an ambiguous answer only ever leads to polling and to the same bytes. **I6** replacements come
//! from [`crate::chain::ReplacementRule`], from the highest attempt that a node may hold. **I7** no payload is emitted
//! after its deadline. **I9** included is revocable.

mod event;
mod machine;
mod slot;

pub use event::{
    AttemptKey, AttemptKind, Blockage, Command, Event, HeadInfo, LaneAlert, LaneConfig, LaneError, NodeTerms, Plan,
    PollPurpose, RestoredSlot, SendOutcome, Trouble, TxToSign,
};
pub use machine::Lane;
