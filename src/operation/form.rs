//! The form of a record, written by hand: the bytes that the derived code gives, which spends most of its instructions on the
//! ways that any type and any writer can take. What is recorded of every file is written so; everything else by that code.

use std::convert::Infallible;

use minicbor::Encode;
use minicbor::encode::Write;

/// The first bits of an item, which say of what kind it is.
///
/// Source: RFC 8949, section 3.1.
const NUMBER: u8 = 0;
const BYTES: u8 = 2 << 5;
const TEXT: u8 = 3 << 5;
const ARRAY: u8 = 4 << 5;
const MAP: u8 = 5 << 5;
const FALSE: u8 = 0xF4;
const TRUE: u8 = 0xF5;

/// Numbers below this one stand in the first byte of an item.
const SHORT_MAX: u8 = 24;

/// Appends items to bytes.
pub(super) struct Form<'a>(&'a mut Vec<u8>);

/// A map that is being written. Its keys come in ascending order, as the derived code has them.
pub(super) struct Map<'a, 'b> {
    form: &'a mut Form<'b>,
    count: u8,
}

/// What is written by hand.
pub(super) trait Put {
    fn put(&self, form: &mut Form<'_>);
}

/// Lets the derived code of what holds one of these types write it as it is written by hand.
macro_rules! encode_as_put {
    ($($type:ty),+) => {
        $(impl<C> minicbor::Encode<C> for $type {
            fn encode<W: minicbor::encode::Write>(
                &self,
                encoder: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                let bytes = crate::operation::form::bytes_of(self);
                let written = encoder.writer_mut().write_all(&bytes);
                written.map_err(minicbor::encode::Error::write)
            }
        })+
    };
}

pub(super) use encode_as_put;

/// Most records are shorter.
const ROOM_BYTES: usize = 256;

/// The bytes of a value by themselves.
pub(super) fn bytes_of(value: &impl Put) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ROOM_BYTES);
    value.put(&mut Form::at_end_of(&mut bytes));
    bytes
}

impl<'a> Form<'a> {
    pub(super) fn at_end_of(bytes: &'a mut Vec<u8>) -> Self {
        Self(bytes)
    }

    #[inline]
    fn head(&mut self, kind: u8, number: u64) {
        match u8::try_from(number) {
            Ok(short) if short < SHORT_MAX => self.0.push(kind | short),
            _ => self.long_head(kind, number),
        }
    }

    fn long_head(&mut self, kind: u8, number: u64) {
        let (mark, len) = match number {
            0..=0xFF => (24, 1),
            0x100..=0xFFFF => (25, 2),
            0x1_0000..=0xFFFF_FFFF => (26, 4),
            _ => (27, 8),
        };
        self.0.push(kind | mark);
        let end = self.0.len() + len;
        // All eight bytes, of which the first stay: so many are copied in one piece.
        self.0.extend_from_slice(&(number << (64 - 8 * len)).to_be_bytes());
        self.0.truncate(end);
    }

    pub(super) fn number(&mut self, number: u64) {
        self.head(NUMBER, number);
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.0.push(if flag { TRUE } else { FALSE });
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.head(BYTES, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn id(&mut self, id: &[u8; 16]) {
        self.0.push(BYTES | 16);
        self.0.extend_from_slice(id);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.head(TEXT, text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Begins an array of so many items.
    pub(super) fn array(&mut self, count: u64) {
        self.head(ARRAY, count);
    }

    /// An array of so many items, which are bytes of this form already.
    pub(super) fn array_of(&mut self, count: u64, items: &[u8]) {
        self.array(count);
        self.0.extend_from_slice(items);
    }

    /// Begins a variant of an enumeration, and its fields: as many as there are up to the last one that says something.
    pub(super) fn variant(&mut self, number: u8, fields: u8) {
        debug_assert!(number < SHORT_MAX && fields < SHORT_MAX);
        self.0.extend_from_slice(&[ARRAY | 2, number, ARRAY | fields]);
    }

    pub(super) fn map(&mut self, fields: impl FnOnce(&mut Map<'_, 'a>)) {
        let start = self.0.len();
        self.0.push(MAP);
        let mut map = Map { form: self, count: 0 };
        fields(&mut map);
        let count = map.count;
        if count < SHORT_MAX {
            self.0[start] = MAP | count;
        } else {
            self.0[start] = MAP | SHORT_MAX;
            self.0.insert(start + 1, count);
        }
    }

    /// What the derived code writes.
    pub(super) fn derived(&mut self, value: &impl Encode<()>) {
        match minicbor::encode(value, Tail(self.0)) {
            Ok(()) => {}
            Err(error) => unreachable!("writing to memory cannot fail: {error}"),
        }
    }
}

impl<'b> Map<'_, 'b> {
    /// Begins a field: its value is to follow.
    #[inline]
    pub(super) fn key(&mut self, key: u8) -> &mut Form<'b> {
        self.count += 1;
        self.form.head(NUMBER, u64::from(key));
        self.form
    }

    pub(super) fn put(&mut self, key: u8, value: &impl Put) {
        value.put(self.key(key));
    }

    pub(super) fn put_some(&mut self, key: u8, value: Option<&impl Put>) {
        if let Some(value) = value {
            value.put(self.key(key));
        }
    }

    pub(super) fn number(&mut self, key: u8, number: u64) {
        self.key(key).number(number);
    }

    pub(super) fn some_number(&mut self, key: u8, number: Option<u64>) {
        if let Some(number) = number {
            self.number(key, number);
        }
    }

    /// A number that is left out where it is 0.
    pub(super) fn count(&mut self, key: u8, number: u64) {
        if number != 0 {
            self.number(key, number);
        }
    }

    pub(super) fn text(&mut self, key: u8, text: &str) {
        self.key(key).text(text);
    }

    pub(super) fn some_text(&mut self, key: u8, text: Option<&String>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    /// What the derived code writes, where there is any.
    pub(super) fn derived(&mut self, key: u8, value: Option<&impl Encode<()>>) {
        if let Some(value) = value {
            self.key(key).derived(value);
        }
    }

    /// A list that is left out where it is empty.
    pub(super) fn list<T: Encode<()>>(&mut self, key: u8, list: &Vec<T>) {
        self.derived(key, Some(list).filter(|list| !list.is_empty()));
    }
}

/// Bytes at the end of a vector. Most writes are of one byte, for which the way that any slice takes costs most of the time
/// of encoding (half of it, counted in instructions).
struct Tail<'a>(&'a mut Vec<u8>);

impl Write for Tail<'_> {
    type Error = Infallible;

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        match bytes {
            [byte] => self.0.push(*byte),
            bytes => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }
}
