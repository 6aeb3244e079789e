//! Calls to the node: purpose, time limit, and routing of the answer.

use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::SolCall;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use slackwater_contracts::forwarder::noncesCall;

use super::machine::{LocalCommand, LocalRelay};
use crate::{
    chain::{RpcErrorClass, Taken, classify},
    lane::{AttemptKey, Event, SendOutcome},
    time::Timestamp,
};

/// Result of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum CallAnswer {
    /// The node's `result`, as JSON.
    Result(String),
    /// The node's `error`.
    Error {
        /// JSON-RPC code.
        code: i64,
        /// The node's error message.
        message: String,
    },
    /// No answer. The node may have got the call (I5).
    Lost,
}

impl CallAnswer {
    /// The parsed result; `None` for an error, a lost answer, or an unreadable one.
    pub(super) fn read<T: DeserializeOwned>(self) -> Option<T> {
        match self {
            Self::Result(text) => parse(&text),
            Self::Error { .. } | Self::Lost => None,
        }
    }

    /// Class of the node's error; `None` if it did not answer with an error.
    pub(super) fn class(&self) -> Option<RpcErrorClass> {
        match self {
            Self::Error { code, message } => Some(classify(*code, message, None)),
            Self::Result(_) | Self::Lost => None,
        }
    }
}

/// Reads JSON, always from bytes: each kind of source costs its own code.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(text.as_bytes()).ok()
}

/// (forwarder, user).
pub(super) type User = (Address, Address);

/// Purpose of a call, which routes its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Head,
    Tagged,
    History,
    AccountNonce,
    Balance,
    /// The block at this height, on the walk back to known blocks.
    Ancestor(u64),
    Send(AttemptKey),
    /// Receipt of one hash, for a poll.
    Receipt {
        poll: u64,
        hash: B256,
    },
    /// The account nonce at an older block.
    SpenderCount {
        poll: u64,
        block: u64,
    },
    /// A block with its transactions.
    SpenderBlock {
        poll: u64,
        block: u64,
    },
    Code {
        candidate: u64,
        forwarder: Address,
    },
    DataFee {
        candidate: u64,
    },
    Simulate {
        candidate: u64,
    },
    Member {
        candidate: u64,
        place: usize,
    },
    Verify {
        candidate: u64,
        place: usize,
    },
    /// A user's nonce, at the given head or at `latest`.
    UserNonce {
        user: User,
        at: Option<(u64, B256)>,
    },
}

impl Purpose {
    /// True for the calls of a head poll.
    const fn is_of_look(self) -> bool {
        matches!(self, Self::Tagged | Self::History | Self::AccountNonce | Self::Balance | Self::Ancestor(_))
    }
}

/// A call in flight.
#[derive(Debug)]
pub(super) struct Pending {
    purpose: Purpose,
    pub(super) until: Timestamp,
}

/// A block height as a JSON-RPC quantity.
pub(super) fn height(number: u64) -> Value {
    format!("{number:#x}").into()
}

/// Parameters of `eth_call`.
pub(super) fn eth_call(to: Address, data: Vec<u8>, block: Value) -> Value {
    json!([{ "to": to, "data": Bytes::from(data) }, block])
}

/// The number in a returned 32-byte word; `None` if it is short or above `u64`.
pub(super) fn word(data: &[u8]) -> Option<u64> {
    let word = data.get(..32)?;
    u64::try_from(alloy_primitives::U256::from_be_slice(word)).ok()
}

impl LocalRelay {
    pub(super) fn call(&mut self, now: Timestamp, purpose: Purpose, method: &'static str, params: Value) {
        self.next_id += 1;
        let call = self.next_id;
        let until = now.saturating_add(self.config.rpc_timeout);
        self.calls.insert(call, Pending { purpose, until });
        self.command(LocalCommand::Call { call, method, params });
    }

    pub(super) fn ask_user_nonce(&mut self, now: Timestamp, user: User, at: Option<(u64, B256)>) {
        let (forwarder, owner) = user;
        let block = at.map_or_else(|| "latest".into(), |(number, _)| height(number));
        let params = eth_call(forwarder, noncesCall { owner }.abi_encode(), block);
        self.call(now, Purpose::UserNonce { user, at }, "eth_call", params);
    }

