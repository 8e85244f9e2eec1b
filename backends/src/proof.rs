//! What proves that two responses carry one representation of a resource.
//!
//! Sources: RFC 9110, section 8.8.3.2 (comparison of entity tags) and section 8.8.2.2 (when Last-Modified is strong);
//! RFC 9530, section 3 (Repr-Digest). An equal digest is proof because the whole is compared with it before it is used.

use std::time::{Duration, SystemTime};

use crate::{Held, Validators};

/// The first second that an HTTP date cannot say, counted from 1970.
const YEAR_10000_SECONDS: u64 = 253_402_300_800;

/// Whether two responses carry the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sameness {
    /// A strong validator says so.
    Same,
    /// A validator or the length says that they differ.
    Different,
    /// Neither is proven.
    Unproven,
}

/// Compares held bytes with what a new response says of itself, by the rules for where they came from. For most backends
/// [`crate::start`] says what follows from it.
#[must_use]
pub fn compare_held(held: &Held, new: &Validators) -> Sameness {
    if held.foreign {
        compare_foreign(&held.validators, new, held.digest_expected)
    } else {
        compare(&held.validators, new)
    }
}

/// Two sources of one resource: a digest of the whole, or the same strong entity tag and total length. Servers make up
/// entity tags and times on their own, so that those which differ say nothing.
fn compare_foreign(held: &Validators, new: &Validators, digest_expected: bool) -> Sameness {
    let totals = held.total_bytes.zip(new.total_bytes);
    let digests = digests_agree(held, new);
    if totals.is_some_and(|(held, new)| held != new) || digests == Some(false) {
        return Sameness::Different;
    }
    let tags_agree = held.etag == new.etag && held.etag.as_deref().is_some_and(is_strong);
    if digest_expected || digests == Some(true) || (tags_agree && totals.is_some()) {
        Sameness::Same
    } else {
        Sameness::Unproven
    }
}

/// Whether all digests of the same strong algorithms are equal; `None` where there is no such pair.
fn digests_agree(held: &Validators, new: &Validators) -> Option<bool> {
    let strong = held.digests.iter().filter(|digest| digest.algorithm().is_strong());
    let pairs = strong.filter_map(|held| {
        let mut new = new.digests.iter();
        new.find(|new| new.algorithm() == held.algorithm())
            .map(|new| new == held)
    });
    pairs.reduce(|all, one| all && one)
}

/// Compares what is held with what a new response says of itself. A contradiction outweighs every agreement.
pub(crate) fn compare(held: &Validators, new: &Validators) -> Sameness {
    let totals_agree = match (held.total_bytes, new.total_bytes) {
        (Some(held), Some(new)) if held != new => return Sameness::Different,
        (Some(_), Some(_)) => true,
        _ => false,
    };
    let digests = digests_agree(held, new);
    if digests == Some(false) {
        return Sameness::Different;
    }
    if let (Some(held_tag), Some(new_tag)) = (&held.etag, &new.etag) {
        if opaque(held_tag) != opaque(new_tag) {
            return Sameness::Different;
        }
        if is_strong(held_tag) && is_strong(new_tag) {
            return if may_hide_a_change(held, new) {
                Sameness::Unproven
            } else {
                Sameness::Same
            };
        }
    }
    match (&held.last_modified, &new.last_modified) {
        (Some(held_time), Some(new_time)) if !same_time(held_time, new_time) => Sameness::Different,
        _ if digests == Some(true) => Sameness::Same,
        (Some(_), Some(_)) if totals_agree && strong_last_modified(held).is_some() => Sameness::Same,
        _ => Sameness::Unproven,
    }
}

/// Whether these validators can prove anything of a later response: one that repeats them would be the same. What
/// [`crate::Head::provable`] says.
#[must_use]
pub fn is_provable(validators: &Validators) -> bool {
    compare(validators, validators) == Sameness::Same
}

