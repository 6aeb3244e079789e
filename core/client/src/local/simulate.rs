//! Checks of a batch at the node: the forwarder's code, the L1 data fee, the simulation.

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use slackwater_contracts::{forwarder::forwarder_version, rollup::GasPriceOracle::getL1FeeCall};

use super::{
    command::{CallAnswer, eth_call, parse, word},
    parts::{Asked, Purpose},
    state::{LANE, LocalRelay},
};
use crate::{
    chain::{RpcErrorClass, is_execution_failure},
    request::{
        gate::Word,
        outcome::MemberOutcome,
        simulation::{self, Environment, SimulatedBlock, Verdict},
        verify_input,
    },
    sender::{Candidate, DataQuote, Input, Simulation},
    table::Table,
    time::Timestamp,
};

/// Assumed envelope size of a transaction, bytes, for its L1 data fee.
const ENVELOPE_BYTES: usize = 120;

impl LocalRelay {
    pub(super) fn simulate(&mut self, now: Timestamp, candidate: Box<Candidate>, environment: Environment, block: u64) {
        let id = self.id();
        let words = vec![Word::Executes; candidate.members.len()];
        let data_quote = DataQuote::default();
        self.asked = Some(Asked { id, candidate, environment, block, data_quote, words, waits: 0 });
        self.check_code(now);
    }

    fn asked(&mut self, id: u64) -> Option<&mut Asked> {
        self.asked.as_mut().filter(|asked| asked.id == id)
    }

    /// Ends the simulation without an answer.
    fn unanswered(&mut self, now: Timestamp) {
        let count = self.asked.as_ref().map_or(0, |asked| asked.candidate.members.len());
        self.judged(now, vec![Word::Unknown; count], Vec::new(), None);
    }

    /// Ends the simulation with one word per member.
    fn judged(&mut self, now: Timestamp, words: Vec<Word>, used: Vec<Option<u64>>, whole: Option<String>) {
        let Some(Asked { candidate, block, data_quote, .. }) = self.asked.take() else { return };
        let whole_words = usize::from(whole.is_some());
        // The only node is the one at place 0.
        let against = words.iter().map(|word| if word.is_no() { vec![0] } else { Vec::new() }).collect();
        let contradicted = Vec::new();
        let simulation = Simulation { words, used, whole, whole_words, against, contradicted, block };
        self.tell(now, Input::Simulated { lane: LANE, candidate, simulation, data_quote });
    }

    // ---- the forwarder ----

    fn check_code(&mut self, now: Timestamp) {
        let Some(asked) = &self.asked else { return };
        let Some(forwarder) = asked.candidate.selection.key.nonce_contract() else { return self.ask_data_fee(now) };
        match self.forwarders.get(&forwarder) {
            None => {
                let purpose = Purpose::Code { asked: asked.id, forwarder };
                self.call(now, purpose, "eth_getCode", json!([forwarder, "latest"]));
            }
            Some(false) if !self.config.allow_unknown_forwarder => {
                let detail = format!("the code at {forwarder} is no known forwarder");
                let words = vec![Word::Skipped(Some(detail)); asked.candidate.members.len()];
                // A lagging node may not have the code yet, so the next batch asks again. The cache is cleared whole,
                // which costs one more call per known forwarder; the simplest code for a page.
                self.forwarders = Table::new();
                self.judged(now, words, Vec::new(), None);
            }
            Some(_) => self.ask_data_fee(now),
        }
    }

    pub(super) fn on_code(&mut self, now: Timestamp, id: u64, forwarder: Address, code: Option<Bytes>) {
        if let Some(code) = &code {
            self.forwarders.insert(forwarder, forwarder_version(code).is_some());
        }
        if self.asked(id).is_none() {
            return;
        }
        match code {
            Some(_) => self.check_code(now),
            None => self.unanswered(now),
        }
    }

    // ---- the L1 data fee ----

    fn ask_data_fee(&mut self, now: Timestamp) {
        let (Some(asked), Some(oracle)) = (&self.asked, self.config.l1_fee_oracle) else { return self.ask(now) };
        let mut bytes = asked.candidate.payload.data.to_vec();
        bytes.extend(std::iter::repeat_n(0xff, ENVELOPE_BYTES));
        let data = getL1FeeCall { unsignedTx: bytes.into() }.abi_encode();
        let purpose = Purpose::DataFee { asked: asked.id };
        self.call(now, purpose, "eth_call", eth_call(oracle, data, "latest".into()));
    }

    pub(super) fn on_data_fee(&mut self, now: Timestamp, id: u64, answer: Option<Bytes>) {
        let fee = answer.filter(|data| data.len() == 32).map(|data| U256::from_be_slice(&data));
        let Some(asked) = self.asked(id) else { return };
        asked.data_quote.data_fee = fee;
        match fee {
            Some(fee) => {
                self.data_fee = fee;
                self.ask(now);
            }
            None => self.unanswered(now),
        }
    }

    // ---- the simulation ----

