//! A map and a set as sorted lists, with the methods of [`std::collections::BTreeMap`] and
//! [`std::collections::BTreeSet`] that are in use.

use std::{
    borrow::Borrow,
    ops::{Bound, Range, RangeBounds},
    slice, vec,
};

/// An iterator over a [`Set`].
pub type SetIter<'a, T> = slice::Iter<'a, T>;

/// An iterator over keys and values of a [`Map`].
type Pairs<'a, K, V> = std::iter::Map<slice::Iter<'a, (K, V)>, fn(&'a (K, V)) -> (&'a K, &'a V)>;

/// Places of the entries within `range`, of entries with these keys in ascending order.
fn places<E, K: Ord>(entries: &[E], key: impl Fn(&E) -> &K, range: &impl RangeBounds<K>) -> Range<usize> {
    let from = match range.start_bound() {
        Bound::Unbounded => 0,
        Bound::Included(from) => entries.partition_point(|entry| key(entry) < from),
        Bound::Excluded(from) => entries.partition_point(|entry| key(entry) <= from),
    };
    let to = match range.end_bound() {
        Bound::Unbounded => entries.len(),
        Bound::Included(to) => entries.partition_point(|entry| key(entry) <= to),
        Bound::Excluded(to) => entries.partition_point(|entry| key(entry) < to),
    };
    from..to.max(from)
}

/// A map in ascending order of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map<K, V>(Vec<(K, V)>);

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Map<K, V> {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub const fn len(&self) -> usize {
        self.0.len()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn iter(&self) -> Pairs<'_, K, V> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&K, &mut V)> {
        self.0.iter_mut().map(|(key, value)| (&*key, value))
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    pub fn into_values(self) -> impl Iterator<Item = V> {
        self.0.into_iter().map(|(_, value)| value)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain_mut(|(key, value)| keep(key, value));
    }

    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.0.first().map(|(key, value)| (key, value))
    }

    pub fn last_key_value(&self) -> Option<(&K, &V)> {
        self.0.last().map(|(key, value)| (key, value))
    }
}

impl<K: Ord, V> Map<K, V> {
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.0.binary_search_by(|(own, _)| own.borrow().cmp(key))
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.place(key).ok().map(|place| &self.0[place].1)
    }

    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.place(key).ok().map(|place| &mut self.0[place].1)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.place(key).is_ok()
    }

    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.place(&key) {
            Ok(place) => Some(std::mem::replace(&mut self.0[place].1, value)),
            Err(place) => {
                self.0.insert(place, (key, value));
                None
            }
        }
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.place(key).ok().map(|place| self.0.remove(place).1)
    }

    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        Entry { map: self, key }
    }

    pub fn range(&self, range: impl RangeBounds<K>) -> Pairs<'_, K, V> {
        let places = places(&self.0, |(key, _)| key, &range);
        self.0[places].iter().map(|(key, value)| (key, value))
    }

    pub fn split_off(&mut self, key: &K) -> Self {
        let place = self.0.partition_point(|(own, _)| own < key);
        Self(self.0.split_off(place))
    }
}

/// The place of a key, with a value or without one.
#[derive(Debug)]
pub struct Entry<'a, K, V> {
    map: &'a mut Map<K, V>,
    key: K,
}

impl<'a, K: Ord, V> Entry<'a, K, V> {
    pub fn or_insert_with(self, make: impl FnOnce() -> V) -> &'a mut V {
        let place = match self.map.place(&self.key) {
            Ok(place) => place,
            Err(place) => {
                self.map.0.insert(place, (self.key, make()));
                place
            }
        };
        &mut self.map.0[place].1
    }

    pub fn or_insert(self, value: V) -> &'a mut V {
        self.or_insert_with(|| value)
    }

    pub fn or_default(self) -> &'a mut V
    where
        V: Default,
    {
        self.or_insert_with(V::default)
    }
}

impl<K: Ord, V> Extend<(K, V)> for Map<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        entries.into_iter().for_each(|(key, value)| drop(self.insert(key, value)));
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        map.extend(entries);
        map
    }
}

impl<K, V> IntoIterator for Map<K, V> {
    type Item = (K, V);
    type IntoIter = vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, K, V> IntoIterator for &'a Map<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Pairs<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl<'a, K, V> IntoIterator for &'a mut Map<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = std::iter::Map<slice::IterMut<'a, (K, V)>, fn(&'a mut (K, V)) -> (&'a K, &'a mut V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut().map(|(key, value)| (&*key, value))
    }
}

/// A set in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set<T>(Vec<T>);

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Set<T> {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub const fn len(&self) -> usize {
        self.0.len()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn iter(&self) -> slice::Iter<'_, T> {
        self.0.iter()
    }

    pub fn first(&self) -> Option<&T> {
        self.0.first()
    }

    pub fn last(&self) -> Option<&T> {
        self.0.last()
    }

    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.0.retain(keep);
    }
}

impl<T: Ord> Set<T> {
    fn place<Q: Ord + ?Sized>(&self, value: &Q) -> Result<usize, usize>
    where
        T: Borrow<Q>,
    {
        self.0.binary_search_by(|own| own.borrow().cmp(value))
    }

    pub fn contains<Q: Ord + ?Sized>(&self, value: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.place(value).is_ok()
    }

