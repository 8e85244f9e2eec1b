//! Reads the replies of a server. Pure.
//!
//! Sources: RFC 959, section 4.2 (replies of several lines); RFC 3659, sections 2.3 (times), 3 (MDTM), 4 (SIZE) and 7 (MLST).

use std::time::{Duration, SystemTime};

/// The first second of the year 10000, since 1970.
const YEAR_10000: u64 = 253_402_300_800;

/// Longest text of a reply that is shown, in characters.
const SHOWN_CHARACTERS_MAX: usize = 200;

/// A whole reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// The text of each line, without the code where the line has it, and without the end of the line.
    pub(super) lines: Vec<String>,
}

/// The line is none of a reply, or one that can be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclear;

/// Makes replies of lines.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    /// A reply whose last line has not come.
    open: Option<Reply>,
}

impl ReplyReader {
    /// Takes a line; gives the reply that it ends. A line within a reply of several lines that looks like the end of
    /// another one is refused: section 4.2 has it be text, and other readers take it for the end.
    pub(super) fn take(&mut self, line: &[u8]) -> Result<Option<Reply>, Unclear> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let head = Head::of(line);
        let text = |from: usize| String::from_utf8_lossy(line.get(from..).unwrap_or_default()).into_owned();
        let Some(mut reply) = self.open.take() else {
            let head = head.ok_or(Unclear)?;
            let reply = Reply {
                code: head.code,
                lines: vec![text(4)],
            };
            if head.is_last {
                return Ok(Some(reply));
            }
            self.open = Some(reply);
            return Ok(None);
        };
        match head {
            Some(head) if head.is_last && head.code == reply.code => {
                reply.lines.push(text(4));
                return Ok(Some(reply));
            }
            Some(head) if head.is_last => return Err(Unclear),
            Some(head) if head.code == reply.code => reply.lines.push(text(4)),
            _ => reply.lines.push(text(0)),
        }
        self.open = Some(reply);
        Ok(None)
    }
}

/// Three digits, and a hyphen where more lines follow.
struct Head {
    code: u16,
    is_last: bool,
}

impl Head {
    fn of(line: &[u8]) -> Option<Self> {
        let (digits, rest) = line.split_at_checked(3)?;
        let code = std::str::from_utf8(digits).ok().and_then(number)?;
        let is_last = match rest.first() {
            Some(b' ') => true,
            Some(b'-') => false,
            _ => return None,
        };
        Some(Self {
            code: u16::try_from(code).ok()?,
            is_last,
        })
    }
}

impl Reply {
    /// The text in one line that can be shown: without control characters, without the secrets, and cut.
    pub(super) fn shown(&self, secrets: &[&str]) -> String {
        let mut secrets: Vec<&str> = secrets.iter().copied().filter(|secret| !secret.is_empty()).collect();
        // One may be part of another.
        crate::sort_few_by_key(&mut secrets, |secret| std::cmp::Reverse(secret.len()));
        let all = self.lines.join(" ");
        let all = secrets.iter().fold(all, |all, secret| all.replace(secret, "***"));
        let clean: String = all
            .chars()
            .map(|character| if character.is_control() { ' ' } else { character })
            .collect();
        let clean = clean.trim();
        match clean.char_indices().nth(SHOWN_CHARACTERS_MAX) {
            Some((end, _)) => format!("{}...", &clean[..end]),
            None => clean.to_owned(),
        }
    }

    /// A refusal of RETR because REST came before. `ProFTPD` takes REST where an administrator has forbidden to go on, and
    /// then answers RETR with a 451 that is as good as never over.
    pub(super) fn denies_restart(&self) -> bool {
        let says_so = |line: &String| line.to_ascii_lowercase().contains("restart not permitted");
        self.code >= 400 && self.lines.iter().any(says_so)
    }

    /// RFC 3659, section 4: the number of bytes that RETR would send.
    pub(super) fn size(&self) -> Option<u64> {
        number(self.only_line(213)?)
    }

    /// RFC 3659, section 3: the text of the time of the last modification, where it is one.
    pub(super) fn modified(&self) -> Option<&str> {
        self.only_line(213).filter(|text| time(text).is_some())
    }

    /// Whether the server says that it does not know the command, or not in this form.
    ///
    /// Source: RFC 959, section 4.2.1.
    pub(super) fn is_unknown_command(&self) -> bool {
        matches!(self.code, 202 | 500..=504)
    }