    /// Forgets the calls of a head poll that broke off, so that no later poll takes their answers.
    pub(super) fn drop_look_calls(&mut self) {
        self.calls.retain(|(_, pending)| !pending.purpose.is_of_look());
    }

    /// Takes the answer to a call; a late one is ignored.
    pub fn answered(&mut self, now: Timestamp, call: u64, answer: CallAnswer) {
        let Some(pending) = self.calls.remove(&call) else { return };
        self.route(now, pending.purpose, answer);
        self.go_on(now);
    }

    pub(super) fn expire_calls(&mut self, now: Timestamp) {
        let late: Vec<u64> =
            self.calls.iter().filter(|(_, pending)| pending.until <= now).map(|(call, _)| *call).collect();
        for call in late {
            if let Some(pending) = self.calls.remove(&call) {
                self.route(now, pending.purpose, CallAnswer::Lost);
            }
        }
    }

    fn route(&mut self, now: Timestamp, purpose: Purpose, answer: CallAnswer) {
        match purpose {
            Purpose::Head => self.on_header(now, answer.read()),
            Purpose::Tagged | Purpose::History | Purpose::AccountNonce | Purpose::Balance | Purpose::Ancestor(_) => {
                self.on_look(now, purpose, answer)
            }
            Purpose::Send(key) => self.on_sent(now, key, answer),
            Purpose::Receipt { poll, hash } => self.on_receipt(now, poll, hash, answer),
            Purpose::SpenderCount { poll, block } => self.on_spender_count(now, poll, block, answer.read()),
            Purpose::SpenderBlock { poll, block } => self.on_spender_block(now, poll, block, answer.read()),
            Purpose::Code { candidate, forwarder } => self.on_code(now, candidate, forwarder, answer.read()),
            Purpose::DataFee { candidate } => self.on_data_fee(now, candidate, answer.read()),
            Purpose::Simulate { candidate } => self.on_simulated(now, candidate, answer),
            Purpose::Member { candidate, place } => self.on_member(now, candidate, place, answer),
            Purpose::Verify { candidate, place } => self.on_verified(now, candidate, place, answer),
            Purpose::UserNonce { user, at } => {
                // An unavailable or busy node says nothing about the forwarder.
                let is_told =
                    matches!(answer, CallAnswer::Result(_)) || answer.class() == Some(RpcErrorClass::Reverted);
                let nonce = answer.read::<Bytes>().and_then(|data| word(&data));
                self.on_user_nonce(now, user, at, nonce);
                if is_told {
                    self.queue.note_lookup(now, &[user]);
                }
            }
        }
    }

    fn on_sent(&mut self, now: Timestamp, key: AttemptKey, answer: CallAnswer) {
        let outcome = match (&answer, answer.class()) {
            (CallAnswer::Result(text), _) => {
                let hash = self.durable.get(&key).map(|attempt| attempt.hash);
                // A node that returns another hash is faulty; it may or may not have accepted the bytes.
                match parse::<B256>(text) {
                    Some(told) if Some(told) == hash => SendOutcome::Taken,
                    _ => SendOutcome::Maybe(RpcErrorClass::NodeUnavailable),
                }
            }
            (_, Some(class)) => match class.taken() {
                Taken::Yes => SendOutcome::Taken,
                Taken::Maybe => SendOutcome::Maybe(class),
                Taken::No => SendOutcome::Refused(class),
            },
            (_, None) => SendOutcome::Maybe(RpcErrorClass::Timeout),
        };
        if let SendOutcome::Refused(class) | SendOutcome::Maybe(class) = outcome
            && let CallAnswer::Error { message, .. } = &answer
        {
            let message: String = message.chars().take(200).collect();
            self.command(LocalCommand::Alert {
                code: class.as_str(),
                detail: format!("nonce {}: {message}", key.nonce),
            });
        }
        if matches!(outcome, SendOutcome::Refused(_)) {
            self.pricing.refused(key);
        }
        let message = match &answer {
            CallAnswer::Error { message, .. } => message.as_str(),
            _ => "",
        };
        self.learn_terms(now, key, outcome, message);
        self.lane_event(now, Event::Sent { key, outcome });
    }
}
