//! Other places of the same resource, as the field Link names them.
//!
//! Sources: RFC 8288, section 3 and appendix B.2 (how the field is read); RFC 6249, section 3 (`rel=duplicate`, `pri`;
//! `geo` is ignored). What is malformed ends the reading: what came before it counts.

/// Most mirrors of one response that are kept.
pub(super) const MIRRORS_MAX: usize = 8;
/// Most links of one response that are looked at (chosen without measurement; a head of 32 KiB holds some hundreds).
const LINKS_MAX: usize = 256;
/// Rank of a mirror that gives none, below every other (RFC 6249, section 3.1: 1 is the best, 999,999 the last).
const PRI_DEFAULT: u32 = 1_000_000;

/// References of all duplicates in the fields, best first, at most [`MIRRORS_MAX`].
pub(super) fn duplicates<'a>(fields: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut found: Vec<(u32, String)> = Vec::new();
    let mut left = LINKS_MAX;
    for field in fields {
        let mut rest = field;
        while left > 0 {
            left -= 1;
            let Some(link) = next_link(&mut rest) else { break };
            if link.is_duplicate {
                found.push((link.pri, link.target.to_owned()));
            }
        }
    }
    crate::sort_few_by_key(&mut found, |(pri, _)| *pri);
    let mut targets: Vec<String> = Vec::new();
    for (_, target) in found {
        if targets.len() < MIRRORS_MAX && !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets
}

struct Link<'a> {
    target: &'a str,
    is_duplicate: bool,
    pri: u32,
}

/// Reads one link off the front.
fn next_link<'a>(rest: &mut &'a str) -> Option<Link<'a>> {
    let text = rest.trim_start_matches([' ', '\t', ',']).strip_prefix('<')?;
    let (target, after) = text.split_once('>')?;
    *rest = after;
    let mut link = Link {
        target: target.trim(),
        is_duplicate: false,
        pri: PRI_DEFAULT,
    };
    let mut has_relation = false;
    loop {
        *rest = rest.trim_start_matches([' ', '\t']);
        let Some(after) = rest.strip_prefix(';') else { break };
        *rest = after.trim_start_matches([' ', '\t']);
        let (name, value) = parameter(rest)?;
        // Only the first relation counts (RFC 8288, section 3.3).
        if name.eq_ignore_ascii_case("rel") && !has_relation {
            has_relation = true;
            link.is_duplicate = value
                .split([' ', '\t'])
                .any(|relation| relation.eq_ignore_ascii_case("duplicate"));
        } else if name.eq_ignore_ascii_case("anchor") {
            // It speaks of another resource.
            has_relation = true;
            link.is_duplicate = false;
        } else if name.eq_ignore_ascii_case("pri") {
            link.pri = value
                .parse()
                .ok()
                .filter(|pri| (1..PRI_DEFAULT).contains(pri))
                .unwrap_or(PRI_DEFAULT);
        }
    }
    (rest.is_empty() || rest.starts_with(',')).then_some(link)
}

/// Name and value of a parameter; the value is empty where it has none. Escapes in a quoted value stay: no value that
/// counts here has any.
fn parameter<'a>(rest: &mut &'a str) -> Option<(&'a str, &'a str)> {
    let end = rest.find([' ', '\t', '=', ';', ',']).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    *rest = after.trim_start_matches([' ', '\t']);
    let Some(after) = rest.strip_prefix('=') else {
        return Some((name, ""));
    };
    *rest = after.trim_start_matches([' ', '\t']);
    if let Some(quoted) = rest.strip_prefix('"') {
        let end = quoted_end(quoted)?;
        *rest = &quoted[end + 1..];
        return Some((name, &quoted[..end]));
    }
    let end = rest.find([' ', '\t', ';', ',']).unwrap_or(rest.len());
    let (value, after) = rest.split_at(end);
    *rest = after;
    Some((name, value))
}

/// Where the quote that ends a quoted text stands.
fn quoted_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_come_by_their_rank_and_nothing_else_comes() {
        let rows: [(&str, &[&str]); 14] = [
            ("<http://b/x>; rel=duplicate", &["http://b/x"]),
            (
                "<b>; rel=\"duplicate\"; pri=2, <a>; pri=1; geo=de; rel=duplicate, <c>;rel=duplicate",
                &["a", "b", "c"],
            ),
            ("<a>; rel=\"next DUPLICATE\"", &["a"]),
            ("<a>; rel=next; rel=duplicate", &[]),
            ("<a>; rel=duplicate; anchor=\"#x\"", &[]),
            ("<a>; rel=describedby; type=\"application/metalink4+xml\"", &[]),
            ("<a>; title=\"x, <b>; rel=duplicate\"; rel=next", &[]),
            ("<a>; title=\"\\\"; <b\"; rel=duplicate", &["a"]),
            ("<a,b>; rel = duplicate ; crossorigin", &["a,b"]),
            ("<a>; rel=duplicate; pri=0, <b>; rel=duplicate; pri=9", &["b", "a"]),
            ("<a>; rel=duplicate, <a>; rel=duplicate", &["a"]),
            ("<a>; rel=duplicate, nonsense, <b>; rel=duplicate", &["a"]),
            ("<a; rel=duplicate", &[]),
            ("<a>; rel=\"duplicate", &[]),
        ];
        for (text, targets) in rows {
            assert_eq!(duplicates([text]), targets, "{text}");
        }
        assert_eq!(
            duplicates(["<a>; rel=duplicate", "<b>; rel=duplicate; pri=1"]),
            ["b", "a"]
        );
    }

    #[test]
    fn only_the_best_mirrors_of_a_long_list_are_kept() {
        let list: Vec<String> = (1..=100)
            .map(|number| format!("<m{number}>; rel=duplicate; pri={}", 101 - number))
            .collect();
        let kept = duplicates([list.join(", ").as_str()]);
        assert_eq!((kept.len(), kept[0].as_str()), (MIRRORS_MAX, "m100"));
        let endless = "<x>; rel=next,".repeat(LINKS_MAX) + "<a>; rel=duplicate";
        assert!(duplicates([endless.as_str()]).is_empty());
    }
}
