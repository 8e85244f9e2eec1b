//! A hasher for what needs none. Pure.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::operation::TransferId;

/// Anything by the operation that it belongs to.
pub(crate) type ById<T> = HashMap<TransferId, T, BuildHasherDefault<Hashed>>;

/// Anything by a hash that somebody has taken already, or by what is drawn at random.
pub(crate) type ByHash<K, T> = HashMap<K, T, BuildHasherDefault<Hashed>>;

/// Operations, in no order.
pub(crate) type Ids = HashSet<TransferId, BuildHasherDefault<Hashed>>;

/// Takes the last eight bytes as they are: for what is a keyed hash already, and for ids, which are drawn at random here.
#[derive(Default)]
pub(crate) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let last = bytes.last_chunk().copied().unwrap_or_default();
        self.0 = u64::from_ne_bytes(last);
    }
}
