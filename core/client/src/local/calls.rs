//! Calls to the node: time limits, and routing of the answers.

use super::{command::CallAnswer, parts::Purpose, state::LocalRelay};
use crate::time::Timestamp;

impl LocalRelay {
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
            Purpose::Code { asked, forwarder } => self.on_code(now, asked, forwarder, answer.read()),
            Purpose::DataFee { asked } => self.on_data_fee(now, asked, answer.read()),
            Purpose::Simulate { asked } => self.on_simulated(now, asked, answer),
            Purpose::Member { asked, place } => self.on_member(now, asked, place, answer),
            Purpose::Verify { asked, place } => self.on_verified(now, asked, place, answer),
            Purpose::UserNonce { reading, user } => self.on_user_nonce(now, reading, user, answer),
        }
    }
}
