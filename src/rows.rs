//! The operations of a table, most of them packed: what nobody works on is kept as the bytes of its journal form, which
//! take a fraction of the room. Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use crate::operation::{Operation, Packed, TransferId};

/// Operations by id and by the order of their creation.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    by_id: HashMap<TransferId, Row>,
    /// No two have one position: it is the LSN of the creation, and a snapshot that says otherwise is set right.
    by_order: BTreeMap<u64, TransferId>,
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

    /// First LSN that an operation does not contain.
    pub(crate) fn as_of(&self, id: TransferId) -> Option<u64> {
        self.by_id.get(&id).map(|row| row.as_of)
    }

    pub(crate) fn contains(&self, id: TransferId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Gives an operation that is new here a position of its own.
    pub(crate) fn place(&self, operation: &mut Operation) {
        let is_taken = |order| self.by_order.get(&order).is_some_and(|id| *id != operation.id);
        let free = (operation.order..=u64::MAX).find(|order| !is_taken(*order));
        operation.order = free.unwrap_or(operation.order);
    }

    /// Puts in an operation that [`Rows::place`] has seen, in place of an older state of it.
    pub(crate) fn put(&mut self, operation: Operation, as_of: u64, open: bool) {
        let id = operation.id;
        self.by_order.insert(operation.order, id);
        let form = Form::new(operation, open);
        self.by_id.insert(id, Row { as_of, form });
    }

    /// Takes out the state that [`Rows::find`] gave.
    pub(crate) fn remove(&mut self, operation: &Operation) {
        self.by_id.remove(&operation.id);
        self.by_order.remove(&operation.order);
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
        self.by_order.values().filter_map(|id| self.find(*id))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}
