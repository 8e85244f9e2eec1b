//! The operations of a table, most of them packed: what nobody works on, but for the last ends, is kept as the bytes of its
//! journal form, which take a fraction of the room, on a [`Shelf`] that need not be in memory. What is in memory of each then
//! is a few numbers, here and in the other indexes: some fifty bytes in all. Pure.

mod slots;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::hash::BuildHasherDefault;

use self::slots::{Slot, Slots};
use crate::hashed::ById;
use crate::listing::{Filter, Places};
use crate::operation::{Extent, Operation, TransferId, encode_packed, pack, pack_into, unpack};
use crate::shelf::{Memory, Place, Shelf};
use crate::sorted::{Index, SortedSet};

/// Rows that are looked at with each change while a shelf leaves its garbage behind: so many that it is done long before
/// as much garbage has come up again, and that no change is held up (chosen without measurement).
const MOVE_STEP: usize = 64;

/// Operations by id and by the order of their creation.
#[derive(Debug)]
pub(crate) struct Rows {
    /// No two have one order: it is the LSN of the creation, and a snapshot that says otherwise is set right.
    slots: Slots,
    /// Order of each by its id.
    ids: Index,
    count: usize,
    /// Those that somebody works on, and those that linger.
    open: ById<Open>,
    /// Those that were closed last and linger, first those that do so longest. Others stand here, too, that do not any more.
    lingering: VecDeque<TransferId>,
    lingering_max: usize,
    shelf: Box<dyn Shelf>,
    /// Room for what goes on the shelf.
    packed: Vec<u8>,
    /// Up to which order stale places of the shelf were left, where it moves.
    moving: Option<u64>,
    /// Those of the packed ones that something has happened to since their creation. Of the others it follows from their order
    /// when that was, and those that are open say it themselves: of them much is recorded in a row.
    changed: SortedSet<Change>,
    /// Order of each of these by the first LSN that it does not contain.
    changes: SortedSet<(u64, u64)>,
    /// Order of each by app and group.
    places: Places,
}

/// When something has happened to an operation. It is compared by the order of that alone.
#[derive(Clone, Copy, Debug)]
struct Change {
    order: u64,
    /// First LSN that is not contained in it.
    as_of: u64,
}

/// An operation that is not packed.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) operation: Box<Operation>,
    /// First LSN that is not contained in it.
    pub(crate) as_of: u64,
    /// Nobody works on it, and it is packed after so many others.
    lingers: bool,
}

/// Ended operations that stay open when nobody works on them any more: an end is mostly acknowledged soon, which would
/// unpack it and pack it once more. Each takes about a kilobyte (chosen: as many as are published together).
const LINGERING_MAX: usize = 128;

/// What is open stands on no shelf.
const OPEN: Place = Place(u32::MAX);

impl Open {
    pub(crate) fn of(operation: Box<Operation>, as_of: u64) -> Self {
        Self {
            operation,
            as_of,
            lingers: false,
        }
    }

    /// Nothing more happens to it than that it is removed.
    fn is_settled(&self) -> bool {
        self.operation.acknowledged_at_ms.is_some()
    }
}

impl Change {
    /// What is equal to that of this order.
    fn of(order: u64) -> Self {
        Self { order, as_of: 0 }
    }
}

impl PartialEq for Change {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Change {}

impl PartialOrd for Change {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Change {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order.cmp(&other.order)
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self::on(Box::<Memory>::default())
    }
}

impl Rows {
    /// None so far; what is packed goes on this shelf.
    pub(crate) fn on(shelf: Box<dyn Shelf>) -> Self {
        Self {
            slots: Slots::default(),
            ids: Index::default(),
            count: 0,
            open: ById::with_capacity_and_hasher(2 * LINGERING_MAX, BuildHasherDefault::default()),
            lingering: VecDeque::with_capacity(LINGERING_MAX + 1),
            lingering_max: LINGERING_MAX,
            shelf,
            packed: Vec::new(),
            moving: None,
            changed: SortedSet::default(),
            changes: SortedSet::default(),
            places: Places::default(),
        }
    }

