//! Paths that read the same to every parser of URLs.

/// Whether a path holds only letters that no parser of URLs changes, and no segment that it could take for `.` or `..`. Behind
/// the `/` that ends the authority of an http or https URL in its normal form, such a path is in its normal form, too.
///
/// Source: WHATWG URL Standard, "path state": it depends on nothing before the path but the scheme.
#[must_use]
pub fn is_plain_path(path: &str) -> bool {
    let mut before = b'/';
    path.bytes().all(|byte| {
        let begins_segment = before == b'/';
        before = byte;
        match byte {
            b'.' => !begins_segment,
            b'-' | b'_' | b'~' | b'/' => true,
            _ => byte.is_ascii_alphanumeric(),
        }
    })
}
