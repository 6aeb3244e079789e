//! Users who sign forward requests, and the relayer's accounts. Keys are derived from names: the same in every run.

use alloy_primitives::{Address, B256, Bytes, U256, hex, keccak256};
use alloy_sol_types::SolCall;
use hyper::body::Bytes as Body;
use secp256k1::{Message, SECP256K1, SecretKey, ecdsa::RecoveryId};
use serde_json::{Value, json};
use slackwater_contracts::{
    forwarder::ForwardRequestData,
    guestbook::IGuestbook::{markCall, signCall},
};
use slackwater_core::request::{Forward, ForwarderDomain};

use crate::world::World;

/// A key and its address. Never one with money on a real chain: anybody can derive it.
#[derive(Debug, Clone)]
pub struct Account {
    secret: SecretKey,
    /// The address.
    pub address: Address,
}

impl Account {
    /// The `index`-th account of `name`.
    ///
    /// # Panics
    /// Never in practice: a hash is a valid key but for a chance of 2^-128.
    pub fn derive(name: &str, index: u64) -> Self {
        let seed = keccak256(format!("slackwater test account {name} {index}"));
        let secret = SecretKey::from_byte_array(seed.0).expect("a hash below the curve order");
        let point = secret.public_key(SECP256K1).serialize_uncompressed();
        let address = Address::from_slice(&keccak256(&point[1..])[12..]);
        Self { secret, address }
    }

    /// The private key as `0x` hex, for configuration files.
    pub fn secret_hex(&self) -> String {
        hex::encode_prefixed(self.secret.secret_bytes())
    }

    /// The private key.
    pub fn secret_bytes(&self) -> [u8; 32] {
        self.secret.secret_bytes()
    }

    /// 65 bytes `r ‖ s ‖ v` with low `s` and `v` 27 or 28.
    pub fn sign(&self, digest: B256) -> [u8; 65] {
        let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.secret);
        let (id, compact) = signature.serialize_compact();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = match id {
            RecoveryId::Zero => 27,
            RecoveryId::One => 28,
            // The x coordinate would have to exceed the order: a chance of 2^-128.
            RecoveryId::Two | RecoveryId::Three => unreachable!("a point with overflowing x"),
        };
        bytes
    }
}

/// A user with the next nonce to sign.
#[derive(Debug, Clone)]
pub struct User {
    /// The key.
    pub account: Account,
    /// Nonce of the next request at the forwarder.
    pub next_nonce: u64,
}

/// A signed request with everything needed to send and to find it.
#[derive(Debug, Clone)]
pub struct SignedRequest {
    /// Its id: the EIP-712 digest.
    pub id: B256,
    /// The signed forward request.
    pub forward: Forward,
    /// The tag that its execution marks.
    pub tag: B256,
    /// Body of `POST /v1/requests`.
    pub body: Body,
}

impl SignedRequest {
    /// The same as calldata for the forwarder.
    pub fn data(&self) -> ForwardRequestData {
        forward_data(&self.forward)
    }
}

/// A request as the forwarder takes it.
///
/// # Panics
/// If the deadline does not fit 48 bits.
pub fn forward_data(forward: &Forward) -> ForwardRequestData {
    ForwardRequestData {
        from: forward.from,
        to: forward.to,
        value: forward.value,
        gas: forward.gas,
        deadline: forward.deadline.try_into().expect("deadline fits 48 bits"),
        data: forward.data.clone(),
        signature: forward.signature.clone(),
    }
}

/// Content of a request, without its signer and nonce.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The target.
    pub to: Address,
    /// Value in wei.
    pub value: U256,
    /// Gas limit of the call to the target.
    pub gas: u64,
    /// Calldata.
    pub data: Bytes,
    /// On-chain deadline, Unix seconds.
    pub deadline_s: u64,
    /// The API's `within`, such as `30s`.
    pub within: Option<String>,
    /// The API's `maxCost`, wei.
    pub max_cost_wei: Option<U256>,
}

/// Gas that `Guestbook.mark` gets: it uses up to 96 k for a user's first entry with a new tag.
pub const MARK_GAS: u64 = 120_000;

/// Gas that `Guestbook.sign` gets: it uses up to 56 k for a user's first entry.
pub const MESSAGE_GAS: u64 = 80_000;

/// On-chain deadline, in seconds after signing, of requests that set no other.
const DEADLINE_S: u64 = 3_600;

/// Many users of one world.
#[derive(Debug, Clone)]
pub struct Crowd {
    domain: ForwarderDomain,
    guestbook: Address,
    chain_id: u64,
    /// Start of its tags: crowds of different names never mark the same tag.
    name: String,
    /// The users.
    pub users: Vec<User>,
    marked: u64,
}

impl Crowd {
    /// `users` users who never signed anything in `world`.
    pub fn new(world: &World, users: usize) -> Self {
        Self::named(world, "user", users)
    }

    /// As [`Self::new`] with other keys: crowds of different names have different users.
    pub fn named(world: &World, name: &str, users: usize) -> Self {
        let users = (0..users as u64).map(|i| User { account: Account::derive(name, i), next_nonce: 0 }).collect();
        let name = name.to_owned();
        Self { domain: world.domain(), guestbook: world.guestbook, chain_id: world.chain_id, name, users, marked: 0 }
    }

