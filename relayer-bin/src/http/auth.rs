//! Who asks? API keys, hashed at rest and compared in constant time.

use std::{collections::BTreeMap, fmt, sync::Arc};

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::problem::Problem;

/// Digits of a key's secret part: no look-alikes, no separators.
const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/// 43 digits of base 58 hold 251 bits.
const SECRET_DIGITS: usize = 43;
/// Longest key that is looked at.
const MAX_KEY_BYTES: usize = 256;

/// SHA-256 of a whole API key: what the configuration holds. The key is random, so that a plain hash is enough.
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

/// On whose behalf a call is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The tenant.
    pub tenant: Arc<str>,
    /// Sees every tenant's requests.
    pub is_operator: bool,
}

impl Caller {
    /// The tenant whose things may be seen; `None` for everybody's.
    pub fn scope(&self) -> Option<String> {
        (!self.is_operator).then(|| self.tenant.as_ref().to_owned())
    }

    /// Whether things of `tenant` may be seen.
    pub fn sees(&self, tenant: &str) -> bool {
        self.is_operator || *self.tenant == *tenant
    }
}

#[derive(Debug, Clone)]
struct Entry {
    caller: Caller,
    keys: Vec<KeyHash>,
}

/// Which keys open the door.
#[derive(Debug, Clone)]
pub enum Keys {
    /// Everybody is this caller: local development.
    Open(Caller),
    /// By tenant id, which every key names.
    Tenants(KeyRing),
}

/// The keys of all tenants.
#[derive(Debug, Clone, Default)]
pub struct KeyRing(BTreeMap<Arc<str>, Entry>);

impl KeyRing {
    /// Adds a tenant's keys.
    pub fn insert(&mut self, tenant: &str, is_operator: bool, keys: Vec<KeyHash>) {
        let tenant: Arc<str> = tenant.into();
        let caller = Caller { tenant: Arc::clone(&tenant), is_operator };
        self.0.insert(tenant, Entry { caller, keys });
    }

    /// The caller that `key` belongs to.
    ///
    /// The tenant's name in the key is public; the hash of the whole key is compared with every hash of that tenant,
    /// without stopping at the first difference or the first match. A key for an unknown tenant takes the same way.
    pub fn find(&self, key: &str) -> Option<&Caller> {
        const NOBODY: &[KeyHash] = &[KeyHash([0; 32])];
        let tenant = key.strip_prefix("sw_").and_then(|rest| rest.rsplit_once('_')).map_or("", |(tenant, _)| tenant);
        let entry = self.0.get(tenant);
        let hash = KeyHash::of(key);
        let mut found = Choice::from(0);
        for known in entry.map_or(NOBODY, |entry| &entry.keys) {
            found |= known.0.ct_eq(&hash.0);
        }
        entry.filter(|_| bool::from(found)).map(|entry| &entry.caller)
    }
}

impl Keys {
    /// A door that is open to the tenant `default`, with an operator's view.
    pub fn open() -> Self {
        Self::Open(Caller { tenant: "default".into(), is_operator: true })
    }

    /// Whether a key is needed.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Who sent `headers`?
    ///
    /// # Errors
    /// `unauthorized`, the same for a missing, a malformed and a wrong key.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let ring = match self {
            Self::Open(caller) => return Ok(caller.clone()),
            Self::Tenants(ring) => ring,
        };
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
        let key = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()));
        key.filter(|key| key.len() <= MAX_KEY_BYTES).and_then(|key| ring.find(key)).cloned().ok_or_else(|| {
            Problem::new("unauthorized", "send a valid API key as `Authorization: Bearer sw_…` or `X-Api-Key: sw_…`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> (KeyRing, String, String) {
        let (a, b) = (new_key("shop").unwrap().to_string(), new_key("back_office").unwrap().to_string());
        let mut ring = KeyRing::default();
        ring.insert("shop", false, vec![KeyHash::of("sw_shop_old"), KeyHash::of(&a)]);
        ring.insert("back_office", true, vec![KeyHash::of(&b)]);
        ring.insert("keyless", false, Vec::new());
        (ring, a, b)
    }

    #[test]
    fn a_key_opens_its_own_tenant_only() {
        let (ring, a, b) = ring();
        assert_eq!(&*ring.find(&a).unwrap().tenant, "shop");
        assert_eq!(&*ring.find("sw_shop_old").unwrap().tenant, "shop");
        assert_eq!(&*ring.find(&b).unwrap().tenant, "back_office");
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
            assert_eq!(ring.find(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn headers() {
        let (ring, a, _) = ring();
        let keys = Keys::Tenants(ring);
        let with = |name: &'static str, value: String| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            keys.authenticate(&headers)
        };
        assert!(with("authorization", format!("Bearer {a}")).is_ok());
        assert!(with("authorization", format!("bearer {a}")).is_ok());
        assert!(with("x-api-key", a.clone()).is_ok());
        assert_eq!(with("authorization", format!("Basic {a}")).unwrap_err().code(), "unauthorized");
        assert_eq!(with("authorization", a).unwrap_err().code(), "unauthorized");
        assert_eq!(keys.authenticate(&HeaderMap::new()).unwrap_err().code(), "unauthorized");
        assert!(Keys::open().authenticate(&HeaderMap::new()).unwrap().is_operator);
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
