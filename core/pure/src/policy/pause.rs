//! Pauses: scopes that take no new work.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Scope of a pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PauseScope {
    /// All chains and tenants.
    All,
    /// One chain, by its EIP-155 id.
    Chain(u64),
    /// One tenant, by name.
    Tenant(String),
}

impl fmt::Display for PauseScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("everything"),
            Self::Chain(id) => write!(f, "chain {id}"),
            Self::Tenant(id) => write!(f, "tenant {id}"),
        }
    }
}

/// Author and time of a pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PauseNote {
    /// Id of the API key.
    pub by: String,
    /// Time of the pause, Unix ms.
    pub at_ms: u64,
}

/// All active pauses. Within their scope nothing is accepted and no new batch is made; transactions in flight continue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pauses {
    /// Pause of everything; `None` if not paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<PauseNote>,
    /// Pauses by chain id.
    pub chains: BTreeMap<u64, PauseNote>,
    /// Pauses by tenant.
    pub tenants: BTreeMap<String, PauseNote>,
}

impl Pauses {
    /// Pauses `scope`, or ends its pause. Returns true if that changes anything.
    pub fn set(&mut self, scope: &PauseScope, note: Option<PauseNote>) -> bool {
        fn set_in<K: Ord + Clone>(map: &mut BTreeMap<K, PauseNote>, key: &K, note: Option<PauseNote>) -> bool {
            match note {
                Some(note) if !map.contains_key(key) => map.insert(key.clone(), note).is_none(),
                Some(_) => false,
                None => map.remove(key).is_some(),
            }
        }
        match scope {
            PauseScope::All => {
                let changes = self.all.is_some() != note.is_some();
                if changes {
                    self.all = note;
                }
                changes
            }
            PauseScope::Chain(id) => set_in(&mut self.chains, id, note),
            PauseScope::Tenant(id) => set_in(&mut self.tenants, id, note),
        }
    }

    /// The widest pause that covers a request of `tenant` on `chain_id`; `None` if none does.
    pub fn of(&self, tenant: &str, chain_id: u64) -> Option<PauseScope> {
        if self.all.is_some() {
            Some(PauseScope::All)
        } else if self.chains.contains_key(&chain_id) {
            Some(PauseScope::Chain(chain_id))
        } else {
            self.tenants.contains_key(tenant).then(|| PauseScope::Tenant(tenant.to_owned()))
        }
    }

    /// True if nothing at all is sent on `chain_id`.
    pub fn stops_chain(&self, chain_id: u64) -> bool {
        self.all.is_some() || self.chains.contains_key(&chain_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(by: &str) -> Option<PauseNote> {
        Some(PauseNote { by: by.to_owned(), at_ms: 1 })
    }

    #[test]
    fn a_pause_holds_in_its_scope_and_nowhere_else() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.of("a", 1), None);
        assert!(pauses.set(&PauseScope::Tenant("a".to_owned()), note("x")));
        assert_eq!(pauses.of("a", 1), Some(PauseScope::Tenant("a".to_owned())));
        assert_eq!((pauses.of("b", 1), pauses.stops_chain(1)), (None, false));
        assert!(pauses.set(&PauseScope::Chain(1), note("x")));
        assert_eq!((pauses.of("b", 1), pauses.of("b", 2)), (Some(PauseScope::Chain(1)), None));
        assert!(pauses.stops_chain(1) && !pauses.stops_chain(2));
        assert!(pauses.set(&PauseScope::All, note("x")));
        assert_eq!(pauses.of("b", 2), Some(PauseScope::All));
        assert!(pauses.set(&PauseScope::All, None));
        assert_eq!(pauses.of("b", 2), None);
        assert_eq!(pauses.of("b", 1), Some(PauseScope::Chain(1)), "a narrower pause outlives a wider one");
    }

    #[test]
    fn the_first_note_stays() {
        let mut pauses = Pauses::default();
        for scope in [PauseScope::All, PauseScope::Chain(1), PauseScope::Tenant("a".to_owned())] {
            assert!(pauses.set(&scope, note("first")) && !pauses.set(&scope, note("second")));
        }
        let text = serde_json::to_string(&pauses).unwrap();
        assert!(!text.contains("second"));
        assert_eq!(serde_json::from_str::<Pauses>(&text).unwrap(), pauses);
        assert_eq!(serde_json::from_str::<Pauses>("{}").unwrap(), Pauses::default());
    }
}
