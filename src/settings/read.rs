//! TOML text becomes [`Settings`], or one error with its place.

use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backhaul_backends::{Proxies, Proxy};
use toml::de::{DeArray, DeTable, DeValue};

use super::keys::{Field, KEYS};
use super::{LogLevel, ProxySetting, SETTINGS_FILE_BYTES_MAX, Settings, SettingsError};

/// Most of a value or a name from the file that an error shows, in characters.
const SHOWN_MAX: usize = 64;
/// Longest time that can be asked for, in seconds: a year.
const SECONDS_MAX: f64 = 31_536_000.0;
/// Longest path, in bytes. Source: limits.h, `PATH_MAX`, with its zero.
const PATH_BYTES_MAX: usize = 4_095;
/// Most letters of a name that somebody may have mistyped; chosen without measurement.
const MISTYPED_MAX: usize = 3;
/// Most directories in a list; chosen without measurement.
const PATHS_MAX: usize = 256;

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Settings, SettingsError> {
    let fault = |line: Option<usize>, key: Option<String>, problem: String| SettingsError {
        path: path.to_path_buf(),
        line,
        key,
        problem,
    };
    if bytes.len() as u64 > SETTINGS_FILE_BYTES_MAX {
        let problem = format!("is too large: at most {SETTINGS_FILE_BYTES_MAX} bytes are read");
        return Err(fault(None, None, problem));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = Some(line_at(bytes, error.valid_up_to()));
        fault(line, None, "is no UTF-8: save the file in that encoding".into())
    })?;
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map(|span| span.start);
        let line = offset.map(|offset| line_at(bytes, offset));
        let key = offset.and_then(|offset| key_at(text, offset));
        fault(line, key, said_by_the_parser(error.message()))
    })?;
    // The table is sorted by name; of several mistakes the first in the file is told.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let mut settings = Settings::default();
    for (name, value) in entries {
        let written = name.get_ref();
        set(&mut settings, written, value.get_ref()).map_err(|problem| {
            let line = line_at(bytes, name.span().start);
            fault(Some(line), Some(written.to_string()), problem)
        })?;
    }
    Ok(settings)
}

fn set(settings: &mut Settings, name: &str, value: &DeValue<'_>) -> Result<(), String> {
    let key = KEYS.iter().find(|key| key.name == name).ok_or_else(|| unknown(name))?;
    let right = || key.field.allowed();
    match &key.field {
        Field::Count(field, range) => *field(settings) = count(value, range, right)?,
        Field::CountOrNone(field, range) => *field(settings) = Some(count(value, range, right)?),
        Field::Bytes(field, range) => *field(settings) = bytes(value, range, right)?,
        Field::BytesOrNone(field, range) => *field(settings) = Some(bytes(value, range, right)?),
        Field::RateOrNone(field) => *field(settings) = Some(rate(value, right)?),
        Field::Seconds(field) => *field(settings) = seconds(value, right)?,
        Field::SecondsOrNone(field) => *field(settings) = Some(seconds(value, right)?),
        Field::Flag(field) => *field(settings) = value.as_bool().ok_or_else(|| wrong_type(value, right))?,
        Field::PathOrNone(field, bytes_max) => *field(settings) = Some(absolute(value, *bytes_max, right)?),
        Field::Paths(field) => {
            let list = value.as_array().ok_or_else(|| wrong_type(value, right))?;
            *field(settings) = paths(list, right)?;
        }
        Field::ProxyOrNone(field) => *field(settings) = Some(proxy(value, right)?),
        Field::Exceptions(field) => {
            let list = value.as_array().ok_or_else(|| wrong_type(value, right))?;
            *field(settings) = exceptions(list, right)?;
        }
        Field::Level(field) => {
            let name = value.as_str().ok_or_else(|| wrong_type(value, right))?;
            let level = LogLevel::ALL.into_iter().find(|level| level.name() == name);
            *field(settings) = level.ok_or_else(|| format!("'{}' is no level: {}", shown(name), right()))?;
        }
    }
    Ok(())
}

// ---- values ----

fn integer(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn count(value: &DeValue<'_>, range: &RangeInclusive<usize>, right: impl Fn() -> String) -> Result<usize, String> {
    if !value.is_integer() {
        return Err(wrong_type(value, right));
    }
    let number = integer(value).and_then(|number| usize::try_from(number).ok());
    number
        .filter(|number| range.contains(number))
        .ok_or_else(|| out_of_range(value, right))
}

fn bytes<T: TryFrom<u64> + PartialOrd>(
    value: &DeValue<'_>,
    range: &RangeInclusive<T>,
    right: impl Fn() -> String,
) -> Result<T, String> {
    let number = byte_count(value, &right)?;
    number
        .and_then(|number| T::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| out_of_range(value, right))
}

fn rate(value: &DeValue<'_>, right: impl Fn() -> String) -> Result<NonZeroU64, String> {
    let number = byte_count(value, &right)?;
    number
        .and_then(NonZeroU64::new)
        .ok_or_else(|| out_of_range(value, right))
}

/// `None` where it is a number that does not fit.
fn byte_count(value: &DeValue<'_>, right: impl Fn() -> String) -> Result<Option<u64>, String> {
    match value {
        DeValue::Integer(_) => Ok(integer(value).and_then(|number| u64::try_from(number).ok())),
        DeValue::String(text) => with_unit(text).ok_or_else(|| format!("'{}' is no size: {}", shown(text), right())),
        _ => Err(wrong_type(value, right)),
    }
}

/// A number of bytes, with k, M or G for powers of 1024; the inner `None` where it does not fit.
#[expect(
    clippy::option_option,
    reason = "no number, and one that is too large, are told apart in the error"
)]
fn with_unit(text: &str) -> Option<Option<u64>> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse::<u64>().ok()?.checked_mul(1 << shift))
}