    /// An operation; one that is packed is unpacked for the caller. `None`, too, where the shelf cannot give it any more
    /// (see [`Shelf::get`]).
    pub(crate) fn find(&self, id: TransferId) -> Option<Cow<'_, Operation>> {
        self.find_within(id, Extent::Whole)
    }

    /// The same of which no more than that is needed.
    pub(crate) fn find_within(&self, id: TransferId, extent: Extent) -> Option<Cow<'_, Operation>> {
        match self.open.get(&id) {
            Some(open) => Some(Cow::Borrowed(&*open.operation)),
            None => self.operation_within(self.slot(id)?, extent),
        }
    }

    #[cfg(test)]
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Lets no more than so many ended operations linger, where that is less than would.
    pub(crate) fn limit_lingering(&mut self, max: usize) {
        self.lingering_max = max.min(LINGERING_MAX);
    }

    /// How many operations an app has.
    pub(crate) fn count_of_app(&self, app: &str) -> usize {
        self.places.count(app)
    }

    /// First LSN that an operation does not contain.
    pub(crate) fn as_of(&self, id: TransferId) -> Option<u64> {
        self.slot(id).map(|slot| self.as_of_at(slot))
    }

    /// The position of an operation.
    pub(crate) fn order(&self, id: TransferId) -> Option<u64> {
        self.slot(id).map(|slot| slot.order)
    }

    /// The operation at a position.
    pub(crate) fn at(&self, order: u64) -> Option<TransferId> {
        self.slots.get(order).map(|slot| slot.id)
    }

    pub(crate) fn contains(&self, id: TransferId) -> bool {
        self.open.contains_key(&id) || self.slot(id).is_some()
    }

    /// Gives an operation that is new here a position of its own.
    pub(crate) fn place(&self, operation: &mut Operation) {
        let is_taken = |order| self.at(order).is_some_and(|id| id != operation.id);
        let free = (operation.order..=u64::MAX).find(|order| !is_taken(*order));
        operation.order = free.unwrap_or(operation.order);
    }

    /// Puts in an operation that [`Rows::place`] has seen and of which no older state is here.
    pub(crate) fn put(&mut self, operation: Operation, as_of: u64, open: bool) {
        let (id, order) = (operation.id, operation.order);
        self.ids.put(key(id), order, true);
        self.places.put(&operation.spec, order, true);
        let place = self.store(operation, as_of, open);
        self.slots.insert(Slot { order, id, place });
        self.count += 1;
        self.move_some();
    }

    /// Puts in another state of an operation, whose position, app and group stay what they were.
    pub(crate) fn replace(&mut self, operation: Operation, as_of: u64, open: bool) {
        let (id, order) = (operation.id, operation.order);
        // Most steps are of one that is open and stays so.
        if let Some(before) = self.open.get_mut(&id) {
            *before.operation = operation;
            before.as_of = as_of;
            return;
        }
        let Some(slot) = self.slots.get(order).filter(|slot| slot.id == id) else {
            return;
        };
        self.shelf.free(slot.place);
        self.stand(slot, operation, as_of, open);
    }

    /// Takes an open operation out for a moment: [`Rows::set_down`] puts its next state in its place, or it is
    /// [removed](Rows::remove).
    pub(crate) fn lift(&mut self, id: TransferId) -> Option<Open> {
        self.open.remove(&id)
    }

    /// Puts in another state of an operation that was lifted, whose position, app and group stay what they were. What only
    /// lingered for its acknowledgement is packed with that.
    pub(crate) fn set_down(&mut self, open: Open) {
        let (id, is_settled) = (open.operation.id, open.lingers && open.is_settled());
        self.open.insert(id, open);
        if is_settled {
            self.close(id);
        }
    }

    /// Takes out the state that [`Rows::find`] gave.
    pub(crate) fn remove(&mut self, operation: &Operation) {
        let order = operation.order;
        let Some(slot) = self.slots.get(order).filter(|slot| slot.id == operation.id) else {
            return;
        };
        self.ids.put(key(slot.id), order, false);
        self.note(order, as_created(order));
        self.places.put(&operation.spec, order, false);
        self.slots.remove(order);
        self.count -= 1;
        if slot.place == OPEN {
            self.open.remove(&operation.id);
        } else {
            self.shelf.free(slot.place);
        }
        self.move_some();
    }

    /// Unpacks an operation for as long as somebody works on it, or packs it again: soon, where it has ended.
    pub(crate) fn set_open(&mut self, id: TransferId, open: bool) {
        match self.open.get_mut(&id) {
            Some(stands) if open => stands.lingers = false,
            Some(stands) if stands.operation.has_ended() && !stands.is_settled() => {
                stands.lingers = true;
                self.lingering.push_back(id);
                if self.lingering.len() > self.lingering_max
                    && let Some(first) = self.lingering.pop_front()
                    && self.open.get(&first).is_some_and(|open| open.lingers)
                {
                    self.close(first);
                }
            }
            Some(_) => self.close(id),
            None if open => self.unpack(id),
            None => {}
        }
    }

    fn unpack(&mut self, id: TransferId) {
        let Some(slot) = self.slot(id) else { return };
        let Some(operation) = self.operation(slot).map(Cow::into_owned) else {
            return;
        };
        let as_of = self.as_of_at(slot);
        self.shelf.free(slot.place);
        self.stand(slot, operation, as_of, true);
    }

    fn close(&mut self, id: TransferId) {
        if let Some(Open { operation, as_of, .. }) = self.open.remove(&id) {
            let (order, place) = (operation.order, OPEN);
            self.stand(Slot { order, id, place }, *operation, as_of, false);
        }
    }

    fn stand(&mut self, slot: Slot, operation: Operation, as_of: u64, open: bool) {
        let place = self.store(operation, as_of, open);
        self.slots.replace(Slot { place, ..slot });
        self.move_some();
    }

    /// Appends the entry of a snapshot for one operation, if it is there; a packed one is not unpacked for that.
    pub(crate) fn encode(&self, id: TransferId, buffer: &mut Vec<u8>) {
        let Some(slot) = self.slot(id) else { return };
        match self.open.get(&slot.id) {
            Some(open) => encode_packed(&pack(&open.operation), self.as_of_at(slot), buffer),
            None => {
                if let Some(packed) = self.shelf.get(slot.place) {
                    encode_packed(&packed, self.as_of_at(slot), buffer);
                }
            }
        }
    }

    /// Ids from an order on, each with its order.
    pub(crate) fn ids_from(&self, order: u64) -> impl Iterator<Item = (u64, TransferId)> {
        self.slots.from(order).map(|slot| (slot.order, slot.id))
    }

    /// In the order of their creation.
    pub(crate) fn ids(&self) -> impl Iterator<Item = TransferId> {
        self.slots.iter().map(|slot| slot.id)
    }

    /// All in the order of their creation, one unpacked after the other.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = Cow<'_, Operation>> {
        self.slots.iter().filter_map(|slot| self.operation(slot))
    }

    /// What a filter means, in the order of creation, behind the position `after`.
    pub(crate) fn list(&self, filter: &Filter, after: Option<u64>) -> impl Iterator<Item = Cow<'_, Operation>> {
        let first = after.map_or(Some(0), |after| after.checked_add(1));
        let all = first.filter(|_| filter.is_all());
        let all = all.map(|first| self.slots.from(first));
        let some = first.filter(|_| !filter.is_all());
        let some = some.map(|first| {
            self.places
                .from(filter, first)
                .filter_map(|order| self.slots.get(order))
        });
        let slots = all.into_iter().flatten().chain(some.into_iter().flatten());
        let found = slots.filter_map(|slot| self.operation(slot));
        found.filter(|operation| means(filter, operation))
    }

    /// What has changed with the record `cursor` or with a later one, earliest first, and the position behind what was
    /// looked at. It ends after `max` of those that are meant, or after `looks_max` of all; but what one record changed is
    /// never parted.
    pub(crate) fn changed(
        &self,
        filter: &Filter,
        cursor: u64,
        max: usize,
        looks_max: usize,
    ) -> (Vec<Cow<'_, Operation>>, u64) {
        let (mut changed, mut next) = (Vec::new(), cursor);
        for (looks, (as_of, order)) in self.since(cursor).enumerate() {
            if as_of != next && (changed.len() >= max || looks >= looks_max) {
                break;
            }
            next = as_of;
            let operation = order.and_then(|order| self.operation(self.slots.get(order)?));
            changed.extend(operation.filter(|operation| means(filter, operation)));
        }
        (changed, next)
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn slot(&self, id: TransferId) -> Option<Slot> {
        let is_meant = |slot: &Slot| slot.id == id;
        self.ids.find(key(id), |order| self.slots.get(order).filter(is_meant))
    }

    fn as_of_at(&self, slot: Slot) -> u64 {
        let as_of = if slot.place == OPEN {
            self.open.get(&slot.id).map(|open| open.as_of)
        } else {
            let change = self.changed.get(Change::of(slot.order));
            change.map(|change| change.as_of)
        };
        as_of.unwrap_or(as_created(slot.order))
    }

    /// Notes the first LSN that a packed operation does not contain; of one that is not packed, that of its creation.
    fn note(&mut self, order: u64, as_of: u64) {
        let change = Change { order, as_of };
        let before = self.changed.replace(change);
        if before.is_some_and(|before| before.as_of == as_of) {
            return;
        }
        // First in and then out, which leaves a list of one where it is.
        if as_of != as_created(order) {
            self.changes.insert((as_of, order));
            if before.is_none() {
                self.changed.insert(change);
            }
        } else if before.is_some() {
            self.changed.remove(change);
        }
        if let Some(before) = before {
            self.changes.remove((before.as_of, order));
        }
    }

    /// What does not contain all before the record `cursor`, or that record itself is contained in: the first LSN that it does
    /// not contain, and its order, ascending. Without an order at the creation of one that has changed since: it comes later,
    /// and looking past it costs, too.
    fn since(&self, cursor: u64) -> impl Iterator<Item = (u64, Option<u64>)> {
        let first = (cursor.saturating_add(1), 0);
        let open = self.open.values().map(|open| (open.as_of, open.operation.order));
        let mut open: Vec<(u64, u64)> = open
            .filter(|change| *change >= first && change.0 != as_created(change.1))
            .collect();
        open.sort_unstable();
        let (mut packed, mut open) = (self.changes.from(first).peekable(), open.into_iter().peekable());
        let mut slots = self.slots.from(cursor).peekable();
        std::iter::from_fn(move || {
            let next = packed.peek().into_iter().chain(open.peek()).min();
            let until = next.map_or(u64::MAX, |(as_of, _)| *as_of);
            if let Some(slot) = slots.next_if(|slot| as_created(slot.order) <= until) {
                let created = as_created(slot.order);
                let is_as_created = self.as_of_at(slot) == created;
                return Some((created, Some(slot.order).filter(|_| is_as_created)));
            }
            let next = next.copied()?;
            let (as_of, order) = packed.next_if_eq(&next).or_else(|| open.next())?;
            Some((as_of, Some(order)))
        })
    }

    fn operation(&self, slot: Slot) -> Option<Cow<'_, Operation>> {
        self.operation_within(slot, Extent::Whole)
    }

    fn operation_within(&self, slot: Slot, extent: Extent) -> Option<Cow<'_, Operation>> {
        if slot.place == OPEN {
            return self.open.get(&slot.id).map(|open| Cow::Borrowed(&*open.operation));
        }
        unpack(&self.shelf.get(slot.place)?, extent).map(Cow::Owned)
    }

    fn store(&mut self, operation: Operation, as_of: u64, open: bool) -> Place {
        let order = operation.order;
        self.note(order, if open { as_created(order) } else { as_of });
        if open {
            let open = Open::of(Box::new(operation), as_of);
            self.open.insert(open.operation.id, open);
            OPEN
        } else {
            pack_into(&operation, &mut self.packed);
            self.shelf.put(&self.packed)
        }
    }

    /// Takes some operations along to where the shelf moves, if it does.
    fn move_some(&mut self) {
        if self.moving.is_none() && self.shelf.begin_move() {
            self.moving = Some(0);
        }
        let Some(first) = self.moving else { return };
        let some: Vec<Slot> = self.slots.from(first).take(MOVE_STEP).collect();
        for slot in &some {
            let is_stale = slot.place != OPEN && self.shelf.is_stale(slot.place);
            // One that cannot be read stays where it is, which is not looked at again.
            if is_stale && let Some(bytes) = self.shelf.get(slot.place).map(Cow::into_owned) {
                let place = self.shelf.put(&bytes);
                self.slots.replace(Slot { place, ..*slot });
            }
        }
        self.moving = match some.last() {
            Some(last) if some.len() == MOVE_STEP => last.order.checked_add(1),
            _ => None,
        };
        if self.moving.is_none() {
            self.shelf.end_move();
        }
    }
}

