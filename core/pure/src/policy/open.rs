//! Limits on open requests and bytes: of all tenants, of one, of one signer, and behind a missing nonce.
//!
//! Counted from acceptance until inclusion.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use alloy_primitives::{Address, U256};

use super::{Claim, LineKey, TenantPolicy, claim::percent_of};
use crate::{request::RequestId, tuning::keys};

/// Requests behind a gap that a signer may have even when the tenant's share for such requests is used up.
const GAPPED_ANYWAY: usize = 8;

keys! {
    /// Limits of all tenants together.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct OpenLimits;

    /// Most requests of all tenants that may be open at a time, not in a block.
    max_requests "max_open_requests": u64 [1..=100_000_000] = 200_000;
    /// Most bytes of calldata in open requests of all tenants.
    max_bytes "max_open_bytes": u64 [1_024..] = 268_435_456;
}

/// A limit on open requests is reached. The same request may be accepted later, unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// `server.max_open_requests`.
    #[error("{open} requests of all tenants are open, limit {limit} (`server.max_open_requests`)")]
    ServerRequests {
        /// Currently open requests.
        open: u64,
        /// The limit, requests.
        limit: u64,
    },
    /// `server.max_open_bytes`.
    #[error(
        "open requests of all tenants hold {open} bytes, {bytes} more pass the limit {limit} (`server.max_open_bytes`)"
    )]
    ServerBytes {
        /// Currently open bytes.
        open: u64,
        /// Bytes of the new request.
        bytes: u64,
        /// The limit, bytes.
        limit: u64,
    },
    /// `tenant.max_open_requests`.
    #[error("{open} requests are open, limit {limit} (`tenant.max_open_requests`)")]
    TenantRequests {
        /// Currently open requests.
        open: u64,
        /// The limit, requests.
        limit: u64,
    },
    /// `tenant.max_open_bytes`.
    #[error("open requests hold {open} bytes, {bytes} more pass the limit {limit} (`tenant.max_open_bytes`)")]
    TenantBytes {
        /// Currently open bytes.
        open: u64,
        /// Bytes of the new request.
        bytes: u64,
        /// The limit, bytes.
        limit: u64,
    },
    /// `tenant.max_open_per_signer`.
    #[error("{open} requests of signer {signer} are open, limit {limit} (`tenant.max_open_per_signer`)")]
    Signer {
        /// The signer.
        signer: Address,
        /// Currently open requests.
        open: u64,
        /// The limit, requests.
        limit: u64,
    },
    /// `tenant.max_gapped_per_signer`.
    #[error(
        "nonce {missing} is missing, and {gapped} requests wait behind it, limit {limit} (`tenant.max_gapped_per_signer`); submit nonce {missing} first"
    )]
    Gapped {
        /// The missing nonce.
        missing: u64,
        /// Number of requests behind it.
        gapped: u64,
        /// The limit, requests.
        limit: u64,
    },
    /// `tenant.gapped_budget_percent`.
    #[error(
        "nonce {missing} is missing, and requests behind missing nonces hold {held_wei} wei of the budget, {needed_wei} more pass their share {limit_wei} (`tenant.gapped_budget_percent`); submit nonce {missing} first"
    )]
    GappedBudget {
        /// The missing nonce.
        missing: u64,
        /// Amount held by requests behind missing nonces, wei.
        held_wei: U256,
        /// Amount that the request would reserve, wei.
        needed_wei: U256,
        /// Their share of the budget, wei.
        limit_wei: U256,
    },
}

impl OpenError {
    /// The stable code that SDKs switch on.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ServerRequests { .. } | Self::ServerBytes { .. } => "overloaded",
            Self::TenantRequests { .. } | Self::TenantBytes { .. } | Self::Signer { .. } => "too_many_open",
            Self::Gapped { .. } | Self::GappedBudget { .. } => "nonce_gap",
        }
    }

    /// The missing nonce that must come first; `None` for other errors.
    pub const fn missing(&self) -> Option<u64> {
        match self {
            Self::Gapped { missing, .. } | Self::GappedBudget { missing, .. } => Some(*missing),
            _ => None,
        }
    }
}

