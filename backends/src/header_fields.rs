//! Header fields of a response.

use std::fmt;

/// Header fields in the order and the case that they were sent in. A response has a dozen of them, and most are looked at
/// once: all stand in one text, instead of two texts for each.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HeaderFields {
    text: String,
    /// Where each name ends in it, and where its value does; the next name begins there.
    ends: Vec<(usize, usize)>,
}

impl HeaderFields {
    /// None so far, with room for so many fields of so many bytes, names and values together.
    #[must_use]
    pub fn with_capacity(fields: usize, bytes: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
            ends: Vec::with_capacity(fields),
        }
    }

    /// Puts one behind those that are there.
    pub fn push(&mut self, name: &str, value: &str) {
        self.text.push_str(name);
        let name_end = self.text.len();
        self.text.push_str(value);
        self.ends.push((name_end, self.text.len()));
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut begin = 0;
        self.ends.iter().filter_map(move |&(name_end, end)| {
            let name = self.text.get(begin..name_end)?;
            begin = end;
            Some((name, self.text.get(name_end..end)?))
        })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl fmt::Debug for HeaderFields {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for HeaderFields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut all = Self::default();
        for (name, value) in fields {
            all.push(name.as_ref(), value.as_ref());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_their_order_and_case_also_without_a_value() {
        let sent = [("ETag", "\"ü\""), ("Empty", ""), ("etag", "b"), ("", "no name")];
        let fields: HeaderFields = sent.into_iter().collect();
        assert_eq!(fields.iter().collect::<Vec<_>>(), sent);
        assert!(!fields.is_empty() && HeaderFields::default().is_empty());
        let otherwise: HeaderFields = [("ETag\"", "ü\"")].into_iter().collect();
        assert_ne!(
            otherwise,
            [("ETag", "\"ü\"")].into_iter().collect(),
            "where a name ends counts"
        );
    }
}