/// The first LSN that an operation does not contain to which nothing has happened but its creation.
fn as_created(order: u64) -> u64 {
    order.saturating_add(1)
}

/// A hash of an id. Ids are drawn at random, so that little is needed to spread them, also where somebody counts them up.
fn key(id: TransferId) -> u64 {
    // 2^64 divided by the golden ratio, which carries every bit to the upper half.
    const FACTOR: u128 = 0x9E37_79B9_7F4A_7C15;
    let halves = u128::from_be_bytes(id.0);
    let mixed = (halves ^ (halves >> 64)) & u128::from(u64::MAX);
    u64::try_from((mixed * FACTOR) & u128::from(u64::MAX)).unwrap_or_default()
}

fn means(filter: &Filter, operation: &Operation) -> bool {
    filter.has(&operation.spec.app, operation.spec.group.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hashed::Ids;

    impl Rows {
        /// Each operation stands packed or open, once; and what is open is in somebody's hands or lingers, as few do.
        pub(crate) fn check(&self, busy: &Ids) {
            let open: Vec<Slot> = self.slots.iter().filter(|slot| slot.place == OPEN).collect();
            assert_eq!((self.count, open.len()), (self.slots.iter().count(), self.open.len()));
            assert!(
                self.slots
                    .iter()
                    .all(|slot| self.slot(slot.id).is_some_and(|found| found.order == slot.order))
            );
            for slot in &open {
                let Some(stands) = self.open.get(&slot.id) else {
                    panic!("{} is lost", slot.id);
                };
                assert_eq!((stands.operation.id, stands.operation.order), (slot.id, slot.order));
                assert_eq!(stands.operation.batch, None);
                assert_ne!(stands.lingers, busy.contains(&slot.id), "{}", slot.id);
                assert!(
                    !stands.lingers || self.lingering.contains(&slot.id),
                    "{} stays for ever",
                    slot.id
                );
            }
            let is_noted = |slot: &Slot| self.changed.get(Change::of(slot.order)).is_some();
            assert!(!open.iter().any(is_noted), "an open one is noted as packed, too");
            assert_eq!(self.changed.len(), self.changes.len());
            assert!(busy.iter().all(|id| !self.contains(*id) || self.open.contains_key(id)));
            assert!(self.lingering.len() <= LINGERING_MAX);
        }

        /// How many are open.
        pub(crate) fn opened(&self) -> usize {
            self.open.len()
        }
    }
}