/// (tenant, request): two tenants may submit the same signed request.
type Key = (Arc<str>, RequestId);

/// Amount of each tenant's budget on a chain held by requests behind a gap, wei.
type GappedWei = HashMap<(Arc<str>, u64), U256>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    requests: u64,
    bytes: u64,
}

impl Count {
    const fn add(&mut self, bytes: u64) {
        self.requests = self.requests.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    const fn take(&mut self, bytes: u64) {
        self.requests = self.requests.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[derive(Debug)]
struct Held {
    claim: Claim,
    /// True once it belongs to a request, not only to pending submissions.
    is_accepted: bool,
    /// Number of pending submissions.
    under_way: u32,
}

/// A signer's nonce taken by a request.
#[derive(Debug)]
struct Slot {
    tenant: Arc<str>,
    id: RequestId,
    wei: U256,
}

/// The nonces of one signer at one forwarder.
#[derive(Debug, Default)]
struct Line {
    /// The forwarder's nonce; `None` if unknown.
    chain_next: Option<u64>,
    slots: BTreeMap<u64, Slot>,
    /// Nonces taken by other instances in the shared ledger.
    elsewhere: std::collections::BTreeSet<u64>,
    /// First missing nonce from the forwarder's on; if that is unknown, from the lowest slot on.
    missing: u64,
    /// Number of requests behind it; the next field is the amount that they hold.
    gapped: usize,
    gapped_wei: U256,
}

impl Line {
    fn start(&self) -> u64 {
        self.chain_next.or_else(|| self.slots.keys().next().copied()).unwrap_or(0)
    }

    fn has(&self, nonce: u64) -> bool {
        self.slots.contains_key(&nonce) || self.elsewhere.contains(&nonce)
    }

    /// Finds the first missing nonce again and updates the counts behind it.
    fn recount(&mut self, chain_id: u64, gapped: &mut GappedWei) {
        let mut missing = self.start();
        while self.has(missing) {
            let Some(next) = missing.checked_add(1) else { break };
            missing = next;
        }
        self.move_gap(missing, chain_id, gapped);
    }

    /// Moves the first missing nonce to `missing`.
    fn move_gap(&mut self, missing: u64, chain_id: u64, gapped: &mut GappedWei) {
        let old = std::mem::replace(&mut self.missing, missing);
        // A slot at the gap itself is about to be removed.
        let (from, to, is_more) = if missing < old { (missing, old, true) } else { (old, missing, false) };
        for (_, slot) in self.slots.range(from..to) {
            let held = gapped.entry((slot.tenant.clone(), chain_id)).or_default();
            if is_more {
                self.gapped += 1;
                self.gapped_wei = self.gapped_wei.saturating_add(slot.wei);
                *held = held.saturating_add(slot.wei);
            } else {
                self.gapped = self.gapped.saturating_sub(1);
                self.gapped_wei = self.gapped_wei.saturating_sub(slot.wei);
                *held = held.saturating_sub(slot.wei);
            }
        }
    }

    fn insert(&mut self, nonce: u64, slot: Slot, chain_id: u64, gapped: &mut GappedWei) {
        if self.slots.contains_key(&nonce) {
            return;
        }
        if self.slots.is_empty() && self.chain_next.is_none() {
            self.missing = nonce;
        }
        // Counted as behind the gap first; then the gap moves.
        if nonce >= self.missing {
            self.gapped += 1;
            self.gapped_wei = self.gapped_wei.saturating_add(slot.wei);
            let held = gapped.entry((slot.tenant.clone(), chain_id)).or_default();
            *held = held.saturating_add(slot.wei);
        }
        let (is_next, is_before) = (nonce == self.missing, self.chain_next.is_none() && nonce < self.start());
        let touches = nonce.checked_add(1) == Some(self.start());
        self.slots.insert(nonce, slot);
        if is_next {
            let mut missing = nonce;
            while self.has(missing) {
                let Some(next) = missing.checked_add(1) else { break };
                missing = next;
            }
            self.move_gap(missing, chain_id, gapped);
        } else if is_before && !touches {
            self.recount(chain_id, gapped);
        }
    }

    fn remove(&mut self, nonce: u64, chain_id: u64, gapped: &mut GappedWei) {
        if !self.slots.contains_key(&nonce) {
            return;
        }
        let start = self.start();
        if nonce >= start && nonce < self.missing {
            // Later ones are now behind a gap, unless it was the first of a line with an unknown start.
            let is_first = self.chain_next.is_none() && nonce == start;
            if !is_first {
                self.move_gap(nonce, chain_id, gapped);
            }
        }
        let Some(slot) = self.slots.remove(&nonce) else { return };
        if nonce >= self.missing {
            self.gapped = self.gapped.saturating_sub(1);
            self.gapped_wei = self.gapped_wei.saturating_sub(slot.wei);
            if let Some(held) = gapped.get_mut(&(slot.tenant, chain_id)) {
                *held = held.saturating_sub(slot.wei);
            }
        }
        if self.chain_next.is_none() && nonce == start {
            self.recount(chain_id, gapped);
        }
    }

    /// Sets the forwarder's nonce.
    fn set_chain(&mut self, nonce: u64, chain_id: u64, gapped: &mut GappedWei) {
        let start = self.start();
        self.chain_next = Some(nonce);
        // From there to the first missing one nothing is missing, as before.
        if nonce < start || nonce > self.missing {
            self.recount(chain_id, gapped);
        }
    }
}

/// All open requests.
///
/// **Invariant I16:** no count exceeds its limit, except by requests that a reorg put back, or that were open when a
/// limit was lowered.
#[derive(Debug, Default)]
pub struct OpenBook {
    limits: OpenLimits,
    all: Count,
    tenants: HashMap<Arc<str>, Count>,
    signers: HashMap<(Arc<str>, Address), u64>,
    held: HashMap<Key, Held>,
    lines: HashMap<LineKey, Line>,
    gapped: GappedWei,
}

impl OpenBook {
    /// An empty book with these limits of all tenants together.
    pub fn new(limits: OpenLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes a place for a submission. Idempotent in count for the same tenant and request, but each call needs a
    /// [`Self::release`] of its own. `chain_next`: the forwarder's nonce of the signer, if known.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is taken then.
    pub fn take(&mut self, policy: &TenantPolicy, claim: &Claim, chain_next: Option<u64>) -> Result<(), OpenError> {
        let key = (claim.tenant.clone(), claim.id);
        if let Some(held) = self.held.get_mut(&key) {
            held.under_way += 1;
            return Ok(());
        }
        if let Some(nonce) = chain_next
            && let Some((line, _)) = claim.line()
        {
            self.raise_chain_nonce(line, nonce);
        }
        self.check(policy, claim, chain_next)?;
        self.add(claim.clone(), chain_next);
        if let Some(held) = self.held.get_mut(&key) {
            held.under_way = 1;
        }
        Ok(())
    }

    fn check(&self, policy: &TenantPolicy, claim: &Claim, chain_next: Option<u64>) -> Result<(), OpenError> {
        let bytes = claim.bytes;
        let own = self.tenants.get(&claim.tenant).copied().unwrap_or_default();
        if own.requests >= policy.max_open_requests {
            return Err(OpenError::TenantRequests { open: own.requests, limit: policy.max_open_requests });
        }
        if own.bytes.saturating_add(bytes) > policy.max_open_bytes {
            return Err(OpenError::TenantBytes { open: own.bytes, bytes, limit: policy.max_open_bytes });
        }
        if let Some(signer) = claim.signer {
            let open = self.signers.get(&(claim.tenant.clone(), signer)).copied().unwrap_or(0);
            if open >= policy.max_open_per_signer {
                return Err(OpenError::Signer { signer, open, limit: policy.max_open_per_signer });
            }
        }
        self.check_gap(policy, claim, chain_next)?;
        if self.all.requests >= self.limits.max_requests {
            return Err(OpenError::ServerRequests { open: self.all.requests, limit: self.limits.max_requests });
        }
        if self.all.bytes.saturating_add(bytes) > self.limits.max_bytes {
            return Err(OpenError::ServerBytes { open: self.all.bytes, bytes, limit: self.limits.max_bytes });
        }
        Ok(())
    }

    fn check_gap(&self, policy: &TenantPolicy, claim: &Claim, chain_next: Option<u64>) -> Result<(), OpenError> {
        let Some((key, nonce)) = claim.line() else { return Ok(()) };
        let (missing, gapped, gapped_wei) = match self.lines.get(&key) {
            Some(line) => (line.missing, line.gapped, line.gapped_wei),
            None => (chain_next.unwrap_or(nonce), 0, U256::ZERO),
        };
        if nonce <= missing {
            return Ok(());
        }
        let limit = policy.max_gapped_per_signer;
        if gapped as u64 >= limit {
            return Err(OpenError::Gapped { missing, gapped: gapped as u64, limit });
        }
        let Some(budget) = &policy.budget else { return Ok(()) };
        let held_wei = self.gapped.get(&(claim.tenant.clone(), claim.chain_id)).copied().unwrap_or_default();
        let limit_wei = percent_of(budget.limit_wei, policy.gapped_budget_percent);
        if held_wei.saturating_add(claim.wei) <= limit_wei {
            return Ok(());
        }
        // Other signers' gaps must not keep a signer from sending a few out of order.
        let own = gapped_wei.saturating_add(claim.wei);
        if gapped < GAPPED_ANYWAY && own.saturating_mul(U256::from(100)) < budget.limit_wei {
            return Ok(());
        }
        Err(OpenError::GappedBudget { missing, held_wei, needed_wei: claim.wei, limit_wei })
    }

    fn add(&mut self, claim: Claim, chain_next: Option<u64>) {
        self.enter_line(&claim, chain_next);
        self.count(&claim, true);
        let key = (claim.tenant.clone(), claim.id);
        self.held.insert(key, Held { claim, is_accepted: false, under_way: 0 });
    }

    fn enter_line(&mut self, claim: &Claim, chain_next: Option<u64>) {
        let Some((key, nonce)) = claim.line() else { return };
        let line = self.lines.entry(key).or_insert_with(|| Line {
            chain_next,
            missing: chain_next.unwrap_or(nonce),
            ..Line::default()
        });
        let slot = Slot { tenant: claim.tenant.clone(), id: claim.id, wei: claim.wei };
        line.insert(nonce, slot, claim.chain_id, &mut self.gapped);
    }

    fn leave_line(&mut self, claim: &Claim) {
        let Some((key, nonce)) = claim.line() else { return };
        let Some(line) = self.lines.get_mut(&key) else { return };
        if line.slots.get(&nonce).is_some_and(|slot| slot.id == claim.id && slot.tenant == claim.tenant) {
            line.remove(nonce, claim.chain_id, &mut self.gapped);
        }
        if line.slots.is_empty() {
            self.lines.remove(&key);
        }
        let account = (claim.tenant.clone(), claim.chain_id);
        if self.gapped.get(&account).is_some_and(U256::is_zero) {
            self.gapped.remove(&account);
        }
    }

    fn count(&mut self, claim: &Claim, is_more: bool) {
        let own = self.tenants.entry(claim.tenant.clone()).or_default();
        if is_more {
            self.all.add(claim.bytes);
            own.add(claim.bytes);
        } else {
            self.all.take(claim.bytes);
            own.take(claim.bytes);
        }
        let Some(signer) = claim.signer else { return };
        let key = (claim.tenant.clone(), signer);
        let open = self.signers.entry(key.clone()).or_default();
        *open = if is_more { open.saturating_add(1) } else { open.saturating_sub(1) };
        if *open == 0 {
            self.signers.remove(&key);
        }
    }

    /// Records that a submission became a request.
    pub fn accept(&mut self, tenant: &Arc<str>, id: RequestId) {
        let Some(held) = self.held.get_mut(&(tenant.clone(), id)) else { return };
        held.is_accepted = true;
        held.under_way = held.under_way.saturating_sub(1);
        let claim = held.claim.clone();
        // Another tenant's submission of the same request may have had the nonce, and lost it.
        self.enter_line(&claim, None);
    }

    /// Records that a submission did not become a request, or was one already. The last holder releases the place.
    pub fn release(&mut self, tenant: &Arc<str>, id: RequestId) {
        let Some(held) = self.held.get_mut(&(tenant.clone(), id)) else { return };
        held.under_way = held.under_way.saturating_sub(1);
        if held.under_way == 0 && !held.is_accepted {
            self.close(tenant, id, false);
        }
    }

    /// Counts a request restored from the ledger, or put back by a reorg, whatever the limits.
    pub fn restore(&mut self, claim: Claim) {
        let key = (claim.tenant.clone(), claim.id);
        if self.held.contains_key(&key) {
            return;
        }
        let line = claim.line();
        self.add(claim, None);
        if let Some(held) = self.held.get_mut(&key) {
            held.is_accepted = true;
        }
        // Its nonce is not used (any more).
        if let Some((line, nonce)) = line
            && self.lines.get(&line).and_then(|line| line.chain_next).is_some_and(|next| next > nonce)
        {
            self.set_chain_nonce(line, nonce);
        }
    }

    /// Stops counting a request that is in a block or has ended. `is_consumed`: its nonce is used up.
    pub fn close(&mut self, tenant: &Arc<str>, id: RequestId, is_consumed: bool) {
        let Some(held) = self.held.remove(&(tenant.clone(), id)) else { return };
        self.count(&held.claim, false);
        if self.tenants.get(tenant).is_some_and(|count| count.requests == 0) {
            self.tenants.remove(tenant);
        }
        if is_consumed && let Some((key, nonce)) = held.claim.line() {
            self.raise_chain_nonce(key, nonce.saturating_add(1));
        }
        self.leave_line(&held.claim);
    }

    fn raise_chain_nonce(&mut self, key: LineKey, nonce: u64) {
        let known = self.lines.get(&key).and_then(|line| line.chain_next);
        if known.is_none_or(|known| known < nonce) {
            self.set_chain_nonce(key, nonce);
        }
    }

    /// Sets the forwarder's nonce of a signer as just read from the chain.
    pub fn set_chain_nonce(&mut self, key: LineKey, nonce: u64) {
        if let Some(line) = self.lines.get_mut(&key) {
            line.set_chain(nonce, key.0, &mut self.gapped);
            line.elsewhere.retain(|taken| *taken >= nonce);
        }
    }

    /// Sets a signer's nonces taken by requests of other instances, from a shared ledger.
    pub fn set_elsewhere(&mut self, key: LineKey, nonces: impl IntoIterator<Item = u64>) {
        if let Some(line) = self.lines.get_mut(&key) {
            line.elsewhere = nonces.into_iter().filter(|nonce| !line.slots.contains_key(nonce)).collect();
            line.recount(key.0, &mut self.gapped);
        }
    }

    /// (requests, bytes) open for a tenant.
    pub fn open(&self, tenant: &str) -> (u64, u64) {
        self.tenants.get(tenant).map_or((0, 0), |count| (count.requests, count.bytes))
    }

    /// Number of a signer's requests behind a missing nonce, and that nonce; `None` if it has no open requests.
    pub fn gapped(&self, key: LineKey) -> Option<(usize, u64)> {
        self.lines.get(&key).map(|line| (line.gapped, line.missing))
    }

    /// Holders of all accepted places, to check whether they are still open.
    pub fn accepted(&self) -> Vec<(Arc<str>, RequestId)> {
        self.held.iter().filter(|(_, held)| held.is_accepted).map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use alloy_primitives::B256;
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Budget;

    fn claim(tenant: &str, signer: u8, nonce: u64) -> Claim {
        let id = RequestId(B256::from(U256::from(u64::from(signer) * 1_000_000 + nonce)));
        Claim {
            tenant: tenant.into(),
            id,
            chain_id: 1,
            sequence: Some((Address::ZERO, Address::repeat_byte(signer), nonce)),
            signer: Some(Address::repeat_byte(signer)),
            target: Address::repeat_byte(9),
            bytes: 10,
            wei: U256::from(1_000),
        }
    }

    fn accept(book: &mut OpenBook, policy: &TenantPolicy, claim: &Claim) -> Result<(), OpenError> {
        book.take(policy, claim, Some(0))?;
        book.accept(&claim.tenant, claim.id);
        Ok(())
    }

    #[test]
    fn one_signers_gaps_leave_the_others_what_they_need() {
        let budget = Budget { limit_wei: U256::from(1_000_000), period: std::time::Duration::ZERO };
        let policy = TenantPolicy { budget: Some(budget), ..TenantPolicy::new("t") };
        let mut book = OpenBook::new(OpenLimits::default());
        for nonce in 1..=64 {
            accept(&mut book, &policy, &claim("t", 1, nonce)).unwrap();
        }
        let refused = accept(&mut book, &policy, &claim("t", 1, 65)).unwrap_err();
        assert_eq!((refused.code(), refused.missing()), ("nonce_gap", Some(0)));
        // A second signer fills the share of the budget.
        for nonce in 1..=36 {
            accept(&mut book, &policy, &claim("t", 2, nonce)).unwrap();
        }
        let refused = accept(&mut book, &policy, &claim("t", 2, 37)).unwrap_err();
        assert!(matches!(refused, OpenError::GappedBudget { missing: 0, .. }), "{refused}");
        // A third still gets eight out of order, and every signer those in order.
        for nonce in (1..=8).rev() {
            accept(&mut book, &policy, &claim("t", 3, nonce)).unwrap();
        }
        assert_eq!(accept(&mut book, &policy, &claim("t", 3, 9)).unwrap_err().code(), "nonce_gap");
        accept(&mut book, &policy, &claim("t", 3, 0)).unwrap();
        accept(&mut book, &policy, &claim("t", 3, 9)).unwrap();
        (0..100).for_each(|nonce| accept(&mut book, &policy, &claim("t", 4, nonce)).unwrap());
    }

    #[test]
    fn limits_are_inclusive_and_name_their_keys() {
        let limits = OpenLimits { max_requests: 4, max_bytes: 1_000 };
        let policy = TenantPolicy { max_open_requests: 3, max_open_per_signer: 2, ..TenantPolicy::new("a") };
        let mut book = OpenBook::new(limits);
        let mut take = |policy: &TenantPolicy, tenant: &str, signer, nonce| {
            accept(&mut book, policy, &claim(tenant, signer, nonce)).map_err(|error| (error.code(), error.to_string()))
        };
        take(&policy, "a", 1, 0).unwrap();
        take(&policy, "a", 1, 1).unwrap();
        // A repetition takes nothing.
        take(&policy, "a", 1, 1).unwrap();
        let (code, text) = take(&policy, "a", 1, 2).unwrap_err();
        assert!(code == "too_many_open" && text.contains("`tenant.max_open_per_signer`"), "{text}");
        take(&policy, "a", 2, 0).unwrap();
        let (code, text) = take(&policy, "a", 3, 0).unwrap_err();
        assert!(code == "too_many_open" && text.contains("limit 3 (`tenant.max_open_requests`)"), "{text}");
        let other = TenantPolicy { max_open_bytes: 15, ..TenantPolicy::new("b") };
        take(&other, "b", 4, 0).unwrap();
        let (code, text) = take(&other, "b", 5, 0).unwrap_err();
        assert!(code == "too_many_open" && text.contains("`tenant.max_open_bytes`"), "{text}");
        let (code, text) = take(&TenantPolicy::new("c"), "c", 6, 0).unwrap_err();
        assert!(code == "overloaded" && text.contains("`server.max_open_requests`"), "{text}");
    }

    #[test]
    fn included_ones_make_room_and_a_reorg_is_never_refused() {
        let policy = TenantPolicy { max_open_requests: 1, ..TenantPolicy::new("a") };
        let mut book = OpenBook::new(OpenLimits::default());
        let (first, second) = (claim("a", 1, 0), claim("a", 1, 1));
        accept(&mut book, &policy, &first).unwrap();
        accept(&mut book, &policy, &second).unwrap_err();
        book.close(&first.tenant, first.id, true);
        book.take(&policy, &second, Some(1)).unwrap();
        book.accept(&second.tenant, second.id);
        book.restore(first.clone());
        assert_eq!(book.open("a").0, 2);
        assert_eq!(book.gapped((1, Address::ZERO, Address::repeat_byte(1))), Some((0, 2)));
    }

    /// Expected state of one line: (requests behind the gap, first missing nonce).
    fn expected(nonces: &BTreeSet<u64>, chain_next: Option<u64>) -> Option<(usize, u64)> {
        let mut missing = chain_next.or_else(|| nonces.first().copied())?;
        while nonces.contains(&missing) {
            missing += 1;
        }
        Some((nonces.range(missing..).count(), missing))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn counts_equal_what_is_there(steps in prop::collection::vec((0_u8..5, 0_u64..12, prop::bool::ANY), 1..120)) {
            let policy = TenantPolicy::new("t");
            let mut book = OpenBook::new(OpenLimits::default());
            let (mut there, mut chain): (BTreeSet<u64>, Option<u64>) = (BTreeSet::new(), None);
            let key = (1, Address::ZERO, Address::repeat_byte(1));
            for (step, nonce, flag) in steps {
                let one = claim("t", 1, nonce);
                match step {
                    0 | 1 => {
                        book.take(&policy, &one, None).unwrap();
                        book.accept(&one.tenant, one.id);
                        there.insert(nonce);
                    }
                    2 => {
                        book.take(&policy, &one, None).unwrap();
                        book.release(&one.tenant, one.id);
                    }
                    3 => {
                        book.close(&one.tenant, one.id, flag);
                        if there.remove(&nonce) && flag {
                            chain = Some(chain.unwrap_or(0).max(nonce + 1));
                        }
                    }
                    _ => {
                        book.set_chain_nonce(key, nonce);
                        chain = Some(nonce);
                    }
                }
                if there.is_empty() {
                    // No state is kept for a signer without open requests.
                    chain = None;
                    prop_assert_eq!(book.gapped(key), None);
                } else {
                    prop_assert_eq!(book.gapped(key), expected(&there, chain));
                }
                let held = book.gapped.values().fold(U256::ZERO, |sum, wei| sum + wei);
                let behind = expected(&there, chain).map_or(0, |(behind, _)| behind);
                prop_assert_eq!(held, U256::from(behind) * U256::from(1_000));
                prop_assert_eq!(book.open("t"), (there.len() as u64, there.len() as u64 * 10));
                prop_assert_eq!((book.all.requests, book.all.bytes), book.open("t"));
            }
            for nonce in there {
                let one = claim("t", 1, nonce);
                book.close(&one.tenant, one.id, false);
            }
            prop_assert!(book.lines.is_empty() && book.signers.is_empty() && book.tenants.is_empty());
        }
    }
}