    /// RFC 3659, section 7: what MLST says of a file.
    pub(super) fn facts(&self) -> Facts {
        // The facts stand in the second line, behind one space (section 7.2).
        let entry = match self.lines.get(1) {
            Some(line) if self.code == 250 && self.lines.len() == 3 => line.strip_prefix(' '),
            _ => None,
        };
        let (facts, _name) = entry.and_then(|line| line.split_once(' ')).unwrap_or_default();
        let value_of = |wanted: &str| {
            let mut pairs = facts.split(';').filter_map(|fact| fact.split_once('='));
            let (_, value) = pairs.find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
            Some(value)
        };
        if value_of("type").is_some_and(|kind| !kind.eq_ignore_ascii_case("file")) {
            return Facts::default();
        }
        Facts {
            size: value_of("size").and_then(number),
            modified: value_of("modify")
                .filter(|text| time(text).is_some())
                .map(str::to_owned),
        }
    }

    fn only_line(&self, code: u16) -> Option<&str> {
        match &self.lines[..] {
            [line] if self.code == code => Some(line.trim()),
            _ => None,
        }
    }
}

/// What is known of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) size: Option<u64>,
    /// As sent, and such that [`time`] reads it.
    pub(super) modified: Option<String>,
}

impl Facts {
    /// These, and where something is missing, the others.
    pub(super) fn or(self, others: Self) -> Self {
        Self {
            size: self.size.or(others.size),
            modified: self.modified.or(others.modified),
        }
    }
}

/// `YYYYMMDDHHMMSS`, in UTC, with a fraction that is left away here. More digits than that come of a year 2000 that was
/// written as 19100.
///
/// Source: RFC 3659, section 2.3.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    fraction.map_or(Some(0), number_of_any_length)?;
    if whole.len() != 14 {
        return None;
    }
    number(whole)?;
    let part = |from: usize, to: usize| whole.get(from..to).and_then(number);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    // Section 2.3 allows 60, in a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_since_1970(year, month, day)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    // A leap second at the end of the last year would be in a year that no date can be written in.
    (seconds < YEAR_10000).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// In the Gregorian calendar, from 1970 on.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [
        31,
        if is_leap(year) { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let month = usize::try_from(month.checked_sub(1)?).ok()?;
    let length = *lengths.get(month)?;
    if year < 1970 || !(1..=length).contains(&day) {
        return None;
    }
    let leap_years_before = |year: u64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let years = (year - 1970) * 365 + leap_years_before(year) - leap_years_before(1970);
    Some(years + lengths[..month].iter().sum::<u64>() + day - 1)
}

