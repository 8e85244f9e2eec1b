//! Who an operation is and where its bytes lie, by its position: all that is in memory of most. Pure.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::operation::TransferId;
use crate::shelf::Place;
use crate::sorted::SortedSet;

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) order: u64,
    pub(super) id: TransferId,
    pub(super) place: Place,
}

/// Slots by their orders, 22 bytes for each.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// By all but the last bits of their orders. None is empty.
    parts: BTreeMap<u64, SortedSet<Packed>>,
}

/// Bits of an order that a slot repeats.
const ORDER_BITS: u32 = u16::BITS;

/// A slot without what the others of its part have in common: bytes, so that nothing between them is lost to alignment. It
/// is compared by its order alone.
#[derive(Clone, Copy, Debug)]
struct Packed {
    order: [u8; 2],
    id: [u8; 16],
    place: [u8; 4],
}

impl Packed {
    /// What is equal to the slot of this order.
    #[expect(clippy::cast_possible_truncation, reason = "the last bits are what is wanted")]
    fn of(order: u64) -> Self {
        Self {
            order: (order as u16).to_be_bytes(),
            id: [0; 16],
            place: [0; 4],
        }
    }

    fn new(slot: Slot) -> Self {
        Self {
            id: slot.id.0,
            place: slot.place.0.to_be_bytes(),
            ..Self::of(slot.order)
        }
    }

    fn slot(self, part: u64) -> Slot {
        Slot {
            order: part << ORDER_BITS | u64::from(u16::from_be_bytes(self.order)),
            id: TransferId(self.id),
            place: Place(u32::from_be_bytes(self.place)),
        }
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Packed {}

impl PartialOrd for Packed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        u16::from_be_bytes(self.order).cmp(&u16::from_be_bytes(other.order))
    }
}

impl Slots {
    pub(super) fn get(&self, order: u64) -> Option<Slot> {
        let part = order >> ORDER_BITS;
        let packed = self.parts.get(&part)?.get(Packed::of(order))?;
        Some(packed.slot(part))
    }

    pub(super) fn insert(&mut self, slot: Slot) {
        let part = self.parts.entry(slot.order >> ORDER_BITS).or_default();
        part.insert(Packed::new(slot));
    }

    /// Puts a slot in the place of the one that has its order, where there is one.
    pub(super) fn replace(&mut self, slot: Slot) {
        if let Some(part) = self.parts.get_mut(&(slot.order >> ORDER_BITS)) {
            part.replace(Packed::new(slot));
        }
    }

    pub(super) fn remove(&mut self, order: u64) {
        if let Entry::Occupied(mut part) = self.parts.entry(order >> ORDER_BITS) {
            part.get_mut().remove(Packed::of(order));
            if part.get().is_empty() {
                part.remove();
            }
        }
    }

    /// Those from an order on, ascending.
    pub(super) fn from(&self, first: u64) -> impl Iterator<Item = Slot> + use<'_> {
        let first_part = first >> ORDER_BITS;
        self.parts.range(first_part..).flat_map(move |(part, slots)| {
            let first = if *part == first_part { first } else { 0 };
            slots.from(Packed::of(first)).map(|packed| packed.slot(*part))
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + use<'_> {
        self.from(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_by_their_orders_however_far_those_are_apart() {
        let orders = [0, 1, 0xFFFF, 0x1_0000, 0x1_0001, 0x7_0000_0000, u64::MAX - 1, u64::MAX];
        let slot = |order: u64| Slot {
            order,
            id: TransferId(u128::from(order).to_le_bytes()),
            place: Place(7),
        };
        let mut slots = Slots::default();
        for order in orders.iter().rev() {
            slots.insert(slot(*order));
        }
        for (index, order) in orders.iter().enumerate() {
            assert!(
                slots
                    .from(*order)
                    .map(|slot| slot.order)
                    .eq(orders[index..].iter().copied())
            );
            let place = Place(u32::MAX);
            slots.replace(Slot { place, ..slot(*order) });
            let found = slots.get(*order).map(|slot| (slot.order, slot.id, slot.place));
            assert_eq!(found, Some((*order, slot(*order).id, place)));
        }
        assert!(slots.get(2).is_none());
        for order in orders {
            slots.remove(order);
            assert!(slots.get(order).is_none());
        }
        assert!(slots.parts.is_empty() && slots.iter().next().is_none());
        assert_eq!(size_of::<Packed>(), 22);
    }
}