/// The same where the time of last modification was read already.
#[cfg(feature = "http")]
pub(crate) fn is_provable_at(validators: &Validators, modified: Option<SystemTime>) -> bool {
    match strong_etag(validators) {
        Some(_) => !modified.is_some_and(|modified| is_recent(modified, validators)),
        None => is_provable(validators),
    }
}

/// Whether nothing but the entity tags speaks against two responses being the same: the time is strong and the same, and
/// so is the length.
#[cfg(feature = "http")]
pub(crate) fn only_tags_differ(held: &Validators, new: &Validators) -> bool {
    let untagged = |validators: &Validators| Validators {
        etag: None,
        ..validators.clone()
    };
    held.etag.is_some() && new.etag.is_some() && compare(&untagged(held), &untagged(new)) == Sameness::Same
}

/// The entity tag, if it is one and strong.
#[cfg(feature = "http")]
pub(crate) fn strong_etag(validators: &Validators) -> Option<&str> {
    validators.etag.as_deref().filter(|tag| is_strong(tag))
}

/// Last-Modified, if it is strong: the response that carried it was made at least one second later by its own clock,
/// so that no second change within the same second can hide behind it.
///
/// Source: RFC 9110, section 8.8.2.2.
pub(crate) fn strong_last_modified(validators: &Validators) -> Option<&str> {
    let text = validators.last_modified.as_deref()?;
    let modified = date(text)?;
    let made = date(validators.date.as_deref()?)?;
    (made.duration_since(modified).ok()? >= Duration::from_secs(1)).then_some(text)
}

/// Whether equal strong tags may stand for two contents. nginx and caddy make them of length and modification time in whole
/// seconds, although section 8.8.1 asks for weak ones then: content that was sent in the very second of its change, or in
/// the one before by the clock of the server, may have changed once more in that second.
fn may_hide_a_change(held: &Validators, new: &Validators) -> bool {
    let modified = |validators: &Validators| date(validators.last_modified.as_deref()?);
    modified(held).is_some_and(|time| is_recent(time, held) && modified(new) == Some(time))
}

/// Whether a response was made in the second of the last change of its content or in the one before.
fn is_recent(modified: SystemTime, validators: &Validators) -> bool {
    let made = validators.date.as_deref().and_then(date);
    made.is_some_and(|made| made < modified + Duration::from_secs(1) && modified <= made + Duration::from_secs(1))
}

/// A time as [`Validators::last_modified`] and [`Validators::date`] have it, in whole seconds: an HTTP date (RFC 9110, section
/// 5.6.7). One outside of the years 1970 to 9999 has no such form.
#[must_use]
pub fn http_date(time: SystemTime) -> Option<String> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    (seconds < YEAR_10000_SECONDS).then(|| httpdate::fmt_http_date(time))
}

/// An HTTP date in any of its three forms (RFC 9110, section 5.6.7).
pub(crate) fn date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text.trim()).ok()
}

fn is_strong(tag: &str) -> bool {
    tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"')
}

fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

fn same_time(left: &str, right: &str) -> bool {
    left == right || date(left).is_some_and(|time| date(right) == Some(time))
}

#[cfg(test)]
mod tests {
    use super::Sameness::{Different, Same, Unproven};
    use super::*;
    use crate::{Digest, DigestAlgorithm};

    const TEN: &str = "Sun, 06 Nov 1994 08:49:10 GMT";
    const TEN_OLD_FORM: &str = "Sunday, 06-Nov-94 08:49:10 GMT";
    const ELEVEN: &str = "Sun, 06 Nov 1994 08:49:11 GMT";
    const TWELVE: &str = "Sun, 06 Nov 1994 08:49:12 GMT";

    fn validators(etag: &str, modified: &str, made: &str, total: u64) -> Validators {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Validators {
            etag: some(etag),
            last_modified: some(modified),
            date: some(made),
            total_bytes: (total > 0).then_some(total),
            digests: Vec::new(),
        }
    }

