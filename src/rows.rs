//! The operations of a table, most of them packed: what nobody works on is kept as the bytes of its journal form, which
//! take a fraction of the room. Pure.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::listing::{Filter, Places};
use crate::operation::{Operation, Packed, TransferId};
use crate::sorted::SortedSet;

/// Operations by id and by the order of their creation.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    by_id: HashMap<TransferId, Row>,
    /// No two have one position: it is the LSN of the creation, and a snapshot that says otherwise is set right.
    by_order: SortedSet<(u64, TransferId)>,
    /// Order of each by the first LSN that it does not contain.
    changes: SortedSet<(u64, u64)>,
    /// Order of each by app and group.
    places: Places,
}

#[derive(Debug)]
struct Row {
    /// First LSN that is not contained in the operation.
    as_of: u64,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Packed(Packed),
    Open(Box<Operation>),
}

impl Form {
    fn new(operation: Operation, open: bool) -> Self {
        if open {
            Self::Open(Box::new(operation))
        } else {
            Self::Packed(Packed::new(&operation))
        }
    }

    fn operation(&self) -> Cow<'_, Operation> {
        match self {
            Self::Packed(packed) => Cow::Owned(packed.open()),
            Self::Open(operation) => Cow::Borrowed(operation),
        }
    }
}

impl Rows {
    /// An operation; one that is packed is unpacked for the caller.
    pub(crate) fn find(&self, id: TransferId) -> Option<Cow<'_, Operation>> {
        self.by_id.get(&id).map(|row| row.form.operation())
    }

    /// How many operations an app has.
    pub(crate) fn count_of_app(&self, app: &str) -> usize {
        self.places.count(app)
    }

    /// First LSN that an operation does not contain.
    pub(crate) fn as_of(&self, id: TransferId) -> Option<u64> {
        self.by_id.get(&id).map(|row| row.as_of)
    }

    /// The operation at a position.
    pub(crate) fn at(&self, order: u64) -> Option<TransferId> {
        let first = self.by_order.from((order, TransferId([0; 16]))).next();
        first.filter(|(at, _)| *at == order).map(|(_, id)| id)
    }

    pub(crate) fn contains(&self, id: TransferId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Gives an operation that is new here a position of its own.
    pub(crate) fn place(&self, operation: &mut Operation) {
        let is_taken = |order| self.at(order).is_some_and(|id| id != operation.id);
        let free = (operation.order..=u64::MAX).find(|order| !is_taken(*order));
        operation.order = free.unwrap_or(operation.order);
    }

    /// Puts in an operation that [`Rows::place`] has seen, in place of an older state of it.
    pub(crate) fn put(&mut self, operation: Operation, as_of: u64, open: bool) {
        let id = operation.id;
        self.by_order.insert((operation.order, id));
        self.changes.insert((as_of, operation.order));
        self.places.insert(&operation.spec, operation.order);
        let form = Form::new(operation, open);
        self.by_id.insert(id, Row { as_of, form });
    }

    /// Puts in another state of an operation, whose position, app and group stay what they were.
    pub(crate) fn replace(&mut self, operation: Operation, as_of: u64, open: bool) {
        let Some(row) = self.by_id.get_mut(&operation.id) else {
            return;
        };
        self.changes.remove((row.as_of, operation.order));
        self.changes.insert((as_of, operation.order));
        row.as_of = as_of;
        match &mut row.form {
            Form::Open(held) if open => **held = operation,
            form => *form = Form::new(operation, open),
        }
    }

    /// Takes out the state that [`Rows::find`] gave.
    pub(crate) fn remove(&mut self, operation: &Operation) {
        if let Some(row) = self.by_id.remove(&operation.id) {
            self.changes.remove((row.as_of, operation.order));
        }
        self.by_order.remove((operation.order, operation.id));
        self.places.remove(&operation.spec, operation.order);
    }

    /// Unpacks an operation for as long as somebody works on it, or packs it again.
    pub(crate) fn set_open(&mut self, id: TransferId, open: bool) {
        if let Some(row) = self.by_id.get_mut(&id)
            && open != matches!(row.form, Form::Open(_))
        {
            row.form = Form::new(row.form.operation().into_owned(), open);
        }
    }

    /// Appends the entry of a snapshot for one operation, if it is there; a packed one is not unpacked for that.
    pub(crate) fn encode(&self, id: TransferId, buffer: &mut Vec<u8>) {
        let Some(row) = self.by_id.get(&id) else { return };
        match &row.form {
            Form::Packed(packed) => packed.encode(row.as_of, buffer),
            Form::Open(operation) => Packed::new(operation).encode(row.as_of, buffer),
        }
    }

    /// In no order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = TransferId> {
        self.by_id.keys().copied()
    }

    /// All in the order of their creation, one unpacked after the other.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = Cow<'_, Operation>> {
        self.by_order.iter().filter_map(|(_, id)| self.find(id))
    }

    /// What a filter means, in the order of creation, behind the position `after`.
    pub(crate) fn list(&self, filter: &Filter, after: Option<u64>) -> impl Iterator<Item = Cow<'_, Operation>> {
        let first = after.map_or(Some(0), |after| after.checked_add(1));
        let all = first.filter(|_| filter.is_all());
        let all = all.map(|first| self.by_order.from((first, TransferId([0; 16]))).map(|(_, id)| id));
        let some = first.filter(|_| !filter.is_all());
        let some = some.map(|first| self.places.from(filter, first).filter_map(|order| self.at(order)));
        let ids = all.into_iter().flatten().chain(some.into_iter().flatten());
        let found = ids.filter_map(|id| self.find(id));
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
        let later = self.changes.from((cursor.saturating_add(1), 0));
        for (looks, (as_of, order)) in later.enumerate() {
            if as_of != next && (changed.len() >= max || looks >= looks_max) {
                break;
            }
            next = as_of;
            let operation = self.at(order).and_then(|id| self.find(id));
            changed.extend(operation.filter(|operation| means(filter, operation)));
        }
        (changed, next)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}

fn means(filter: &Filter, operation: &Operation) -> bool {
    filter.has(&operation.spec.app, operation.spec.group.as_deref())
}