/// Digits only: no sign, no space.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// Only whether it is one.
fn number_of_any_length(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then_some(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Result<Vec<Reply>, Unclear> {
        let mut reader = ReplyReader::default();
        let replies = lines.iter().map(|line| reader.take(format!("{line}\r\n").as_bytes()));
        replies.filter_map(Result::transpose).collect()
    }

    fn reply(code: u16, lines: &[&str]) -> Reply {
        Reply {
            code,
            lines: lines.iter().map(|&line| line.to_owned()).collect(),
        }
    }

    /// Source: RFC 959, section 4.2.
    #[test]
    fn a_reply_ends_with_the_line_that_has_its_code_and_a_space() {
        let rows: &[(&[&str], Vec<Reply>)] = &[
            (&["220 ready"], vec![reply(220, &["ready"])]),
            (&["226 "], vec![reply(226, &[""])]),
            (
                &["230-Welcome", "230-all", " 230 of you", "free text", "", "230 go on"],
                vec![reply(230, &["Welcome", "all", " 230 of you", "free text", "", "go on"])],
            ),
            (&["230-a", "331-b", "230 c"], vec![reply(230, &["a", "331-b", "c"])]),
            (&["213 1", "213 2"], vec![reply(213, &["1"]), reply(213, &["2"])]),
            (&["220-open"], vec![]),
        ];
        for (lines, replies) in rows {
            assert_eq!(read(lines).as_ref(), Ok(replies), "{lines:?}");
        }
        let bare = ReplyReader::default().take(b"220 no carriage return\n");
        assert_eq!(bare.unwrap().unwrap().code, 220);
    }

    #[test]
    fn what_is_no_reply_or_ends_two_ways_is_refused() {
        for lines in [
            &["hello"][..],
            &["2x0 a"],
            &["22"],
            &["220"],
            &["220\ta"],
            &[""],
            &["230-a", "226 b"],
        ] {
            assert_eq!(read(lines), Err(Unclear), "{lines:?}");
        }
    }

    /// Source: RFC 3659, section 4.
    #[test]
    fn only_a_refusal_that_says_so_is_one_of_going_on() {
        assert!(reply(451, &["a.bin: Restart not permitted, try again"]).denies_restart());
        for other in [
            reply(451, &["Local error in processing"]),
            reply(150, &["Restart not permitted"]),
        ] {
            assert!(!other.denies_restart(), "{other:?}");
        }
    }

    #[test]
    fn a_size_is_digits_and_nothing_else() {
        let rows = [
            ("0", Some(0)),
            (" 6442450944 ", Some(6_442_450_944)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-1", None),
            ("+1", None),
            ("12 bytes", None),
            ("", None),
        ];
        for (text, size) in rows {
            assert_eq!(reply(213, &[text]).size(), size, "{text:?}");
        }
        assert_eq!(reply(200, &["12"]).size(), None);
        assert_eq!(reply(213, &["12", "12"]).size(), None);
    }

    /// Source: RFC 3659, section 2.3.
    #[test]
    fn a_time_is_fourteen_digits_and_perhaps_a_fraction() {
        let seconds = |text: &str| {
            let time = time(text)?;
            Some(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        let rows = [
            ("19700101000000", Some(0)),
            ("19941106084937", Some(784_111_777)),
            ("20000229235959", Some(951_868_799)),
            ("20240229000000.123", Some(1_709_164_800)),
            ("20381231235960", Some(2_177_452_800)),
            ("99991231235959", Some(253_402_300_799)),
            ("99991231235960", None),
            ("19100010203040506", None),
            ("191000102030405", None),
            ("20230229000000", None),
            ("21000229000000", None),
            ("20231301000000", None),
            ("20230100000000", None),
            ("20230101240000", None),
            ("20230101006000", None),
            ("20230101000061", None),
            ("19691231235959", None),
            ("20230101000000.", None),
            ("20230101000000.1x", None),
            ("2023010100000", None),
            ("+0230101000000", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(seconds(text), expected, "{text:?}");
        }
        assert_eq!(reply(213, &["20240229000000.5"]).modified(), Some("20240229000000.5"));
        assert_eq!(reply(213, &["yesterday"]).modified(), None);
        assert_eq!(reply(550, &["20240229000000"]).modified(), None);
    }

    /// Source: RFC 3659, section 7.
    #[test]
    fn the_facts_of_a_file_are_read_and_those_of_anything_else_are_not() {
        let mlst = |entry: &str| reply(250, &["Listing a", entry, "End"]).facts();
        let all = Facts {
            size: Some(12),
            modified: Some("20240229000000".to_owned()),
        };
        assert_eq!(mlst(" Type=file;Size=12;Modify=20240229000000; /a b;size=9"), all);
        assert_eq!(mlst(" SIZE=12;modify=20240229000000;UNIX.mode=0644; a"), all);
        assert_eq!(mlst(" size=12; a").modified, None);
        assert_eq!(mlst(" modify=19100; a"), Facts::default());
        assert_eq!(mlst(" type=dir;size=12;modify=20240229000000; a"), Facts::default());
        assert_eq!(mlst("size=12;modify=20240229000000; no space before"), Facts::default());
        assert_eq!(reply(250, &[" size=12; a"]).facts(), Facts::default());
        assert_eq!(reply(213, &["x", " size=12; a", "End"]).facts(), Facts::default());
    }

    #[test]
    fn what_is_shown_of_a_reply_is_one_short_line_without_user_name_and_password() {
        let nasty = reply(530, &["No\u{1b}[31m \u{7}access", "with hush, hush"]);
        assert_eq!(nasty.shown(&["hush"]), "No [31m  access with ***, ***");
        assert_eq!(nasty.shown(&[""]), "No [31m  access with hush, hush");
        let both = reply(530, &["Login incorrect for ann (annual)"]);
        assert_eq!(both.shown(&["ann", "annual"]), "Login incorrect for *** (***)");
        let long = reply(530, &["x".repeat(300).as_str()]).shown(&[""]);
        assert_eq!(long, format!("{}...", "x".repeat(200)));
        assert_eq!(
            reply(500, &["\u{e9}".repeat(200).as_str()]).shown(&[""]),
            "\u{e9}".repeat(200)
        );
    }
}