    /// The domain they sign for.
    pub const fn domain(&self) -> &ForwarderDomain {
        &self.domain
    }

    /// `count` requests that each mark a tag of their own, users taking turns.
    pub fn marks(&mut self, count: usize) -> Vec<SignedRequest> {
        (0..count).map(|_| self.mark(usize::try_from(self.marked).unwrap_or(0) % self.users.len().max(1))).collect()
    }

    /// One request of `user` that marks a tag of its own.
    pub fn mark(&mut self, user: usize) -> SignedRequest {
        let ask = self.ask_mark(None);
        self.sign(user, &ask)
    }

    /// As [`Self::mark`], with the API's `within`.
    pub fn mark_within(&mut self, user: usize, within: &str) -> SignedRequest {
        let ask = self.ask_mark(Some(within.to_owned()));
        self.sign(user, &ask)
    }

    /// One request of `user` that leaves a message; its tag is the message's hash.
    pub fn message(&mut self, user: usize, text: &str) -> SignedRequest {
        self.leave(user, text, None)
    }

    /// As [`Self::message`], with the API's `within`.
    pub fn message_within(&mut self, user: usize, text: &str, within: &str) -> SignedRequest {
        self.leave(user, text, Some(within.to_owned()))
    }

    fn leave(&mut self, user: usize, text: &str, within: Option<String>) -> SignedRequest {
        let data = signCall { message: text.to_owned() }.abi_encode();
        let ask = self.ask(data, MESSAGE_GAS, within);
        SignedRequest { tag: keccak256(text), ..self.sign(user, &ask) }
    }

    fn ask_mark(&mut self, within: Option<String>) -> Ask {
        let tag = keccak256(format!("slackwater test tag {} {}", self.name, self.marked));
        self.marked += 1;
        self.ask(markCall { tag }.abi_encode(), MARK_GAS, within)
    }

    fn ask(&self, data: Vec<u8>, gas: u64, within: Option<String>) -> Ask {
        Ask {
            to: self.guestbook,
            value: U256::ZERO,
            gas,
            data: data.into(),
            deadline_s: unix_seconds() + DEADLINE_S,
            within,
            max_cost_wei: None,
        }
    }

    /// Signs `ask` with the next nonce of `user`.
    pub fn sign(&mut self, user: usize, ask: &Ask) -> SignedRequest {
        let signer = &mut self.users[user];
        let nonce = signer.next_nonce;
        signer.next_nonce += 1;
        let account = signer.account.clone();
        self.sign_at(&account, nonce, ask)
    }

    /// Signs `ask` with any key and nonce.
    pub fn sign_at(&self, account: &Account, nonce: u64, ask: &Ask) -> SignedRequest {
        let mut forward = Forward {
            forwarder: self.domain.forwarder(),
            from: account.address,
            to: ask.to,
            value: ask.value,
            gas: U256::from(ask.gas),
            nonce: U256::from(nonce),
            deadline: ask.deadline_s,
            data: ask.data.clone(),
            signature: Bytes::new(),
        };
        let id = self.domain.digest(&forward);
        forward.signature = account.sign(id).into();
        let mut body = submit_body(self.chain_id, &forward);
        if let Some(within) = &ask.within {
            body["within"] = json!(within);
        }
        if let Some(max_cost) = ask.max_cost_wei {
            body["maxCost"] = json!(max_cost.to_string());
        }
        let tag = markCall::abi_decode(&ask.data).map(|call| call.tag).unwrap_or_default();
        SignedRequest { id, forward, tag, body: body.to_string().into() }
    }
}

/// Body of `POST /v1/requests` for `forward`.
pub fn submit_body(chain_id: u64, forward: &Forward) -> Value {
    json!({
        "chainId": chain_id,
        "kind": "forward",
        "forward": {
            "forwarder": forward.forwarder,
            "from": forward.from,
            "to": forward.to,
            "value": forward.value.to_string(),
            "gas": forward.gas.to_string(),
            "nonce": forward.nonce.to_string(),
            "deadline": forward.deadline,
            "data": forward.data,
            "signature": forward.signature,
        },
    })
}

/// Body of `POST /v1/requests/batch` for already encoded requests.
pub fn batch_body<'a>(bodies: impl IntoIterator<Item = &'a Body>) -> Body {
    let mut text = br#"{"requests":["#.to_vec();
    for (i, body) in bodies.into_iter().enumerate() {
        if i > 0 {
            text.push(b',');
        }
        text.extend_from_slice(body);
    }
    text.extend_from_slice(b"]}");
    text.into()
}

/// Current time, Unix seconds.
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_what_the_relayer_recovers() {
        let world = World::at(31_337, "Test", Address::repeat_byte(1), Address::repeat_byte(2));
        let mut crowd = Crowd::new(&world, 2);
        let requests = crowd.marks(4);
        let nonces: Vec<_> = requests.iter().map(|request| request.forward.nonce.to::<u64>()).collect();
        assert_eq!(nonces, [0, 0, 1, 1]);
        for request in requests {
            let recovered = slackwater_core::request::recover(request.id, &request.forward.signature);
            assert_eq!(recovered, Ok(request.forward.from));
        }
    }
}