fn seconds(value: &DeValue<'_>, right: impl Fn() -> String) -> Result<Duration, String> {
    let number = match value {
        DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
        #[expect(clippy::cast_precision_loss, reason = "what a double does not hold is out of range")]
        DeValue::Integer(_) => integer(value).map(|number| number as f64),
        _ => return Err(wrong_type(value, right)),
    };
    number
        .filter(|number| *number > 0.0 && *number <= SECONDS_MAX)
        .map(Duration::from_secs_f64)
        // Less than a nanosecond is none at all.
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| out_of_range(value, right))
}

fn absolute(value: &DeValue<'_>, bytes_max: usize, right: impl Fn() -> String) -> Result<PathBuf, String> {
    let text = value.as_str().ok_or_else(|| wrong_type(value, &right))?;
    if text.contains('\0') || text.len() > bytes_max || !text.starts_with('/') {
        return Err(format!("'{}' is no such path: {}", shown(text), right()));
    }
    Ok(PathBuf::from(text))
}

fn paths(list: &DeArray<'_>, right: impl Fn() -> String) -> Result<Vec<PathBuf>, String> {
    if list.len() > PATHS_MAX {
        return Err(format!("has {} entries: at most {PATHS_MAX}", list.len()));
    }
    let each = list.iter();
    each.map(|value| absolute(value.get_ref(), PATH_BYTES_MAX, &right))
        .collect()
}

/// What stands there may hold a password, so it is not shown.
fn proxy(value: &DeValue<'_>, right: impl Fn() -> String) -> Result<ProxySetting, String> {
    let text = value.as_str().ok_or_else(|| wrong_type(value, &right))?;
    if text == "direct" {
        return Ok(ProxySetting::Direct);
    }
    let proxy = Proxy::parse(text).map_err(|problem| format!("the proxy cannot be used: {problem}: {}", right()))?;
    Ok(ProxySetting::Through(proxy))
}

fn exceptions(list: &DeArray<'_>, right: impl Fn() -> String) -> Result<Vec<String>, String> {
    let text = |value: &DeValue<'_>| {
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| wrong_type(value, &right))
    };
    let entries: Vec<String> = list
        .iter()
        .map(|value| text(value.get_ref()))
        .collect::<Result<_, _>>()?;
    let checked = Proxies::direct().except(&entries.join(","));
    checked.map_err(|problem| format!("{problem}: {}", right()))?;
    Ok(entries)
}

// ---- what errors say ----

fn wrong_type(value: &DeValue<'_>, right: impl Fn() -> String) -> String {
    let what = match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("{what} is of the wrong type: {}", right())
}

fn out_of_range(value: &DeValue<'_>, right: impl Fn() -> String) -> String {
    let value = match value {
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::String(text) => format!("'{text}'"),
        _ => "this".into(),
    };
    format!("{} is out of range: {}", shown(&value), right())
}

fn unknown(name: &str) -> String {
    let near = KEYS.iter().map(|key| (distance(name, key.name), key.name)).min();
    match near {
        Some((steps, near)) if steps <= MISTYPED_MAX && steps * 2 <= name.len() => {
            format!("is no key; '{near}' is one")
        }
        _ => {
            let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            format!("is no key; there are: {}", names.join(", "))
        }
    }
}

/// How many letters must be changed, added or left out to make one name of the other; of long names the least that it can
/// be. An underscore counts as the hyphen that it was meant for.
fn distance(written: &str, name: &str) -> usize {
    if written.len() > SHOWN_MAX {
        return usize::MAX;
    }
    let written: Vec<char> = written
        .chars()
        .map(|letter| if letter == '_' { '-' } else { letter })
        .collect();
    let mut row: Vec<usize> = (0..=written.len()).collect();
    for (above, letter) in name.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, other) in written.iter().enumerate() {
            let changed = diagonal + usize::from(*other != letter);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[written.len()]
}

fn said_by_the_parser(message: &str) -> String {
    if message == "duplicate key" {
        return "is there twice: leave one out".into();
    }
    format!("is no TOML: {}; a line is KEY = VALUE", message.trim_end_matches('.'))
}

/// The key of the line at `offset`, where the line looks as if it had one.
fn key_at(text: &str, offset: usize) -> Option<String> {
    let before = text.get(..offset)?;
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text[start..].lines().next()?;
    let name = line.split('=').next()?.trim();
    let is_bare = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    (!name.is_empty() && name.chars().all(is_bare)).then(|| name.to_owned())
}

/// The number of a line, counted from 1.
fn line_at(text: &[u8], offset: usize) -> usize {
    text[..offset.min(text.len())].split(|byte| *byte == b'\n').count()
}

/// What stands in the file, cut and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut shown = on_one_line(&text.chars().take(SHOWN_MAX).collect::<String>());
    if text.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// Without control characters, which could end the line or change how a terminal shows it.
pub(super) fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}') {
            // Writing to a String does not fail.
            let _ = write!(line, "{}", letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}
