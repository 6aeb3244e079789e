//! Broadcasts, and polls for receipts.

use alloy_primitives::B256;
use serde_json::json;

use super::{
    command::{CallAnswer, parse},
    parts::{PollRun, Purpose},
    state::{LANE, LocalRelay},
};
use crate::{
    chain::{RpcErrorClass, Taken, least_price, refused_fee_cap},
    lane::{AttemptKey, PollPurpose, SendOutcome},
    protection::Protection,
    record::{AttemptRecord, Durable},
    request::receipt::RpcReceipt,
    sender::{Input, SendReport},
    time::Timestamp,
};

/// Longest message of a node that is passed on, characters.
const MAX_MESSAGE_CHARS: usize = 200;

impl LocalRelay {
    pub(super) fn broadcast(&mut self, now: Timestamp, key: AttemptKey, attempt: &Durable<AttemptRecord>) {
        self.call(now, Purpose::Send(key), "eth_sendRawTransaction", json!([attempt.get().raw]));
    }

    pub(super) fn on_sent(&mut self, now: Timestamp, key: AttemptKey, answer: CallAnswer) {
        let attempt = self.sender.lane(LANE).and_then(|lane| lane.durable.get(&key));
        let (hash, fees) = attempt.map(|attempt| (attempt.get().hash, attempt.get().fees)).unwrap_or_default();
        let outcome = match (&answer, answer.class()) {
            // A node that returns another hash is faulty; it may or may not have accepted the bytes.
            (CallAnswer::Result(text), _) => match parse::<B256>(text) {
                Some(told) if told == hash => SendOutcome::Taken,
                _ => SendOutcome::Maybe(RpcErrorClass::NodeUnavailable),
            },
            (_, Some(class)) => match class.taken() {
                Taken::Yes => SendOutcome::Taken,
                Taken::Maybe => SendOutcome::Maybe(class),
                Taken::No => SendOutcome::Refused(class),
            },
            (_, None) => SendOutcome::Maybe(RpcErrorClass::Timeout),
        };
        let message = answer.message();
        if let SendOutcome::Refused(class) | SendOutcome::Maybe(class) = outcome
            && !message.is_empty()
        {
            let message: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
            self.alert(class.as_str(), format!("nonce {}: {message}", key.nonce));
        }
        let tip = fees.max_priority_fee_per_gas;
        let mut report = SendReport::of(outcome);
        match outcome {
            SendOutcome::Refused(RpcErrorClass::Underpriced) => report.least_tip = least_price(message, tip),
            SendOutcome::Refused(RpcErrorClass::InvalidFees) => {
                let flight = self.sender.lane(LANE).and_then(|lane| lane.flights.get(&key.nonce));
                let gas = flight.map_or(0, |flight| flight.record.gas_limit);
                if let Some(named) = refused_fee_cap(message) {
                    let below = u128::from(gas).saturating_mul(fees.max_fee_per_gas).saturating_sub(1);
                    self.fee_cap_wei = Some(named.unwrap_or(below).min(below));
                }
            }
            _ => {}
        }
        self.tell(now, Input::Sent { lane: LANE, key, report });
    }

    pub(super) fn find_receipts(&mut self, now: Timestamp, nonce: u64, hashes: Vec<B256>, purpose: PollPurpose) {
        let poll = self.id();
        let (at_block, waits) = (self.head(), hashes.len());
        let run = PollRun { nonce, purpose, hashes: hashes.clone(), is_complete: true, found: None, at_block, waits };
        if hashes.is_empty() {
            return self.tell_poll(now, run);
        }
        self.polls.insert(poll, run);
        for hash in hashes {
            self.call(now, Purpose::Receipt { poll, hash }, "eth_getTransactionReceipt", json!([hash]));
        }
    }

    pub(super) fn on_receipt(&mut self, now: Timestamp, poll: u64, hash: B256, answer: CallAnswer) {
        let Some(run) = self.polls.get_mut(&poll) else { return };
        run.waits = run.waits.saturating_sub(1);
        match answer.read::<Option<RpcReceipt>>() {
            Some(Some(receipt)) if receipt.transaction_hash == hash => {
                // A pre-confirmation without a block is no inclusion.
                if let Some(receipt) = receipt.into_receipt() {
                    run.found = Some(Box::new(receipt));
                }
            }
            Some(None) => {}
            Some(Some(_)) | None => run.is_complete = false,
        }
        if run.waits > 0 {
            return;
        }
        let Some(mut run) = self.polls.remove(&poll) else { return };
        let last = self.final_block();
        if let Some(found) = &run.found {
            // A found receipt counts, whatever else was not answered.
            run.is_complete = true;
            if last.is_none_or(|last| found.block_number > last) && Protection::SettleAtFinality.is_on() {
                run.purpose = PollPurpose::Inclusion;
            }
            // I9: a receipt from a block known not to be canonical belongs to another branch.
            if self.heads.is_other(found.block_number, found.block_hash) {
                run.found = None;
                run.is_complete = false;
            }
        }
        if run.found.is_none() && run.is_complete && run.purpose == PollPurpose::Finality {
            self.find_spender(now, poll, run);
        } else {
            self.tell_poll(now, run);
        }
    }

    pub(super) fn tell_poll(&mut self, now: Timestamp, run: PollRun) {
        let PollRun { nonce, purpose, found, is_complete, at_block, .. } = run;
        // A foreign transaction's cost is the session key's, and asked of nobody.
        let stranger = None;
        self.tell(now, Input::Receipts { lane: LANE, nonce, purpose, found, is_complete, at_block, stranger });
    }
}
