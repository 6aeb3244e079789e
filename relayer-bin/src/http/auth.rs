//! Authentication and authorization: API keys, hashed at rest and compared in constant time, each with its scopes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::NonZeroU32,
    sync::Arc,
};

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{
    pace::{Cell, Pace},
    page::PageTenant,
    problem::Problem,
    web::Origins,
};

/// Digits of a key's secret part: no look-alikes, no separators.
const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/// 43 digits of base 58 hold 251 bits.
const SECRET_DIGITS: usize = 43;
/// Longest key that is checked, bytes.
const MAX_KEY_BYTES: usize = 256;
/// Seconds' worth of calls that a tenant may make in one burst.
const BURST_S: u32 = 10;

/// SHA-256 of a whole API key, as stored in the configuration. The key is random, so a plain hash is enough.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Hash of `key`.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads `sha256:<64 hexadecimal digits>`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0u8; 32];
        alloy_primitives::hex::decode_to_slice(text.strip_prefix("sha256:")?, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// A name for an unnamed key: `key-` and the first 8 digits of its hash, which reveal nothing about the key.
    pub fn short_name(&self) -> String {
        format!("key-{}", alloy_primitives::hex::encode(&self.0[..4]))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", alloy_primitives::hex::encode(self.0))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// A new random key `sw_<tenant>_<secret>`.
///
/// # Errors
/// If the operating system gives no randomness.
pub fn new_key(tenant: &str) -> Result<Zeroizing<String>, getrandom::Error> {
    let mut key = Zeroizing::new(format!("sw_{tenant}_"));
    let mut random = Zeroizing::new([0u8; 64]);
    let mut digits = 0;
    while digits < SECRET_DIGITS {
        getrandom::fill(random.as_mut_slice())?;
        // Bytes from 232 on are left out, or the first digits would be more likely than others.
        for byte in random.iter().filter(|byte| **byte < 232).take(SECRET_DIGITS - digits) {
            key.push(char::from(ALPHABET[usize::from(byte % 58)]));
            digits += 1;
        }
    }
    Ok(key)
}

/// One permission of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Scope {
    /// Submit requests, and read what that requires: quotes, chains, fees, forecasts.
    Submit = 1,
    /// Read the tenant's requests, events and batches.
    Read = 2,
    /// Withdraw the tenant's requests.
    Cancel = 4,
    /// Operate the relayer: extends the scopes above to every tenant; models, counts, pause and reload.
    Operate = 8,
    /// Read `/metrics` if that is restricted.
    Metrics = 16,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 5] = [Self::Submit, Self::Read, Self::Cancel, Self::Operate, Self::Metrics];

    /// The name in configuration, API and documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Cancel => "cancel",
            Self::Operate => "operate",
            Self::Metrics => "metrics",
        }
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Default scopes of a tenant's key: `submit`, `read`, `cancel`.
    pub const TENANT: Self = Self::of(&[Scope::Submit, Scope::Read, Scope::Cancel]);
    /// Default scopes of an operator's key.
    pub const ALL: Self = Self::of(&Scope::ALL);

    /// Exactly `scopes`.
    pub const fn of(scopes: &[Scope]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < scopes.len() {
            bits |= scopes[at] as u8;
            at += 1;
        }
        Self(bits)
    }

    /// True if it contains `scope`.
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & scope as u8 != 0
    }

    /// True if it contains one of `others`.
    pub const fn has_any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Its scopes, one by one.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope as u8))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for scope in self.iter() {
            write!(f, "{between}`{}`", scope.as_str())?;
            between = ", ";
        }
        Ok(())
    }
}

/// An API key as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name in logs and records. Never a part of the key.
    pub id: String,
    /// Its hash.
    pub hash: KeyHash,
    /// Its permissions.
    pub scopes: Scopes,
    /// Origins of the web pages that may contain it; `None` for a secret key. A page key is public, and has the caps of
    /// `page_key` instead of scopes.
    pub page: Option<Origins>,
}

