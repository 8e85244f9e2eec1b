//! Identities: 128 random bits, shown as 32 lower-case hexadecimal digits.

/// A type for one kind of identity, with its text form in both directions.
macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] pub(crate) [u8; 16]);

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(&crate::hex::encode(&self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, formatter)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                crate::hex::decode(text.as_bytes())
                    .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
                    .map(Self)
                    .ok_or_else(|| format!(concat!("'{}' is not ", $what, ": 32 hexadecimal digits"), text))
            }
        }
    };
}

identity! {
    /// Identity of an operation: 128 random bits, shown as 32 lower-case hexadecimal digits.
    TransferId, "an id of an operation, as 'add' printed it"
}

identity! {
    /// Identity of a completion group: 128 random bits, shown as 32 lower-case hexadecimal digits.
    CompletionGroupId, "the id of a completion group"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_shown() {
        let id = TransferId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("abc".parse::<TransferId>().is_err());
        assert!("zz".repeat(16).parse::<TransferId>().is_err());
    }
}
