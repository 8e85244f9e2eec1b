//! A target over what FTP servers say: replies end where other readers have them end, no number or time is read that is not
//! there, and held bytes are continued only where what was said of them is said again.

use std::time::{Duration, SystemTime};

use backhaul_backends::Held;
use backhaul_backends::fuzzing::ftp::{Made, Said, decide, is_same_afterwards, replies, target, time};
use backhaul_backends::fuzzing::{date, shown_date};

/// A password that must not be shown.
const SECRET: &str = "hush9";
/// Behind the replies comes a URL.
const SEPARATOR: u8 = 0xFF;
/// The longest text that is shown of a reply, in characters, with the dots behind one that was cut.
const SHOWN_MAX: usize = 203;

/// Any bytes as replies, and what follows from what they say of a file.
pub(crate) fn ftp_replies(bytes: &[u8]) {
    let Some(([number, flags], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let (said, url) = match rest.iter().position(|&byte| byte == SEPARATOR) {
        Some(place) => (&rest[..place], &rest[place + 1..]),
        None => (rest, &[][..]),
    };
    let (all, is_read) = replies(said, SECRET);
    check_ends(said, &all, is_read);
    all.iter().for_each(check_values);
    let facts = |index: usize| {
        let said = all.get(index);
        let size = said.and_then(|said| said.size.or(said.facts.0));
        let modified = said.and_then(|said| said.modified.as_deref().or(said.facts.1.as_deref()));
        (size, modified)
    };
    // In the order of a transfer that is continued: MDTM and SIZE of then, MDTM and SIZE of now.
    let both = |first: usize| {
        (
            facts(first + 1).0.or(facts(first).0),
            facts(first).1.or(facts(first + 1).1),
        )
    };
    check_decision(both(0), both(2), *number, *flags);
    check_decision(both(0), both(0), *number, *flags);
    check_afterwards(both(0), both(2), u64::from(*number));
    if let Ok(url) = std::str::from_utf8(url) {
        check_target(url);
    }
}

/// As libcurl has it: a reply ends with the first line of three digits and a space.
fn check_ends(bytes: &[u8], all: &[Said], is_read: bool) {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    let is_last = |line: &&&[u8]| line.len() > 3 && line[..3].iter().all(u8::is_ascii_digit) && line[3] == b' ';
    let mut taken = 0;
    for said in all {
        let end = lines[taken..].iter().position(|line| is_last(&line));
        assert_eq!(
            end,
            Some(said.lines.len() - 1),
            "a reply ends elsewhere than for other readers"
        );
        let last = lines[taken + said.lines.len() - 1];
        assert_eq!(
            said.code.to_string().as_bytes(),
            last[..3]
                .strip_prefix(b"00")
                .or(last[..3].strip_prefix(b"0"))
                .unwrap_or(&last[..3]),
            "a reply has another code"
        );
        taken += said.lines.len();
    }
    if is_read {
        assert!(!lines[taken..].iter().any(|line| is_last(&line)), "a reply is left out");
    }
}

fn check_values(said: &Said) {
    assert!(!said.shown.contains(SECRET), "a secret is shown");
    assert!(
        said.shown.chars().count() <= SHOWN_MAX && !said.shown.contains(char::is_control),
        "{:?} is shown",
        said.shown
    );
    if let Some(size) = said.size {
        let text = said.lines[0].trim();
        let is_number = said.code == 213 && said.lines.len() == 1 && text.bytes().all(|byte| byte.is_ascii_digit());
        assert!(
            is_number && text.parse() == Ok(u128::from(size)),
            "{size} is read in {said:?}"
        );
    }
    for text in [&said.modified, &said.facts.1].into_iter().flatten() {
        let read = time(text).expect("a time that is kept can be read");
        assert!(
            said.lines.iter().any(|line| line.contains(text.as_str())),
            "{text:?} was not said"
        );
        assert!(
            text[..14].bytes().all(|byte| byte.is_ascii_digit()),
            "{text:?} is taken for a time"
        );
        // What is stored of it is this, and it must come out as it went in.
        assert_eq!(
            date(&shown_date(read)),
            Some(read),
            "{text:?} is another time when it is written"
        );
        assert_eq!(time(&text[..14]), Some(read), "a fraction changes {text:?}");
    }
    if said.facts != (None, None) {
        assert!(said.code == 250 && said.lines.len() == 3, "facts are read in {said:?}");
    }
}

type Facts<'a> = (Option<u64>, Option<&'a str>);

fn check_decision(old: Facts<'_>, new: Facts<'_>, number: u8, flags: u8) {
    let has = |bit: u8| flags & (1 << bit) != 0;
    let mut held = Held {
        offset_bytes: u64::from(number),
        tail: if has(0) { vec![0; 4] } else { Vec::new() },
        foreign: has(1),
        digest_expected: has(2),
        ..Held::default()
    };
    let expected = has(3).then_some(u64::from(number | 1));
    let since = Duration::from_secs(u64::from(flags >> 4));
    let then = old.1.and_then(time).unwrap_or(SystemTime::UNIX_EPOCH) + since;
    let (asked_rest, made) = decide(&mut held, old, new, expected, (then, then + Duration::from_secs(60)));
    let Made::Kept { on_trust, is_all } = made else {
        return;
    };
    assert!(
        asked_rest && held.offset_bytes > 0,
        "bytes are joined that nobody asked for"
    );
    let total = new.0.or(old.0).expect("what is continued has a known end");
    assert!(held.offset_bytes <= total, "more is held than there is");
    assert!(
        old.0.is_none() || new.0.is_none() || old.0 == new.0,
        "bytes of two lengths are joined"
    );
    assert!(
        expected.is_none() || new.0.is_none() || expected == new.0,
        "another length was expected"
    );
    assert!(
        !is_all || (held.tail.is_empty() && held.offset_bytes == total),
        "an end is not looked at"
    );
    if on_trust || held.foreign {
        assert!(held.digest_expected, "bytes are joined that nobody will judge");
        return;
    }
    if held.digest_expected {
        return;
    }
    let is_told_again =
        old.0.is_some() && old.0 == new.0 && old.1.is_some() && old.1.and_then(time) == new.1.and_then(time);
    assert!(is_told_again, "bytes are joined without proof: {old:?}, {new:?}");
    assert!(
        since >= Duration::from_secs(2),
        "bytes of the second of a change are joined"
    );
}

fn check_afterwards(first: Facts<'_>, later: Facts<'_>, bytes: u64) {
    if is_same_afterwards(first, later, bytes) {
        let again = |said: bool, same: bool| !said || same;
        assert!(
            again(first.0.is_some(), first.0 == later.0),
            "a length is not told again"
        );
        assert!(again(first.1.is_some(), first.1 == later.1), "a time is not told again");
        assert!(
            again(first.0.is_none() && later.0.is_some(), later.0 == Some(bytes)),
            "another length came"
        );
    }
}

fn check_target(url: &str) {
    let Some((sent, file, shown)) = target(url) else {
        return;
    };
    assert!(!file.is_empty() && !file.contains(&b'/'), "{url:?} leads to no file");
    assert!(!file.iter().any(u8::is_ascii_control), "a name ends a command");
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    assert!(is_plain(&sent) && is_plain(&shown), "{sent:?}, shown as {shown:?}");
    let (_, place) = sent.split_once("://").expect("libcurl gets a whole URL");
    let (_, path) = place.split_once('/').expect("and a path");
    let is_place = !place.contains(['@', '?', '#']) && !path.contains(';');
    assert!(is_place, "{sent:?} says more than a place");
    let authority = shown.split('/').nth(2).unwrap_or_default();
    assert!(!authority.contains('@'), "user info is shown");
}
