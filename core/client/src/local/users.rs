//! Reads of users' forwarder nonces.

use alloy_primitives::Bytes;
use alloy_sol_types::SolCall;
use serde_json::Value;
use slackwater_contracts::forwarder::noncesCall;

use super::{
    command::{CallAnswer, eth_call, height, word},
    parts::{Errand, Purpose, Reading},
    state::LocalRelay,
};
use crate::{
    chain::RpcErrorClass,
    sender::{Input, Inspection, User},
    time::Timestamp,
};

impl LocalRelay {
    /// Reads the suspects' nonces at the head. Nodes without old state can't serve them at a final block later.
    pub(super) fn confirm_users(&mut self, now: Timestamp, users: Vec<User>, final_block: u64) {
        self.read_at.retain(|(user, _)| users.contains(user));
        let (number, hash) = (self.head(), self.heads.hash.unwrap_or_default());
        self.read_users(now, Errand::Confirm { number, hash, final_block }, users);
    }

    pub(super) fn read_users(&mut self, now: Timestamp, errand: Errand, users: Vec<User>) {
        let block: Value = match errand {
            Errand::Confirm { number, .. } => height(number),
            // A nonce that is used here is used for good (I9).
            Errand::Inspect(_) => self.final_block().map_or_else(|| "finalized".into(), height),
            Errand::LookUp | Errand::Recheck | Errand::Gaps => "latest".into(),
        };
        let reading = self.id();
        let (told, found, waits) = (Vec::new(), Vec::new(), users.len());
        if users.is_empty() {
            return self.tell_reading(now, Reading { errand, users, waits, told, found });
        }
        self.readings.insert(reading, Reading { errand, users: users.clone(), waits, told, found });
        for user in users {
            let (forwarder, owner) = user;
            let params = eth_call(forwarder, noncesCall { owner }.abi_encode(), block.clone());
            self.call(now, Purpose::UserNonce { reading, user }, "eth_call", params);
        }
    }

    pub(super) fn on_user_nonce(&mut self, now: Timestamp, id: u64, user: User, answer: CallAnswer) {
        let Some(reading) = self.readings.get_mut(&id) else { return };
        reading.waits = reading.waits.saturating_sub(1);
        // An unavailable or busy node says nothing about the forwarder.
        if matches!(answer, CallAnswer::Result(_)) || answer.class() == Some(RpcErrorClass::Reverted) {
            reading.told.push(user);
        }
        if let Some(nonce) = answer.read::<Bytes>().and_then(|data| word(&data)) {
            reading.found.push((user, nonce));
        }
        if reading.waits == 0
            && let Some(reading) = self.readings.remove(&id)
        {
            self.tell_reading(now, reading);
        }
    }

    fn tell_reading(&mut self, now: Timestamp, reading: Reading) {
        let Reading { errand, users, told, found, .. } = reading;
        let input = match errand {
            Errand::LookUp => Input::Nonces { asked: told, found },
            Errand::Recheck => Input::Rechecked(found),
            Errand::Gaps => Input::Gaps(found),
            Errand::Inspect(order) => {
                let found = Some(Inspection { nonces: found.into_iter().collect(), ..Inspection::default() });
                Input::Inspected { order, found }
            }
            Errand::Confirm { number, hash, final_block } => {
                let mut confirmed = Vec::with_capacity(users.len());
                for user in users {
                    let latest = found.iter().find(|(of, _)| *of == user).map(|(_, nonce)| *nonce);
                    // A nonce that was read at a block which is final by now.
                    let read = self.read_at.get(&user).copied();
                    let read = read.filter(|(at, hash, _)| self.heads.is_canonical(*at, *hash));
                    let settled = read.filter(|(at, _, _)| *at <= final_block).map(|(_, _, nonce)| nonce);
                    if let Some(nonce) = latest.filter(|_| read.is_none() || settled.is_some()) {
                        self.read_at.insert(user, (number, hash, nonce));
                    }
                    confirmed.push((user, settled, latest));
                }
                Input::Confirmed(confirmed)
            }
        };
        self.tell(now, input);
    }
}