    fn ask(&mut self, now: Timestamp) {
        let Some(asked) = &self.asked else { return };
        let (id, key) = (asked.id, asked.candidate.selection.key);
        let Candidate { members, ahead, .. } = &*asked.candidate;
        let params = self.sender.facts.params;
        let is_known = key.nonce_contract().is_none_or(|contract| self.forwarders.get(&contract) == Some(&true));
        if !ahead.is_empty() && !is_known {
            // The storage slot of an unknown forwarder's nonces is not known.
            let words = asked.words.clone();
            return self.judged(now, words, Vec::new(), None);
        }
        if !self.lacks_simulate {
            let environment = Environment { parent: Some(asked.block), ..asked.environment };
            let params = simulation::params(&params, key, members, ahead, &environment);
            self.call(now, Purpose::Simulate { asked: id }, "eth_simulateV1", params);
            return;
        }
        // The batch as a whole succeeds whatever its members do, so each member is called as its target will see it.
        let (sender, block, environment) = (params.sender, json!("latest"), Environment::default());
        let calls: Vec<Value> = members
            .iter()
            .map(|member| simulation::member_params(sender, key, &params, member, &block, &environment))
            .collect();
        if let Some(asked) = &mut self.asked {
            asked.waits = calls.len();
        }
        for (place, params) in calls.into_iter().enumerate() {
            self.call(now, Purpose::Member { asked: id, place }, "eth_call", params);
        }
    }

    pub(super) fn on_simulated(&mut self, now: Timestamp, id: u64, answer: CallAnswer) {
        let Some(asked) = self.asked(id) else { return };
        let (key, members) = (asked.candidate.selection.key, asked.candidate.members.clone());
        let verdict = match (answer.class(), answer) {
            (None, CallAnswer::Result(text)) => match parse::<Vec<SimulatedBlock>>(&text) {
                Some(blocks) => simulation::verdict(blocks, key, &members),
                None => Verdict::Unknown,
            },
            (Some(RpcErrorClass::Reverted), CallAnswer::Error { message, .. }) => Verdict::Whole(message),
            (Some(RpcErrorClass::EndpointUnusable | RpcErrorClass::BadTransaction), _) => {
                // Wallets and older nodes do not know the method.
                self.lacks_simulate = true;
                return self.ask(now);
            }
            _ => Verdict::Unknown,
        };
        let (words, used, whole) = simulation::heard(verdict, &members);
        self.judged(now, words, used, whole);
    }

    pub(super) fn on_member(&mut self, now: Timestamp, id: u64, place: usize, answer: CallAnswer) {
        let class = answer.class();
        let Some(asked) = self.asked(id) else { return };
        let Candidate { members, ahead, .. } = &*asked.candidate;
        let word = match (class, &answer) {
            (None, CallAnswer::Result(_)) => Word::Executes,
            (Some(class), CallAnswer::Error { message, .. })
                if class == RpcErrorClass::Reverted || is_execution_failure(message) =>
            {
                // A later request of the same user will execute on a different state.
                let is_first = members.get(place).is_some_and(|member| !member.is_guarded())
                    || simulation::verifiable(members, ahead).contains(&place);
                match is_first {
                    true => Word::Reverts(Some(simulation::call_revert_text(message, None))),
                    false => Word::Executes,
                }
            }
            _ => Word::Unknown,
        };
        if self.is_heard(id, place, word) {
            self.verify_members(now);
        }
    }

    /// Records a member's word; true if it was the last one awaited.
    fn is_heard(&mut self, id: u64, place: usize, word: Word) -> bool {
        let Some(asked) = self.asked(id) else { return false };
        asked.waits = asked.waits.saturating_sub(1);
        if word != Word::Executes
            && let Some(own) = asked.words.get_mut(place)
        {
            *own = word;
        }
        asked.waits == 0
    }

    /// Calls the forwarder's `verify` for the members that can be verified on the present state.
    fn verify_members(&mut self, now: Timestamp) {
        let Some(asked) = self.asked.as_mut() else { return };
        let id = asked.id;
        let Candidate { members, ahead, selection, .. } = &*asked.candidate;
        let call = |contract: Address, place: usize| {
            Some((place, eth_call(contract, verify_input(&members[place])?, "latest".into())))
        };
        let calls: Vec<(usize, Value)> = match selection.key.nonce_contract() {
            Some(contract) => {
                let first = simulation::verifiable(members, ahead).into_iter();
                first.filter_map(|place| call(contract, place)).collect()
            }
            None => Vec::new(),
        };
        asked.waits = calls.len();
        if calls.is_empty() {
            let words = asked.words.clone();
            return self.judged(now, words, Vec::new(), None);
        }
        for (place, params) in calls {
            self.call(now, Purpose::Verify { asked: id, place }, "eth_call", params);
        }
    }

    pub(super) fn on_verified(&mut self, now: Timestamp, id: u64, place: usize, answer: CallAnswer) {
        let class = answer.class();
        let is_valid = match answer.read::<Bytes>() {
            Some(data) => word(&data) == Some(1),
            // A missing answer is inconclusive.
            None => class != Some(RpcErrorClass::Reverted),
        };
        let word = if is_valid { Word::Executes } else { Word::of(MemberOutcome::Untouched) };
        if self.is_heard(id, place, word)
            && let Some(asked) = &self.asked
        {
            let words = asked.words.clone();
            self.judged(now, words, Vec::new(), None);
        }
    }
}