    fn with_digests(validators: Validators, digests: &[(DigestAlgorithm, u8)]) -> Validators {
        let digest =
            |(algorithm, byte): &(DigestAlgorithm, u8)| Digest::new(*algorithm, vec![*byte; algorithm.len_bytes()]);
        Validators {
            digests: digests.iter().filter_map(digest).collect(),
            ..validators
        }
    }

    #[test]
    fn only_a_strong_agreement_without_any_contradiction_is_proof() {
        // Each row: the rule, what is held (tag, modified, date, total), what came, the answer.
        #[rustfmt::skip]
        let rows = [
            ("8.8.3.2 strong equal", ("\"a\"", "", "", 0), ("\"a\"", "", "", 0), Same),
            ("8.8.1 strong, of the second of its change", ("\"a\"", TEN, TEN, 9), ("\"a\"", TEN, ELEVEN, 9), Unproven),
            ("8.8.1 strong, a second before its change", ("\"a\"", ELEVEN, TEN, 9), ("\"a\"", ELEVEN, TWELVE, 9), Unproven),
            ("8.8.1 strong, a second after its change", ("\"a\"", TEN, ELEVEN, 9), ("\"a\"", TEN, TWELVE, 9), Same),
            ("8.8.1 strong, of a clock that is far behind", ("\"a\"", TWELVE, TEN, 9), ("\"a\"", TWELVE, TWELVE, 9), Same),
            ("8.8.1 strong, the time is no part of it", ("\"a\"", TEN, TEN, 9), ("\"a\"", ELEVEN, ELEVEN, 9), Same),
            ("8.8.3.2 strong differ", ("\"a\"", "", "", 9), ("\"b\"", "", "", 9), Different),
            ("8.8.3.2 weak equal proves nothing", ("W/\"a\"", "", "", 9), ("W/\"a\"", "", "", 9), Unproven),
            ("8.8.3.2 turned weak proves nothing", ("\"a\"", "", "", 9), ("W/\"a\"", "", "", 9), Unproven),
            ("8.8.3.2 weak differ", ("W/\"a\"", "", "", 9), ("W/\"b\"", "", "", 9), Different),
            ("8.8.3 no quotes is no tag", ("a", "", "", 9), ("a", "", "", 9), Unproven),
            ("length contradicts the tag", ("\"a\"", "", "", 9), ("\"a\"", "", "", 8), Different),
            ("tag contradicts the time", ("\"a\"", TEN, ELEVEN, 9), ("\"b\"", TEN, ELEVEN, 9), Different),
            ("8.8.2.2 strong time and total", ("", TEN, ELEVEN, 9), ("", TEN, ELEVEN, 9), Same),
            ("8.8.2.2 strong time beside a weak tag", ("W/\"a\"", TEN, ELEVEN, 9), ("W/\"a\"", TEN, "", 9), Same),
            ("tag gone, strong time stays", ("\"a\"", TEN, ELEVEN, 9), ("", TEN, ELEVEN, 9), Same),
            ("8.8.2.2 same second is weak", ("", TEN, TEN, 9), ("", TEN, TEN, 9), Unproven),
            ("8.8.2.2 made before the change", ("", ELEVEN, TEN, 9), ("", ELEVEN, TEN, 9), Unproven),
            ("8.8.2.2 no Date is weak", ("", TEN, "", 9), ("", TEN, "", 9), Unproven),
            ("strong time, total unknown", ("", TEN, ELEVEN, 9), ("", TEN, ELEVEN, 0), Unproven),
            ("times differ", ("", TEN, ELEVEN, 9), ("", ELEVEN, ELEVEN, 9), Different),
            ("5.6.7 one time, two forms", ("", TEN, ELEVEN, 9), ("", TEN_OLD_FORM, ELEVEN, 9), Same),
            ("nothing to compare", ("\"a\"", "", "", 9), ("", "", "", 9), Unproven),
        ];
        for (rule, held, new, answer) in rows {
            let held = validators(held.0, held.1, held.2, held.3);
            let new = validators(new.0, new.1, new.2, new.3);
            assert_eq!(compare(&held, &new), answer, "{rule}");
            #[cfg(feature = "http")]
            for validators in [&held, &new] {
                let modified = validators.last_modified.as_deref().and_then(date);
                assert_eq!(is_provable_at(validators, modified), is_provable(validators), "{rule}");
            }
        }
    }