    pub fn insert(&mut self, value: T) -> bool {
        match self.place(&value) {
            Ok(_) => false,
            Err(place) => {
                self.0.insert(place, value);
                true
            }
        }
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, value: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.place(value).map(|place| drop(self.0.remove(place))).is_ok()
    }

    pub fn pop_first(&mut self) -> Option<T> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    pub fn range(&self, range: impl RangeBounds<T>) -> SetIter<'_, T> {
        let places = places(&self.0, |value| value, &range);
        self.0[places].iter()
    }
}

impl<T: Ord> Extend<T> for Set<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        values.into_iter().for_each(|value| _ = self.insert(value));
    }
}

impl<T: Ord> FromIterator<T> for Set<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut set = Self::new();
        set.extend(values);
        set
    }
}

impl<T> IntoIterator for Set<T> {
    type Item = T;
    type IntoIter = vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Set<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u8, u8),
        Remove(u8),
        Add(u8, u8),
        Extend(Vec<(u8, u8)>),
        KeepBelow(u8),
        SplitOff(u8),
        Change(u8),
        Clear,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = || 0..24_u8;
        let step = prop_oneof![
            8 => (key(), any::<u8>()).prop_map(|(key, value)| Step::Insert(key, value)),
            4 => key().prop_map(Step::Remove),
            4 => (key(), any::<u8>()).prop_map(|(key, value)| Step::Add(key, value)),
            1 => prop::collection::vec((key(), any::<u8>()), 0..6).prop_map(Step::Extend),
            1 => any::<u8>().prop_map(Step::KeepBelow),
            1 => key().prop_map(Step::SplitOff),
            1 => any::<u8>().prop_map(Step::Change),
            1 => Just(Step::Clear),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn a_list_does_what_a_tree_does(steps in steps(), from in 0..24_u8, length in 0..24_u8) {
            let (mut map, mut tree) = (Map::new(), BTreeMap::new());
            let (mut set, mut tree_set) = (Set::new(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        prop_assert_eq!(map.insert(key, value), tree.insert(key, value));
                        prop_assert_eq!(set.insert(key), tree_set.insert(key));
                    }
                    Step::Remove(key) => {
                        prop_assert_eq!(map.remove(&key), tree.remove(&key));
                        prop_assert_eq!(set.remove(&key), tree_set.remove(&key));
                    }
                    Step::Add(key, value) => {
                        *map.entry(key).or_default() |= value;
                        *tree.entry(key).or_default() |= value;
                        prop_assert_eq!(map.entry(key).or_insert(value), tree.entry(key).or_insert(value));
                        prop_assert_eq!(set.pop_first(), tree_set.pop_first());
                    }
                    Step::Extend(entries) => {
                        map.extend(entries.clone());
                        tree.extend(entries.clone());
                        set.extend(entries.iter().map(|entry| entry.0));
                        tree_set.extend(entries.iter().map(|entry| entry.0));
                    }
                    Step::KeepBelow(most) => {
                        map.retain(|_, value| *value < most);
                        tree.retain(|_, value| *value < most);
                        set.retain(|value| *value < most);
                        tree_set.retain(|value| *value < most);
                    }
                    Step::SplitOff(key) => {
                        let (after, tree_after) = (map.split_off(&key), tree.split_off(&key));
                        prop_assert!(after.into_iter().eq(tree_after));
                    }
                    Step::Change(by) => {
                        map.values_mut().for_each(|value| *value ^= by);
                        tree.values_mut().for_each(|value| *value ^= by);
                        map.iter_mut().for_each(|(key, value)| *value ^= key);
                        tree.iter_mut().for_each(|(key, value)| *value ^= key);
                        if let (Some(own), Some(value)) = (map.get_mut(&by), tree.get_mut(&by)) {
                            (*own, *value) = (by, by);
                        }
                    }
                    Step::Clear => {
                        map.clear();
                        set.clear();
                        tree.clear();
                        tree_set.clear();
                    }
                }
                prop_assert!(map.iter().eq(&tree) && set.iter().eq(&tree_set));
                prop_assert!(map.keys().eq(tree.keys()) && map.values().rev().eq(tree.values().rev()));
                prop_assert_eq!((map.len(), map.is_empty()), (tree.len(), tree.is_empty()));
                prop_assert_eq!((set.len(), set.is_empty()), (tree_set.len(), tree_set.is_empty()));
                prop_assert_eq!((map.first_key_value(), map.last_key_value()), (tree.first_key_value(), tree.last_key_value()));
                prop_assert_eq!((set.first(), set.last()), (tree_set.first(), tree_set.last()));
                prop_assert_eq!((map.get(&from), map.contains_key(&from)), (tree.get(&from), tree.contains_key(&from)));
                prop_assert_eq!(set.contains(&from), tree_set.contains(&from));
                let to = from + length;
                prop_assert!(map.range(from..to).eq(tree.range(from..to)) && set.range(from..=to).eq(tree_set.range(from..=to)));
                prop_assert!(map.range(..=from).eq(tree.range(..=from)) && set.range(from..).eq(tree_set.range(from..)));
            }
            prop_assert!(map.clone().into_values().eq(tree.clone().into_values()));
            prop_assert_eq!(map, tree.into_iter().collect());
            prop_assert_eq!(set, tree_set.into_iter().collect());
        }
    }
}
