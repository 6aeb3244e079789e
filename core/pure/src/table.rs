//! A small ordered map for few entries: lanes, forwarders, work in progress of one lane or one page. Each further
//! `BTreeMap` type adds code to the WASM download.

use std::vec;

/// Keys and values in ascending order of the keys. A ring buffer would move less when the first entry leaves, as nonces
/// do, but costs several times the code for each pair of types.
#[derive(Debug, Clone)]
pub struct Table<K, V>(Vec<(K, V)>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> Table<K, V> {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    // One copy of the search for each pair of types.
    #[inline(never)]
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.binary_search_by(|(own, _)| own.borrow().cmp(key))
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.place(key).ok().map(|place| &self.0[place].1)
    }

    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.place(key).ok().map(|place| &mut self.0[place].1)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        self.place(key).is_ok()
    }

    /// Inserts or replaces a value; true if the key is new.
    pub fn insert(&mut self, key: K, value: V) -> bool {
        match self.place(&key) {
            Ok(place) => {
                self.0[place].1 = value;
                false
            }
            Err(place) => {
                self.0.insert(place, (key, value));
                true
            }
        }
    }

    /// The value of the key, created if the key is new.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let place = self.place(&key).unwrap_or_else(|place| {
            self.0.insert(place, (key, make()));
            place
        });
        &mut self.0[place].1
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        Some(self.0.remove(place).1)
    }

    pub fn pop_first(&mut self) -> Option<(K, V)> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    pub fn retain_mut(&mut self, keep: impl FnMut(&mut (K, V)) -> bool) {
        self.0.retain_mut(keep);
    }

    pub fn retain(&mut self, keep: impl FnMut(&(K, V)) -> bool) {
        self.0.retain(keep);
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &(K, V)> {
        self.0.iter()
    }

    /// Entries whose key is `key` or above.
    pub fn from(&self, key: &K) -> impl Iterator<Item = &(K, V)> {
        self.0[self.place(key).unwrap_or_else(|place| place)..].iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut (K, V)> {
        self.0.iter_mut()
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<K, V> IntoIterator for Table<K, V> {
    type Item = (K, V);
    type IntoIter = vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_in_order_and_once() {
        let mut table = Table::new();
        for key in [3, 1, 2] {
            assert!(table.insert(key, "first"));
        }
        assert!(!table.insert(2, "second"));
        *table.get_or_insert_with(0, || "new") = "changed";
        assert_eq!(*table.get_or_insert_with(0, || "other"), "changed");
        assert_eq!(
            table.iter().copied().collect::<Vec<_>>(),
            [(0, "changed"), (1, "first"), (2, "second"), (3, "first")]
        );
        assert_eq!(
            (table.pop_first(), table.remove(&3), table.remove(&3)),
            (Some((0, "changed")), Some("first"), None)
        );
        table.values_mut().for_each(|value| *value = "last");
        assert_eq!(table.into_iter().collect::<Vec<_>>(), [(1, "last"), (2, "last")]);
        assert_eq!(Table::<u8, u8>::default().pop_first(), None);
    }
}