    #[test]
    fn a_digest_of_the_whole_is_proof_or_contradiction_unless_something_else_contradicts() {
        use DigestAlgorithm::{Sha1, Sha256, Sha512};
        type Row<'a> = (
            &'a str,
            (&'a str, &'a [(DigestAlgorithm, u8)]),
            (&'a str, &'a [(DigestAlgorithm, u8)]),
            Sameness,
        );
        #[rustfmt::skip]
        let rows: [Row<'_>; 7] = [
            ("equal", ("", &[(Sha256, 1)]), ("", &[(Sha256, 1)]), Same),
            ("differ", ("\"a\"", &[(Sha256, 1)]), ("\"a\"", &[(Sha256, 2)]), Different),
            ("one of two differs", ("", &[(Sha512, 1), (Sha256, 1)]), ("", &[(Sha512, 1), (Sha256, 2)]), Different),
            ("no algorithm in common", ("", &[(Sha512, 1)]), ("", &[(Sha256, 1)]), Unproven),
            ("equal, and the tags differ", ("\"a\"", &[(Sha256, 1)]), ("\"b\"", &[(Sha256, 1)]), Different),
            ("weak and equal", ("", &[(Sha1, 1)]), ("", &[(Sha1, 1)]), Unproven),
            ("weak and different", ("\"a\"", &[(Sha1, 1)]), ("\"a\"", &[(Sha1, 2)]), Same),
        ];
        for (rule, held, new, answer) in rows {
            let of = |(tag, digests): (&str, &[_])| with_digests(validators(tag, "", "", 9), digests);
            assert_eq!(compare(&of(held), &of(new)), answer, "{rule}");
        }
    }

    #[test]
    fn another_source_is_proven_by_a_digest_or_by_tag_and_length_and_never_by_a_time() {
        let (one, two): (&[_], &[_]) = (&[(DigestAlgorithm::Sha256, 1)], &[(DigestAlgorithm::Sha256, 2)]);
        let tagged = |tag: &str, total| validators(tag, "", "", total);
        let timed = validators("", TEN, ELEVEN, 9);
        #[rustfmt::skip]
        let rows = [
            ("time and length", timed.clone(), timed, false, Unproven),
            ("tag and length", tagged("\"a\"", 9), tagged("\"a\"", 9), false, Same),
            ("tag without length", tagged("\"a\"", 9), tagged("\"a\"", 0), false, Unproven),
            ("weak tag", tagged("W/\"a\"", 9), tagged("W/\"a\"", 9), false, Unproven),
            ("other tag says nothing", tagged("\"a\"", 9), tagged("\"b\"", 9), false, Unproven),
            ("other tag under a digest", tagged("\"a\"", 9), tagged("\"b\"", 9), true, Same),
            ("other length under a digest", tagged("\"a\"", 9), tagged("\"a\"", 8), true, Different),
            ("told digest", with_digests(tagged("\"a\"", 9), one), with_digests(tagged("\"b\"", 9), one), false, Same),
            ("other told digest", with_digests(tagged("\"a\"", 9), one), with_digests(tagged("\"a\"", 9), two), true, Different),
        ];
        for (rule, validators, new, digest_expected, answer) in rows {
            let held = Held {
                offset_bytes: 4,
                validators,
                foreign: true,
                digest_expected,
                ..Held::default()
            };
            assert_eq!(compare_held(&held, &new), answer, "{rule}");
        }
    }
}
