//! How values look in JSON, for the command's output and for the local interface alike.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use backhaul_backends::WebErrorStatus;
use serde::{Deserialize, Deserializer, Serializer};

/// Moments: milliseconds since 1970 here, RFC 3339 in UTC there.
pub(crate) mod time {
    use super::{Deserialize, Deserializer, Serializer, moment, parse_moment};
    use serde::de::Error as _;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the derive passes a reference")]
    pub(crate) fn serialize<S: Serializer>(wall_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&moment(*wall_ms))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        parse_moment(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The same where there may be none.
pub(crate) mod maybe_time {
    use super::{Deserialize, Deserializer, Serializer, moment, parse_moment};
    use serde::de::Error as _;

    #[expect(clippy::ref_option, reason = "the derive passes the field as it is")]
    pub(crate) fn serialize<S: Serializer>(wall_ms: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match wall_ms {
            Some(wall_ms) => serializer.serialize_str(&moment(*wall_ms)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let moment = text.map(|text| parse_moment(&text)).transpose();
        moment.map_err(D::Error::custom)
    }
}

/// Paths are bytes, JSON is not: what is not UTF-8 is shown with replacement characters.
pub(crate) mod path {
    use super::{Cow, Deserialize, Deserializer, Path, PathBuf, Serializer};

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&path.to_string_lossy())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Cow::<str>::deserialize(deserializer).map(|text| PathBuf::from(text.into_owned()))
    }
}

/// Errors by their names.
pub(crate) mod status {
    use super::{Cow, Deserialize, Deserializer, Serializer, WebErrorStatus, parse_status};
    use serde::de::Error as _;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the derive passes a reference")]
    pub(crate) fn serialize<S: Serializer>(status: &WebErrorStatus, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(status)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<WebErrorStatus, D::Error> {
        parse_status(&Cow::<str>::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Bytes as base64 (RFC 4648, section 4, with padding).
pub(crate) mod base64 {
    use super::{Cow, Deserialize, Deserializer, Serializer};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::Error as _;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        // Of what is wrong with it, the library would name a byte: it may be one of a secret.
        STANDARD.decode(&*text).map_err(|_| D::Error::custom("is not base64"))
    }
}

/// What has a text form in both directions.
pub(crate) mod text {
    use super::{Cow, Deserialize, Deserializer, Serializer};
    use serde::de::Error as _;
    use std::fmt::Display;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: std::str::FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Lists of what has a text form in both directions.
pub(crate) mod texts {
    use super::{Deserialize, Deserializer, Serializer};
    use serde::de::Error as _;
    use std::fmt::Display;

    pub(crate) fn serialize<T: Display, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
    where
        T: std::str::FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let values = texts.iter().map(|text| text.parse::<T>());
        values.collect::<Result<_, _>>().map_err(D::Error::custom)
    }
}

/// A moment as it is shown: RFC 3339 in UTC, to the millisecond.
pub(crate) fn moment(wall_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH
        .checked_add(std::time::Duration::from_millis(wall_ms))
        .unwrap_or(std::time::UNIX_EPOCH);
    humantime::format_rfc3339_millis(time).to_string()
}

fn parse_moment(text: &str) -> Result<u64, String> {
    let time = humantime::parse_rfc3339(text).map_err(|error| format!("'{text}' is no time: {error}"))?;
    let since = time.duration_since(std::time::UNIX_EPOCH);
    let wall_ms = since.ok().and_then(|since| u64::try_from(since.as_millis()).ok());
    wall_ms.ok_or_else(|| format!("'{text}' lies before 1970"))
}

fn parse_status(text: &str) -> Result<WebErrorStatus, String> {
    let number = text
        .strip_prefix("WebErrorStatus(")
        .and_then(|rest| rest.strip_suffix(')'));
    match number.and_then(|number| number.parse().ok()) {
        Some(number) => Ok(WebErrorStatus(number)),
        None => text.parse(),
    }
}
