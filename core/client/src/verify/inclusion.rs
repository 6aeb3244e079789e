//! Check of a claim about the chain at the user's own node.

use std::fmt;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::SolCall;
use slackwater_contracts::forwarder::{ForwardRequestData, executeBatchCall, executeCall, forwarder_build};

use super::forwarder::trusts;
use crate::{
    Event, RequestSummary,
    chain::FinalityRule,
    request::{Forward, ForwarderDomain, Status, executed, recover},
    rpc::{self, Block, BlockRef, Receipt, RpcCall, RpcError, Transaction},
};

/// The relayer's claim about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionClaim {
    /// `included`, `finalized` or `reverted`: only these refer to a transaction.
    pub status: Status,
    /// Hash of the transaction.
    pub tx_hash: B256,
    /// Number of its block; `None` if not claimed.
    pub block_number: Option<u64>,
}

impl InclusionClaim {
    fn new(status: Option<Status>, tx_hash: Option<B256>, block_number: Option<u64>) -> Option<Self> {
        let status =
            status.filter(|status| matches!(status, Status::Included | Status::Finalized | Status::Reverted))?;
        Some(Self { status, tx_hash: tx_hash?, block_number })
    }

    /// The claim in a request's state; `None` if it claims no execution.
    pub fn of_summary(summary: &RequestSummary) -> Option<Self> {
        Self::new(summary.status.known(), summary.tx_hash, summary.block_number)
    }

    /// The claim in an event; `None` if it claims no execution.
    pub fn of_event(event: &Event) -> Option<Self> {
        Self::new(event.status.known(), event.tx_hash, event.block_number)
    }
}

/// Strength of the evidence that the execution is of this very request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// The transaction's calldata contains the request as signed, and the order of the events leaves room for no other
    /// with this nonce.
    Content,
    /// Only signer and nonce: the transaction does not call the forwarder directly, or a member of its batch may have
    /// made the forwarder run something within its own call. Another request signed by the same user with the same
    /// nonce would look the same.
    Nonce,
}

/// Contradiction between the relayer's claim and the user's node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// The transaction exists and did not execute the request.
    NotInTransaction,
    /// The transaction reverted as a whole.
    TransactionReverted,
    /// It was executed, but the target failed; success was claimed.
    TargetFailed,
    /// It was executed, and the target succeeded; failure was claimed.
    TargetSucceeded,
    /// The transaction executed another request of the user with this nonce.
    OtherRequest,
    /// It is in another block than claimed to be final.
    OtherBlock {
        /// Claimed block number.
        claimed: u64,
        /// Block number at the node.
        found: u64,
    },
    /// It can't have been executed: at a block that is final at the node, and not before the claimed one, the user's
    /// nonce is unused.
    NeverExecuted {
        /// The user's next nonce at that block.
        next_nonce: U256,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInTransaction => f.write_str("the transaction did not execute the request"),
            Self::TransactionReverted => f.write_str("the transaction reverted"),
            Self::TargetFailed => f.write_str("the target failed, claimed was success"),
            Self::TargetSucceeded => f.write_str("the target succeeded, claimed was failure"),
            Self::OtherRequest => f.write_str("the transaction executed another request with this nonce"),
            Self::OtherBlock { claimed, found } => {
                write!(f, "it is in block {found}, claimed to be final in {claimed}")
            }
            Self::NeverExecuted { next_nonce } => {
                write!(f, "it was not executed: the next nonce is still {next_nonce}")
            }
        }
    }
}