/// Tenant and key of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The id of the key; `anonymous` without one.
    pub key: Arc<str>,
    /// Permissions of the key.
    pub scopes: Scopes,
    /// The call was made with a secret key.
    pub is_known: bool,
    /// The call was made with a page key, which is not secret.
    pub is_page: bool,
}

impl Caller {
    /// True if it may read the data of all tenants.
    pub const fn is_operator(&self) -> bool {
        self.scopes.has(Scope::Operate)
    }

    /// Its name in records: tenant and key id.
    pub fn name(&self) -> String {
        format!("{}/{}", self.tenant, self.key)
    }

    /// The tenant whose data it may read; `None` for all tenants.
    pub fn scope(&self) -> Option<String> {
        (!self.is_operator()).then(|| self.tenant.as_ref().to_owned())
    }

    /// True if it may read the data of `tenant`.
    pub fn sees(&self, tenant: &str) -> bool {
        self.is_operator() || *self.tenant == *tenant
    }
}

/// Keys and limits of one tenant at the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantDoor {
    /// Most event streams at a time (`tenant.max_streams`).
    pub max_streams: usize,
    /// Most calls per second, by all its keys together; `None` is unlimited (`tenant.rate_per_s`).
    pub rate_per_s: Option<u32>,
    /// Its keys.
    pub keys: Vec<ApiKey>,
    /// Settings of its page keys.
    pub page: PageTenant,
}

impl Default for TenantDoor {
    fn default() -> Self {
        Self { max_streams: 128, rate_per_s: None, keys: Vec::new(), page: PageTenant::default() }
    }
}

#[derive(Debug)]
struct Entry {
    tenant: Arc<str>,
    max_streams: usize,
    pace: Option<(Pace, Cell)>,
    keys: Vec<Key>,
    page: Arc<PageTenant>,
}

#[derive(Debug)]
struct Key {
    hash: KeyHash,
    caller: Caller,
    origins: Option<Origins>,
}

/// API keys and the tenants that they belong to.
#[derive(Debug, Default)]
pub struct Access {
    tenants: BTreeMap<Arc<str>, Entry>,
    /// The caller of every call if no key is needed: local development.
    open: Option<Caller>,
    /// Cancelled when a newer set of keys has replaced this one.
    ended: CancellationToken,
}

/// A tenant with page keys, the ids of these, and their settings.
type PageDoor = (Arc<str>, BTreeSet<Arc<str>>, Arc<PageTenant>);

impl Access {
    /// Access by API key only.
    pub fn by_keys() -> Self {
        Self::default()
    }

    /// Open access as the tenant `default`, with an operator's scopes.
    pub fn open() -> Self {
        let open = Caller {
            tenant: "default".into(),
            key: "anonymous".into(),
            scopes: Scopes::ALL,
            is_known: false,
            is_page: false,
        };
        Self { open: Some(open), ..Self::default() }
    }