/// Verdict of the user's node on the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The claim is true.
    Confirmed {
        /// True if the block is final by the chain's rule at this node. If finality was claimed, `false` means that the
        /// node is behind; ask again.
        is_final: bool,
        /// True if the target succeeded.
        is_success: bool,
        /// Number of the block.
        block_number: u64,
        /// Hash of the block.
        block_hash: B256,
        /// Strength of the evidence that it is this request.
        binding: Binding,
    },
    /// The node does not have the transaction in a block (yet, or any more). Ask again.
    Pending,
    /// The claim is false.
    Mismatch(Mismatch),
    /// The target does not trust the forwarder: whatever the forwarder states, nothing happened there in the user's
    /// name.
    UntrustedForwarder,
    /// The forwarder states that it ran the request, without proof: its code was not a published build of
    /// OpenZeppelin's `ERC2771Forwarder`, and the caller did not [pin](InclusionCheck::pinned) it.
    UnknownForwarder {
        /// Keccak-256 of its code.
        code_hash: B256,
    },
    /// The node can't tell: it refused, is of another chain, is behind, has no old receipts, or changed its answers in
    /// between. Ask again, or ask another node.
    Unknown(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    ChainId,
    Tagged(&'static str),
    Head,
    Receipt,
    Canonical(u64),
    Transaction,
    /// The user's nonce at a final block.
    NonceAt(u64),
    /// The target's trust in the forwarder, as of the block that executed the request or, if the node has pruned that
    /// state, at the head.
    Trust(BlockRef),
    /// The forwarder's code before that block, or at the head. Before, because code deployed and removed again within a
    /// transaction could have been anything, but code that was there before can't have changed.
    Code(BlockRef),
    Done,
}

const NOW: BlockRef = BlockRef::Tag("latest");

/// Check of one claim: a state machine that queries the user's node step by step.
///
/// Heads are read before the receipt, so that blocks final by them were final when the receipt was read. An event
/// proves no more than the contract that emits it: before anything is confirmed, the target is asked whether it trusts
/// the forwarder, and the forwarder's code is compared with the known builds.
///
/// ```
/// # use alloy_primitives::{Address, B256, Bytes, U256};
/// # use slackwater_client::verify::{InclusionCheck, InclusionClaim, Verdict};
/// # use slackwater_core::{chain::FinalityRule, request::{Forward, ForwarderDomain, Status}};
/// # let domain = ForwarderDomain::new("Slackwater", 8453, Address::ZERO);
/// # let forward = Forward { forwarder: Address::ZERO, from: Address::ZERO, to: Address::ZERO, value: U256::ZERO,
/// #     gas: U256::from(1), nonce: U256::ZERO, deadline: 1, data: Bytes::new(), signature: Bytes::new() };
/// # let claim = InclusionClaim { status: Status::Finalized, tx_hash: B256::ZERO, block_number: Some(7) };
/// # fn ask_own_node(body: &str) -> Vec<u8> { br#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#.to_vec() }
/// let mut check = InclusionCheck::new(domain, forward, claim, FinalityRule::Depth { blocks: 5 });
/// while let Some(body) = check.next_body() {
///     check.answer(&ask_own_node(&body));
/// }
/// assert!(matches!(check.verdict(), Some(Verdict::Unknown(_))), "that node is of chain 1");
/// ```
#[derive(Debug, Clone)]
pub struct InclusionCheck {
    domain: ForwarderDomain,
    forward: Forward,
    claim: InclusionClaim,
    rule: FinalityRule,
    is_pinned: bool,
    ask: Ask,
    tagged: Option<u64>,
    head: u64,
    receipt: Option<Receipt>,
    /// Timestamp of its block, Unix seconds.
    time_s: u64,
    /// The pending verdict, valid if the forwarder is genuine.
    confirmed: Option<Verdict>,
    verdict: Option<Verdict>,
}

impl InclusionCheck {
    /// A check of `claim` about `forward`, signed for `domain`. `rule` is the user's finality rule, such as the chain
    /// preset's.
    pub const fn new(domain: ForwarderDomain, forward: Forward, claim: InclusionClaim, rule: FinalityRule) -> Self {
        Self {
            domain,
            forward,
            claim,
            rule,
            is_pinned: false,
            ask: Ask::ChainId,
            tagged: None,
            head: 0,
            receipt: None,
            time_s: 0,
            confirmed: None,
            verdict: None,
        }
    }

    /// Pins the forwarder, which the caller knows from a source other than the relayer: its code is not compared. The
    /// target's trust is still checked.
    #[must_use]
    pub const fn pinned(mut self) -> Self {
        self.is_pinned = true;
        self
    }

    /// The next JSON-RPC body to send; `None` once there is a verdict.
    pub fn next_body(&self) -> Option<String> {
        match self.ask {
            Ask::ChainId => Some(rpc::chain_id().body()),
            Ask::Tagged(tag) => Some(rpc::block(BlockRef::Tag(tag)).body()),
            Ask::Head => Some(rpc::block(BlockRef::Tag("latest")).body()),
            Ask::Receipt => Some(rpc::receipt(self.claim.tx_hash).body()),
            Ask::Canonical(number) => Some(rpc::block(BlockRef::Number(number)).body()),
            Ask::Transaction => Some(rpc::transaction(self.claim.tx_hash).body()),
            Ask::NonceAt(number) => Some(self.nonce_call(number).body()),
            Ask::Trust(block) => Some(self.trust_call(block).body()),
            Ask::Code(block) => Some(self.code_call(block).body()),
            Ask::Done => None,
        }
    }

    fn trust_call(&self, block: BlockRef) -> RpcCall<bool> {
        rpc::is_trusted_forwarder(self.forward.to, self.forward.forwarder, block)
    }

    fn code_call(&self, block: BlockRef) -> RpcCall<Bytes> {
        rpc::code(self.forward.forwarder, block)
    }

    fn nonce_call(&self, number: u64) -> RpcCall<U256> {
        rpc::nonces(self.forward.forwarder, self.forward.from, BlockRef::Number(number))
    }

    /// The verdict; `None` while answers are missing.
    pub const fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// Reports that the node did not answer.
    pub fn no_answer(&mut self, why: &str) {
        if self.verdict.is_none() {
            self.end(Verdict::Unknown(super::super::http::excerpt(why)));
        }
    }

    /// Processes the body of the node's answer to [`Self::next_body`].
    pub fn answer(&mut self, body: &[u8]) {
        if let Err(verdict) = self.take(body) {
            self.end(verdict);
        }
    }

    fn end(&mut self, verdict: Verdict) {
        self.ask = Ask::Done;
        self.verdict = Some(verdict);
    }

    fn take(&mut self, body: &[u8]) -> Result<(), Verdict> {
        let unknown = |error: RpcError| Verdict::Unknown(error.to_string());
        match self.ask {
            Ask::ChainId => {
                let id = rpc::chain_id().parse(body).map_err(unknown)?;
                if id != self.domain.chain_id() {
                    let expected = self.domain.chain_id();
                    return Err(Verdict::Unknown(format!("the node is of chain {id}, not {expected}")));
                }
                self.ask = self.rule.tag().map_or(Ask::Head, Ask::Tagged);
            }
            Ask::Tagged(tag) => {
                // Nodes that do not support a tag answer null or an error: then it is absent.
                let block = rpc::block(BlockRef::Tag(tag)).parse(body);
                self.tagged = block.ok().flatten().map(|block| block.number);
                self.ask = Ask::Head;
            }
            Ask::Head => {
                let head = rpc::block(BlockRef::Tag("latest")).parse(body).map_err(unknown)?;
                let head = head.ok_or_else(|| Verdict::Unknown("the node has no head".to_owned()))?;
                self.head = head.number;
                self.ask = Ask::Receipt;
            }
            Ask::Receipt => {
                let receipt = rpc::receipt(self.claim.tx_hash).parse(body).map_err(unknown)?;
                self.ask = self.take_receipt(receipt)?;
            }
            Ask::Canonical(number) => {
                let block = rpc::block(BlockRef::Number(number)).parse(body).map_err(unknown)?;
                self.check_canonical(block)?;
                self.ask = Ask::Transaction;
            }
            Ask::Transaction => {
                let transaction = rpc::transaction(self.claim.tx_hash).parse(body).map_err(unknown)?;
                self.confirmed = Some(self.judge(transaction)?);
                self.ask = Ask::Trust(BlockRef::Number(self.place().0));
            }
            Ask::Trust(block) => match trusts(self.trust_call(block).parse(body)) {
                Err(_) if block != NOW => self.ask = Ask::Trust(NOW),
                Err(error) => return Err(unknown(error)),
                Ok(false) => return Err(Verdict::UntrustedForwarder),
                Ok(true) if self.is_pinned => return Err(self.confirmed()),
                Ok(true) => self.ask = Ask::Code(BlockRef::Number(self.place().0.saturating_sub(1))),
            },
            Ask::Code(block) => match self.code_call(block).parse(body) {
                Err(_) if block != NOW => self.ask = Ask::Code(NOW),
                Err(error) => return Err(unknown(error)),
                Ok(code) if forwarder_build(&code).is_some() => return Err(self.confirmed()),
                Ok(code) => return Err(Verdict::UnknownForwarder { code_hash: keccak256(&code) }),
            },
            Ask::NonceAt(number) => {
                let next_nonce = self.nonce_call(number).parse(body).map_err(unknown)?;
                return Err(if next_nonce <= self.forward.nonce {
                    Verdict::Mismatch(Mismatch::NeverExecuted { next_nonce })
                } else {
                    Verdict::Unknown("the node has no receipt; the nonce is used".to_owned())
                });
            }
            Ask::Done => {}
        }
        Ok(())
    }

    fn take_receipt(&mut self, receipt: Option<Receipt>) -> Result<Ask, Verdict> {
        let Some(receipt) = receipt.filter(|receipt| receipt.block.is_some()) else {
            return match self.claim.block_number {
                // The node may have pruned old receipts. The nonce is in its state: if it is unused at a final block
                // that is not before the claimed one, the claim is false, whatever happened to the receipt.
                Some(claimed) if self.claim.status != Status::Included => match self.newest_final(claimed) {
                    Some(number) => Ok(Ask::NonceAt(number)),
                    None => Err(Verdict::Unknown(format!("the node does not call block {claimed} final yet"))),
                },
                None if self.claim.status != Status::Included => {
                    Err(Verdict::Unknown("the node has no receipt, and no block was claimed".to_owned()))
                }
                _ => Err(Verdict::Pending),
            };
        };
        if receipt.tx_hash != self.claim.tx_hash {
            return Err(Verdict::Unknown("the node answered with another transaction's receipt".to_owned()));
        }
        let number = receipt.block.map_or(0, |(number, _)| number);
        self.receipt = Some(receipt);
        Ok(Ask::Canonical(number))
    }

    /// The newest block that is final at the node, if that is `claimed` or a later one.
    fn newest_final(&self, claimed: u64) -> Option<u64> {
        if !self.rule.is_final(claimed, self.head, self.tagged) {
            return None;
        }
        let by_depth = |blocks: u64| self.head.saturating_sub(blocks);
        let newest = match (self.rule, self.tagged) {
            (FinalityRule::Depth { blocks }, _) => by_depth(blocks),
            (_, Some(tagged)) => tagged.min(self.head),
            (FinalityRule::FinalizedTag { fallback_depth }, None) => by_depth(fallback_depth),
            (FinalityRule::SafeTag, None) => claimed,
        };
        Some(newest.max(claimed))
    }

    fn check_canonical(&mut self, block: Option<Block>) -> Result<(), Verdict> {
        let (number, hash) = self.place();
        match block {
            Some(block) if block.number == number && block.hash == hash => {
                self.time_s = block.timestamp_s;
                Ok(())
            }
            _ => Err(Verdict::Unknown(format!("block {number} of the receipt is not in the node's chain (any more)"))),
        }
    }

    fn place(&self) -> (u64, B256) {
        self.receipt.as_ref().and_then(|receipt| receipt.block).unwrap_or_default()
    }

    fn confirmed(&mut self) -> Verdict {
        self.confirmed.take().unwrap_or(Verdict::Pending)
    }

    /// The verdict if the forwarder is genuine; otherwise a contradiction.
    fn judge(&self, transaction: Option<Transaction>) -> Result<Verdict, Verdict> {
        let Some(receipt) = &self.receipt else { return Err(Verdict::Pending) };
        if !receipt.is_success {
            return Err(Verdict::Mismatch(Mismatch::TransactionReverted));
        }
        let events = executed(self.forward.forwarder, &receipt.logs);
        let nonce = u64::try_from(self.forward.nonce).ok();
        let own = events.iter().position(|event| event.0 == self.forward.from && Some(event.1) == nonce);
        let own = own.ok_or(Verdict::Mismatch(Mismatch::NotInTransaction))?;
        let is_success = events[own].2;
        // The forwarder skips expired requests: the one that ran with this nonce was signed differently.
        if self.time_s > self.forward.deadline {
            return Err(Verdict::Mismatch(Mismatch::OtherRequest));
        }
        let transaction = transaction.filter(|transaction| transaction.hash == self.claim.tx_hash);
        let binding = self.binding(transaction.as_ref(), &events, own)?;
        match (self.claim.status, is_success) {
            (Status::Reverted, true) => return Err(Verdict::Mismatch(Mismatch::TargetSucceeded)),
            (Status::Finalized, false) => return Err(Verdict::Mismatch(Mismatch::TargetFailed)),
            _ => {}
        }
        let (block_number, block_hash) = self.place();
        let is_final = self.rule.is_final(block_number, self.head, self.tagged);
        match self.claim.block_number {
            Some(claimed) if claimed != block_number && self.claim.status != Status::Included => {
                // While it is not final here, the relayer may have seen the later chain.
                Err(if is_final {
                    Verdict::Mismatch(Mismatch::OtherBlock { claimed, found: block_number })
                } else {
                    Verdict::Unknown(format!(
                        "the node has it in block {block_number}, not final, instead of {claimed}"
                    ))
                })
            }
            _ => Ok(Verdict::Confirmed { is_final, is_success, block_number, block_hash, binding }),
        }
    }

    /// Looks for the request in the transaction's calldata. The forwarder accepts only each signer's current nonce, so
    /// a member of the batch that ran with our nonce is the request signed by the user with it.
    fn binding(&self, transaction: Option<&Transaction>, events: &[Executed], own: usize) -> Result<Binding, Verdict> {
        let Some(transaction) = transaction else {
            return Err(Verdict::Unknown("the node has the receipt and not the transaction".to_owned()));
        };
        if transaction.to != Some(self.forward.forwarder) {
            return Ok(Binding::Nonce);
        }
        let Some(requests) = requests(&transaction.input) else { return Ok(Binding::Nonce) };
        let own_digest = self.domain.digest(&self.forward);
        let (mut place, mut has_other) = (None, false);
        for (at, request) in requests.iter().enumerate().filter(|(_, request)| request.from == self.forward.from) {
            if !self.is_signed(request, self.forward.nonce) {
                continue;
            }
            if self.digest(request, self.forward.nonce) == own_digest {
                place = place.or(Some(at));
            } else {
                has_other = true;
            }
        }
        match (place, has_other) {
            (Some(place), false) if self.is_members_own(&requests, place, events, own) => Ok(Binding::Content),
            (Some(_), false) => Ok(Binding::Nonce),
            // One of the two was skipped, perhaps for its deadline or its target: calldata does not show which.
            (Some(_), true) => Err(Verdict::Unknown("the transaction holds two requests with this nonce".to_owned())),
            (None, _) => Err(Verdict::Mismatch(Mismatch::OtherRequest)),
        }
    }

    /// True if the event at `own` is that of the member at `place`, and not of a request that another member's call
    /// made the forwarder run: the forwarder has no guard against that, and emits a member's event after the member's
    /// call.
    ///
    /// A request that runs within an earlier member's call has its event before that member's. And our member is not
    /// skipped if the user's nonce has reached its own by its turn: if everything that ran with the user's earlier
    /// nonces was in earlier members. (Within the call of a later one it would be too late.)
    fn is_members_own(&self, requests: &[ForwardRequestData], place: usize, events: &[Executed], own: usize) -> bool {
        let (user, nonce, _) = events[own];
        // Signature checks are expensive. An honest batch needs about one per member.
        let mut checks = 2 * (requests.len() + events.len());
        // Marks events known to be some member's own.
        let mut is_known = vec![false; events.len()];
        for (at, request) in requests.iter().enumerate().filter(|(at, _)| *at != place) {
            let is_users = request.from == user;
            let is_in_order = |event: &usize| (*event < own) == (at < place);
            let open: Vec<usize> = (0..events.len())
                .filter(|event| *event != own && !is_known[*event] && events[*event].0 == request.from)
                .collect();
            if !is_users && open.iter().all(is_in_order) {
                continue;
            }
            for event in open {
                let used = events[event].1;
                if checks == 0 {
                    return false;
                }
                checks -= 1;
                if self.is_signed(request, U256::from(used)) {
                    if !is_in_order(&event) || (is_users && (used < nonce) != (at < place)) {
                        return false;
                    }
                    is_known[event] = true;
                    break;
                }
            }
        }
        events.iter().zip(is_known).all(|(event, is_known)| is_known || event.0 != user || event.1 >= nonce)
    }

    fn digest(&self, request: &ForwardRequestData, nonce: U256) -> B256 {
        self.domain.digest(&self.as_forward(request, nonce))
    }

    /// True if the forwarder accepts it from this signer with this nonce.
    fn is_signed(&self, request: &ForwardRequestData, nonce: U256) -> bool {
        recover(self.digest(request, nonce), &request.signature).is_ok_and(|signer| signer == request.from)
    }

    fn as_forward(&self, request: &ForwardRequestData, nonce: U256) -> Forward {
        Forward {
            forwarder: self.forward.forwarder,
            from: request.from,
            to: request.to,
            value: request.value,
            gas: request.gas,
            nonce,
            deadline: request.deadline.to(),
            data: request.data.clone(),
            signature: request.signature.clone(),
        }
    }
}

/// Signer, nonce and success.
type Executed = (Address, u64, bool);

/// The requests in a direct call of a forwarder.
fn requests(input: &Bytes) -> Option<Vec<ForwardRequestData>> {
    if let Ok(call) = executeBatchCall::abi_decode(input) {
        return Some(call.requests);
    }
    executeCall::abi_decode(input).ok().map(|call| vec![call.request])
}