    /// Marks it as replaced: streams that it admitted must be admitted again.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    /// True once it has been replaced.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Resolves once it has been replaced.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Adds a tenant.
    pub fn insert(&mut self, id: &str, door: TenantDoor) {
        let tenant: Arc<str> = id.into();
        let pace = door.rate_per_s.and_then(NonZeroU32::new).map(|rate| {
            let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_S - 1));
            (Pace::new(rate, burst), Cell::default())
        });
        let known = |key: ApiKey| {
            let (is_page, scopes) = (key.page.is_some(), if key.page.is_some() { Scopes::NONE } else { key.scopes });
            let caller =
                Caller { tenant: Arc::clone(&tenant), key: key.id.into(), scopes, is_known: !is_page, is_page };
            Key { hash: key.hash, caller, origins: key.page }
        };
        let keys = door.keys.into_iter().map(known).collect();
        let entry =
            Entry { tenant: Arc::clone(&tenant), max_streams: door.max_streams, pace, keys, page: Arc::new(door.page) };
        self.tenants.insert(tenant, entry);
    }

    /// True if no key is needed.
    pub const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The caller that `key` belongs to.
    ///
    /// The tenant's name in the key is public; the hash of the whole key is compared with every hash of that tenant,
    /// without stopping at the first difference or the first match. A key for an unknown tenant costs the same work.
    pub fn find(&self, key: &str) -> Option<&Caller> {
        self.find_key(key).map(|key| &key.caller)
    }

    fn find_key(&self, key: &str) -> Option<&Key> {
        let tenant = key.strip_prefix("sw_").and_then(|rest| rest.rsplit_once('_')).map_or("", |(tenant, _)| tenant);
        let entry = self.tenants.get(tenant);
        let hash = KeyHash::of(key);
        let mut found = None;
        for known in entry.map_or(&[][..], |entry| &entry.keys) {
            if bool::from(known.hash.0.ct_eq(&hash.0)) {
                found = Some(known);
            }
        }
        if entry.is_none() {
            // The same amount of work as for one key.
            let _: Choice = [0; 32].ct_eq(&hash.0);
        }
        found
    }

    /// The caller who sent `headers`.
    ///
    /// # Errors
    /// `unauthorized`, the same for a missing, a malformed and a wrong key; `origin_refused` for a page key used on a
    /// page of another origin.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        if let Some(caller) = &self.open {
            return Ok(caller.clone());
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
        let key = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()));
        let found =
            key.filter(|key| key.len() <= MAX_KEY_BYTES).and_then(|key| self.find_key(key)).ok_or_else(|| {
                Problem::new(
                    "unauthorized",
                    "send a valid API key as `Authorization: Bearer sw_…` or `X-Api-Key: sw_…`",
                )
            })?;
        // Stops other sites in honest browsers only; a client that forges the header still has the caps of every page
        // key.
        if let (Some(origins), Some(origin)) = (&found.origins, headers.get(header::ORIGIN))
            && !origins.allow(origin.as_bytes())
        {
            let detail =
                format!("page key `{}` is not for pages of this origin (`tenant.keys.origins`)", found.caller.key);
            return Err(Problem::new("origin_refused", detail));
        }
        Ok(found.caller.clone())
    }

    /// Settings of the page keys of `caller`'s tenant.
    pub(crate) fn page_tenant(&self, caller: &Caller) -> Arc<PageTenant> {
        self.tenants.get(&caller.tenant).map(|entry| Arc::clone(&entry.page)).unwrap_or_default()
    }

    /// Tenants with page keys.
    pub(crate) fn page_doors(&self) -> Vec<PageDoor> {
        let door = |entry: &Entry| {
            let keys = entry.keys.iter().filter(|key| key.origins.is_some()).map(|key| Arc::clone(&key.caller.key));
            (Arc::clone(&entry.tenant), keys.collect::<BTreeSet<_>>(), Arc::clone(&entry.page))
        };
        self.tenants.values().map(door).filter(|(_, keys, _)| !keys.is_empty()).collect()
    }

    /// True if one of the page keys is for pages of `origin`.
    pub(crate) fn has_page_of(&self, origin: &[u8]) -> bool {
        let mut keys = self.tenants.values().flat_map(|entry| &entry.keys);
        keys.any(|key| key.origins.as_ref().is_some_and(|origins| origins.allow(origin)))
    }

    /// Most concurrent event streams of `caller`'s tenant.
    pub(crate) fn max_streams(&self, caller: &Caller) -> usize {
        self.tenants.get(&caller.tenant).map_or_else(|| TenantDoor::default().max_streams, |entry| entry.max_streams)
    }

    /// Counts one call of `caller` at `now` (time since a fixed instant) against its rate limit. The error is the time
    /// to wait.
    pub(crate) fn take_call(&self, caller: &Caller, now: std::time::Duration) -> Result<(), std::time::Duration> {
        match self.tenants.get(&caller.tenant).and_then(|entry| entry.pace.as_ref()) {
            Some((pace, cell)) => pace.take(cell, now),
            None => Ok(()),
        }
    }

    /// The tenants that can call.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.tenants.values().map(|entry| &*entry.tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, key: &str, scopes: Scopes) -> ApiKey {
        ApiKey { id: id.to_owned(), hash: KeyHash::of(key), scopes, page: None }
    }

    fn door(keys: Vec<ApiKey>) -> TenantDoor {
        TenantDoor { keys, ..TenantDoor::default() }
    }

    fn access() -> (Access, String, String) {
        let (a, b) = (new_key("shop").unwrap().to_string(), new_key("back_office").unwrap().to_string());
        let mut access = Access::by_keys();
        access.insert(
            "shop",
            door(vec![key("old", "sw_shop_old", Scopes::TENANT), key("new", &a, Scopes::of(&[Scope::Read]))]),
        );
        access.insert("back_office", door(vec![key("ops", &b, Scopes::ALL)]));
        access.insert("keyless", door(Vec::new()));
        (access, a, b)
    }

    #[test]
    fn a_key_opens_its_own_tenant_only() {
        let (access, a, b) = access();
        let found = access.find(&a).unwrap();
        assert_eq!((&*found.tenant, &*found.key, found.is_operator()), ("shop", "new", false));
        assert_eq!(&*access.find("sw_shop_old").unwrap().tenant, "shop");
        assert_eq!(&*access.find(&b).unwrap().tenant, "back_office");
        // The right secret under another name is another key.
        let secret = a.rsplit_once('_').unwrap().1;
        for wrong in [
            "",
            "sw_",
            "sw_shop_",
            "sw__",
            "shop",
            &a[..a.len() - 1],
            &format!("{a}1"),
            "sw_keyless_x",
            &format!("sw_back_office_{secret}"),
            &format!("sw_nobody_{secret}"),
            secret,
        ] {
            assert_eq!(access.find(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn headers() {
        let (access, a, _) = access();
        let with = |name: &'static str, value: String| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            access.authenticate(&headers)
        };
        assert!(with("authorization", format!("Bearer {a}")).is_ok());
        assert!(with("authorization", format!("bearer {a}")).is_ok());
        assert!(with("x-api-key", a.clone()).is_ok());
        assert_eq!(with("authorization", format!("Basic {a}")).unwrap_err().code(), "unauthorized");
        assert_eq!(with("authorization", a).unwrap_err().code(), "unauthorized");
        assert_eq!(access.authenticate(&HeaderMap::new()).unwrap_err().code(), "unauthorized");
        let anybody = Access::open().authenticate(&HeaderMap::new()).unwrap();
        assert!(anybody.is_operator() && !anybody.is_known);
    }

    #[test]
    fn scopes() {
        let some = Scopes::of(&[Scope::Read, Scope::Metrics]);
        assert!(some.has(Scope::Read) && !some.has(Scope::Submit) && !some.has(Scope::Operate));
        assert!(some.has_any(Scopes::TENANT) && !some.has_any(Scopes::of(&[Scope::Cancel])));
        assert_eq!(some.to_string(), "`read`, `metrics`");
        assert_eq!(some.iter().collect::<Scopes>(), some);
        assert!(Scope::ALL.into_iter().all(|scope| Scopes::ALL.has(scope)));
        assert!(!Scopes::TENANT.has(Scope::Operate) && !Scopes::TENANT.has(Scope::Metrics));
    }

    #[test]
    fn new_keys_are_long_and_different() {
        let (a, b) = (new_key("t").unwrap(), new_key("t").unwrap());
        assert_ne!(*a, *b);
        assert_eq!(a.len(), "sw_t_".len() + SECRET_DIGITS);
        assert_eq!(KeyHash::parse(&KeyHash::of(&a).to_string()), Some(KeyHash::of(&a)));
        assert!(KeyHash::parse("sha256:00").is_none());
        assert!(!format!("{:?}", KeyHash::of(&a)).contains(&KeyHash::of(&a).to_string()[7..]));
    }
}
