//! What comes from outside as text becomes a checked type here, once: URLs, headers, digests, destinations. Pure.

mod ftp;
mod hidden;
mod neighbour;

use std::borrow::Cow;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use backhaul_backends::{Capabilities, Credential, Digest, DigestAlgorithm, RESERVED_HEADERS, UrlForm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;

use self::hidden::with_hidden_values;
use crate::error::Error;
use crate::hex;
use crate::operation::RequestHeader;

pub(crate) use self::hidden::has_hidden_values;
pub(crate) use self::neighbour::Neighbour;

/// Longest URL, in bytes (chosen without measurement; servers commonly refuse more than 8 KiB).
const URL_BYTES_MAX: usize = 16 * 1024;
/// Longest header value and longest list of headers, in bytes and in entries.
const HEADER_BYTES_MAX: usize = 8 * 1024;
pub(crate) const HEADERS_MAX: usize = 64;

/// Longest name of a file, in bytes: what Linux takes.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// Longest name in a media type, in bytes (RFC 6838, section 4.2).
const MEDIA_NAME_BYTES_MAX: usize = 127;

/// A checked URL, split into what may be shown and what may not. `Debug` shows the former.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Without fragment and user info; secret query values read `***`.
    pub(crate) shown: String,
    /// The URL to request, where `shown` is not it.
    pub(crate) secret_url: Option<String>,
    pub(crate) credential: Option<Credential>,
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Address")
            .field("shown", &self.shown)
            .field("secret_url", &self.secret_url.as_ref().map(|_| "***"))
            .field("credential", &self.credential)
            .finish()
    }
}

impl Address {
    /// Checks and normalises a URL: scheme, host, port, dot segments and percent-encoding (RFC 3986, section 6.2.2).
    /// `served` are the schemes there are, each with what its backend can do.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field `url`; the value shown holds no secret.
    pub(crate) fn parse(text: &str, served: &[(&str, Capabilities)]) -> Result<Self, Error> {
        let shown = harmless;
        if text.len() > URL_BYTES_MAX {
            return Err(Error::invalid(
                "url",
                format!("{}…", shown(text).chars().take(64).collect::<String>()),
                format!("has {} bytes; at most {URL_BYTES_MAX} are taken", text.len()),
            ));
        }
        if text
            .chars()
            .any(|letter| letter.is_control() || letter == ' ' || letter == '\\')
        {
            return Err(Error::invalid(
                "url",
                shown(text),
                "holds a blank, backslash or control character; write it as %XX",
            ));
        }
        let refused = |problem: String| Err(Error::invalid("url", shown(text), problem));
        let form = form_of(text, capabilities_of(text, served).urls);
        let like = example(form);
        // The parser is as forgiving as a browser and would take `http:///x` for the host `x`.
        if !has_form(text, form) {
            return refused(format!("is no URL; write it like {like}"));
        }
        let mut url = match Url::parse(text) {
            Ok(url) => url,
            Err(error) => return refused(format!("is no URL ({error}); write it like {like}")),
        };
        if !served.iter().any(|(scheme, _)| *scheme == url.scheme()) {
            return refused(unknown_scheme(url.scheme(), served));
        }
        let has_host = url.host_str().is_some_and(|host| !host.is_empty());
        if has_host != (form == UrlForm::Host) {
            let problem = if has_host { "names a host" } else { "has no host" };
            return refused(format!("{problem}; write it like {like}"));
        }
        let credential = take_credential(&mut url, text)?;
        let problem = credential
            .as_ref()
            .and_then(|credential| credential_problem(url.scheme(), credential));
        if let Some(problem) = problem {
            return Err(Error::invalid("url", shown(text), problem));
        }
        if let Some(problem) = ftp::problem(&url, credential.as_ref()) {
            return Err(Error::invalid("url", shown(text), problem));
        }
        url.set_fragment(None);
        let full = with_lower_host(normalised(url.as_str()), form);
        let shown = with_hidden_values(&full);
        let secret_url = (shown != full).then_some(full);
        Ok(Self {
            shown,
            secret_url,
            credential,
        })
    }

    /// The file name that the URL suggests: its last path segment, never a path; `index.html` where it has none.
    pub(crate) fn file_name(&self) -> Cow<'_, str> {
        let end = self.shown.bytes().position(|byte| matches!(byte, b'?' | b'#'));
        let path = end.and_then(|end| self.shown.get(..end)).unwrap_or(&self.shown);
        let authority = path.as_bytes().windows(3).position(|three| three == b"://");
        let after_scheme = authority.and_then(|begin| path.get(begin + 3..)).unwrap_or_default();
        // Behind the last slash, or nothing where there is no more than a host.
        let slash = after_scheme.bytes().rposition(|byte| byte == b'/');
        let segment = slash
            .and_then(|slash| after_scheme.get(slash + 1..))
            .unwrap_or_default();
        let segment = ftp::without_type(scheme_of(path), segment);
        let is_plain = segment.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'%');
        let clean: Cow<'_, str> = if is_plain {
            segment.into()
        } else {
            let is_refused = |letter: char| letter == '/' || letter.is_control();
            percent_decoded(segment).replace(is_refused, "_").into()
        };
        match &*clean {
            "" | "." | ".." => "index.html".into(),
            _ => clean,
        }
    }
}

/// The scheme of a URL, in the case in which it is written.
pub(crate) fn scheme_of(url: &str) -> &str {
    let end = url.bytes().position(|byte| byte == b':');
    end.and_then(|end| url.get(..end)).unwrap_or(url)
}

/// Schemes of this product, and the feature that each is built in with.
const FEATURES: &[(&str, &str)] = &[
    ("http", "http"),
    ("https", "tls"),
    ("ftp", "ftp"),
    ("ftps", "ftps"),
    ("ftpes", "ftps"),
];

/// Why a scheme that is not among those of this build is refused.
fn unknown_scheme(scheme: &str, served: &[(&str, Capabilities)]) -> String {
    if let Some((_, feature)) = FEATURES.iter().find(|(known, _)| *known == scheme) {
        return format!("scheme '{scheme}' needs a backhaul built with the feature '{feature}'");
    }
    let known: Vec<&str> = served.iter().map(|(scheme, _)| *scheme).collect();
    format!("scheme '{scheme}' is not supported; these are: {}", known.join(", "))
}

/// What the backend of a URL can do; the least where there is none.
pub(crate) fn capabilities_of(url: &str, served: &[(&str, Capabilities)]) -> Capabilities {
    let scheme = scheme_of(url);
    let mut served = served.iter();
    let found = served.find(|(name, _)| name.eq_ignore_ascii_case(scheme));
    found.map(|(_, capabilities)| *capabilities).unwrap_or_default()
}

/// Of several forms that a scheme may have, the one that a text has.
fn form_of(text: &str, may: UrlForm) -> UrlForm {
    let rest = text.split_once(':').map_or("", |(_, rest)| rest);
    match may {
        UrlForm::Any if rest.starts_with("///") => UrlForm::Path,
        UrlForm::Any if rest.starts_with("//") => UrlForm::Host,
        UrlForm::Any => UrlForm::Opaque,
        one => one,
    }
}

/// Whether a text has the outer form of such a URL; what is within it is the parser's.
fn has_form(text: &str, form: UrlForm) -> bool {
    let rest = text.split_once(':').map(|(_, rest)| rest);
    rest.is_some_and(|rest| match form {
        UrlForm::Path => rest.starts_with("///"),
        UrlForm::Opaque => !rest.is_empty() && !rest.starts_with(['/', '#']),
        _ => rest.starts_with("//") && !rest[2..].starts_with('/'),
    })
}

fn example(form: UrlForm) -> &'static str {
    match form {
        UrlForm::Path => "file:///path",
        UrlForm::Opaque => "data:text",
        _ => "https://host/path",
    }
}

fn take_credential(url: &mut Url, text: &str) -> Result<Option<Credential>, Error> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decoded = |text: &str| String::from_utf8(percent_decoded_bytes(text));
    let decoded = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
    let (Ok(user), Ok(password)) = decoded else {
        let problem = "its user name or password is no UTF-8 once each %XX is read";
        return Err(Error::invalid("url", harmless(text), problem));
    };
    let credential = Credential { user, password };
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    match cleared {
        Ok(()) => Ok(Some(credential)),
        Err(()) => Err(Error::invalid("url", harmless(text), "cannot carry a user name")),
    }
}

/// Why HTTP cannot carry a user name and a password; `None` for any other protocol.
///
/// Source: RFC 7617, section 2.
pub(crate) fn credential_problem(scheme: &str, credential: &Credential) -> Option<&'static str> {
    if !matches!(scheme, "http" | "https") {
        return None;
    }
    if credential.user.contains(':') {
        return Some("its user name holds a colon, where HTTP ends it");
    }
    let is_control = |text: &str| text.contains(char::is_control);
    let holds_control = is_control(&credential.user) || is_control(&credential.password);
    holds_control.then_some("its user name or password holds a control character, which HTTP cannot carry")
}

/// A text that is no URL, as it may be shown: whatever may be user info or a query is hidden.
pub(crate) fn harmless(text: &str) -> String {
    let (before_query, query) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    let scheme = text.find("://").map_or("", |end| &text[..end + 3]);
    if query.contains('@') {
        // A password may hold what begins a query elsewhere.
        return format!("{scheme}***");
    }
    match before_query.rsplit_once('@') {
        Some((_, after)) => format!("{scheme}***@{after}"),
        None => before_query.to_string(),
    }
}

/// The URL with its user info hidden.
pub(crate) fn without_user_info(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("//") else {
        return Cow::Borrowed(text);
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..authority_end].rfind('@') {
        Some(at) => Cow::Owned(format!("{scheme}//***{}", &rest[at..])),
        None => Cow::Borrowed(text),
    }
}

/// Percent-encodings in upper case, and none where the letter is unreserved (RFC 3986, sections 2.3 and 6.2.2). A lone
/// percent sign is encoded, so that the same URL comes out of what came out.
fn normalised(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    let mut rest = url;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let hex = hex_byte(after.as_bytes());
        match hex {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(char::from(byte)),
            Some(_) => {
                out.push('%');
                out.push_str(&after[..2].to_ascii_uppercase());
            }
            // It would make an encoding with what is decoded after it.
            None => out.push_str("%25"),
        }
        rest = if hex.is_some() { &after[2..] } else { after };
    }
    out.push_str(rest);
    out
}

/// A host in lower case, which the parser gives only those of the web: for any scheme its case means nothing (RFC 3986,
/// section 3.2.2).
fn with_lower_host(mut url: String, form: UrlForm) -> String {
    let begin = scheme_of(&url).len() + "://".len();
    let after = url.get(begin..).filter(|_| form == UrlForm::Host).unwrap_or_default();
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    let host = url.get_mut(begin..begin + end).unwrap_or_default();
    if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return url;
    }
    host.make_ascii_lowercase();
    // The digits of its encodings are in upper case.
    normalised(&url)
}

/// The byte that two hexadecimal digits at the beginning stand for.
fn hex_byte(text: &[u8]) -> Option<u8> {
    let digits = text.get(..2)?;
    hex::decode(digits)?.first().copied()
}

/// Percent-decoded; what is not UTF-8 afterwards is replaced.
fn percent_decoded(text: &str) -> String {
    String::from_utf8_lossy(&percent_decoded_bytes(text)).into_owned()
}

fn percent_decoded_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let decoded = if byte == b'%' { hex_byte(tail) } else { None };
        bytes.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    bytes
}

/// Whether two URLs have one scheme, host and port. What is no URL has no origin.
///
/// Source: RFC 9110, section 4.3.1.
pub(crate) fn has_same_origin(one: &str, other: &str) -> bool {
    let (Ok(one), Ok(other)) = (Url::parse(one), Url::parse(other)) else {
        return false;
    };
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// A mirror, checked as the URL is.
///
/// # Errors
/// [`Error::Invalid`] naming the field `mirror`; the value shown holds no secret.
pub(crate) fn parse_mirror(text: &str, served: &[(&str, Capabilities)]) -> Result<Address, Error> {
    let address = Address::parse(text, served).map_err(|error| match error {
        Error::Invalid { value, problem, .. } => Error::invalid("mirror", value, problem),
        other => other,
    })?;
    if address.credential.is_some() {
        let problem = "carries a user name; credentials go to the host of the URL alone";
        return Err(Error::invalid("mirror", address.shown, problem));
    }
    Ok(address)
}

/// A URL from outside as it may be stored and shown: without user info, with hidden values.
pub(crate) fn shown_url(url: &str) -> String {
    with_hidden_values(&without_user_info(url))
}

/// Headers that are always secret.
const SECRET_HEADERS: [&str; 2] = ["authorization", "cookie"];

/// A checked request header, and whether it is a secret by its name.
///
/// # Errors
/// [`Error::Invalid`] naming `field`; a secret value is not shown.
pub(crate) fn parse_header(field: &'static str, text: &str) -> Result<(RequestHeader, bool), Error> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| Error::invalid(field, "***", "has no ':'; write it like 'Name: value'"))?;
    let (name, value) = (name.trim(), value.trim_matches([' ', '\t']));
    check_header(field, name, value)?;
    let secret = SECRET_HEADERS.contains(&name.to_ascii_lowercase().as_str());
    Ok((
        RequestHeader {
            name: name.into(),
            value: value.into(),
        },
        secret,
    ))
}

/// A header with another value behind what it has.
///
/// Source: RFC 9110, section 5.3: lines of one name and their values with commas between are the same.
///
/// # Errors
/// [`Error::Invalid`] where it gets too long.
pub(crate) fn appended(header: &RequestHeader, value: &str) -> Result<RequestHeader, Error> {
    let value = format!("{}, {value}", header.value);
    check_header("header", &header.name, &value)?;
    Ok(RequestHeader {
        name: header.name.clone(),
        value,
    })
}

/// A checked request header from its two parts, and whether it is a secret by its name.
///
/// # Errors
/// [`Error::Invalid`] naming `field`; the value is not shown.
pub(crate) fn parse_header_parts(field: &'static str, name: &str, value: &str) -> Result<(RequestHeader, bool), Error> {
    // A colon in the name would make a part of it the value.
    check_header(field, name, value)?;
    parse_header(field, &format!("{name}: {value}"))
}

/// Checks the name of a request header.
///
/// # Errors
/// [`Error::Invalid`] naming `field`.
pub(crate) fn check_header_name(field: &'static str, name: &str) -> Result<(), Error> {
    check_header(field, name, "")
}

fn check_header(field: &'static str, name: &str, value: &str) -> Result<(), Error> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        // With the colon at the wrong place, a part of the value stands in it.
        let end = name.bytes().position(|byte| !is_token(byte)).unwrap_or(name.len());
        let shown = format!("{}{}", &name[..end], if end < name.len() { "***" } else { "" });
        return Err(Error::invalid(
            field,
            shown,
            "is no header name; letters, digits and !#$%&'*+-.^_`|~ are (RFC 9110, section 5.1)",
        ));
    }
    if value
        .bytes()
        .any(|byte| matches!(byte, b'\r' | b'\n' | 0) || (byte < b' ' && byte != b'\t') || byte == 0x7f)
    {
        return Err(Error::invalid(
            field,
            name,
            "its value holds a line break or control character; put each header into its own option",
        ));
    }
    if name.len() + value.len() > HEADER_BYTES_MAX {
        return Err(Error::invalid(
            field,
            name,
            format!("is longer than {HEADER_BYTES_MAX} bytes"),
        ));
    }
    if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(Error::invalid(
            field,
            name,
            "is set by backhaul itself and cannot be given",
        ));
    }
    match value_problem(name, value) {
        Some(problem) => Err(Error::invalid(field, name, problem)),
        None => Ok(()),
    }
}

/// What only some headers refuse of a value: with it no request could be made of them, or none that says where it goes.
fn value_problem(name: &str, value: &str) -> Option<&'static str> {
    let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte);
    if name.eq_ignore_ascii_case("host") && !value.bytes().all(is_of_host) {
        return Some("its value is no host, with or without a port (RFC 9112, section 3.2); write it like host:80");
    }
    (name.eq_ignore_ascii_case("authorization") && !value.is_ascii())
        .then_some("its value has a letter beyond ASCII, which no credential has (RFC 9110, section 11.4)")
}

/// A SHA-256 digest as 64 hexadecimal digits or 44 letters of base64.
///
/// # Errors
/// [`Error::Invalid`] naming the field `sha256`.
pub(crate) fn parse_sha256(text: &str) -> Result<[u8; 32], Error> {
    let bytes = hex::decode(text.as_bytes()).or_else(|| STANDARD.decode(text).ok());
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        let problem = format!(
            "has {} characters; a SHA-256 is 64 hexadecimal digits or 44 letters of base64",
            text.chars().count()
        );
        Error::invalid("sha256", text, problem)
    })
}

/// A media type or all subtypes of one, in lower case: `type/subtype` or `type/*`.
///
/// Source: RFC 9110, section 8.3.1; RFC 6838, section 4.2, for the length of names.
///
/// # Errors
/// [`Error::Invalid`] naming the field `type`.
pub(crate) fn parse_media_type(text: &str) -> Result<String, Error> {
    let is_name = |name: &str| {
        (1..=MEDIA_NAME_BYTES_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+%'`|~".contains(&byte))
    };
    let is_type = text
        .split_once('/')
        .is_some_and(|(kind, subtype)| is_name(kind) && (subtype == "*" || is_name(subtype)));
    if is_type {
        return Ok(text.to_ascii_lowercase());
    }
    let problem = "is no media type; write it like application/zip or image/*, without parameters";
    Err(Error::invalid("type", text, problem))
}

/// A digest as `ALGORITHM:VALUE`, with the value in hexadecimal or base64, or as `ALGORITHM=:BASE64:` (RFC 9530).
///
/// # Errors
/// [`Error::Invalid`] naming the field `digest`.
pub(crate) fn parse_digest(text: &str) -> Result<Digest, Error> {
    let refuse = |problem: String| Err(Error::invalid("digest", text, problem));
    let names: Vec<&str> = DigestAlgorithm::all()
        .iter()
        .map(|algorithm| algorithm.name())
        .collect();
    let names = names.join(", ");
    let structured = text
        .split_once("=:")
        .and_then(|(name, value)| Some((name, value.strip_suffix(':')?)));
    let Some((name, value)) = structured.or_else(|| text.split_once(':')) else {
        return refuse(format!(
            "names no algorithm; write ALGORITHM:VALUE, with one of {names}"
        ));
    };
    let Some(algorithm) = DigestAlgorithm::by_name(name) else {
        return refuse(format!("'{name}' is no known algorithm; these are: {names}"));
    };
    let read = |bytes: Option<Vec<u8>>| bytes.and_then(|bytes| Digest::new(algorithm, bytes));
    let in_hex = if structured.is_none() {
        read(hex::decode(value.as_bytes()))
    } else {
        None
    };
    in_hex.or_else(|| read(STANDARD.decode(value).ok())).map_or_else(
        || {
            let digits = 2 * algorithm.len_bytes();
            let letters = 4 * algorithm.len_bytes().div_ceil(3);
            refuse(format!(
                "the value is neither {digits} hexadecimal digits nor {letters} letters of base64"
            ))
        },
        Ok,
    )
}

/// An absolute path without `.` and `..`, that ends in a file name.
///
/// # Errors
/// [`Error::Invalid`] naming the field `destination`.
pub(crate) fn parse_destination(path: &Path, current: &Path) -> Result<PathBuf, Error> {
    use std::os::unix::ffi::OsStrExt;
    let refuse = |problem: &str| Err(Error::invalid("destination", path.display().to_string(), problem));
    if path.as_os_str().is_empty() {
        return refuse("is empty; give a file name");
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return refuse("holds a NUL byte");
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return refuse("has '..' in it; give the path without");
    }
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return refuse("is a directory; give a file name in it");
    }
    let current = if path.is_absolute() { Path::new("") } else { current };
    let mut absolute = PathBuf::with_capacity(current.as_os_str().len() + 1 + path.as_os_str().len());
    for component in current.components().chain(path.components()) {
        if component != Component::CurDir {
            absolute.push(component);
        }
    }
    match absolute.file_name() {
        Some(name) if name.len() <= NAME_BYTES_MAX => Ok(absolute),
        Some(_) => refuse(&format!("has a file name of more than {NAME_BYTES_MAX} bytes")),
        None => refuse("has no file name"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn served() -> [(&'static str, Capabilities); 5] {
        let of = |urls| Capabilities {
            urls,
            ..Capabilities::default()
        };
        [
            ("http", of(UrlForm::Host)),
            ("https", of(UrlForm::Host)),
            ("file", of(UrlForm::Path)),
            ("data", of(UrlForm::Opaque)),
            ("any", of(UrlForm::Any)),
        ]
    }

    fn parsed(text: &str) -> Address {
        Address::parse(text, &served()).unwrap()
    }

    fn refused(text: &str) -> String {
        Address::parse(text, &served()).unwrap_err().to_string()
    }

    #[test]
    fn a_host_is_in_lower_case_whatever_the_scheme_and_nothing_else_that_is_written_is() {
        for (text, shown) in [
            ("http://HOST/A", "http://host/A"),
            ("any://HOST", "any://host"),
            ("any://HOST?B", "any://host?B"),
            ("ANY://Ann@HosT%c3%bC%41:80/A%c3?B", "any://host%C3%BCa:80/A%C3?B"),
            ("any:///HOST/A", "any:///HOST/A"),
            ("any:HOST/A", "any:HOST/A"),
        ] {
            assert_eq!(parsed(text).shown, shown, "{text}");
            assert_eq!(parsed(shown).shown, shown, "{text}");
        }
    }

    #[test]
    fn a_url_without_a_host_is_taken_where_the_backend_says_so_and_nowhere_else() {
        for (text, shown) in [
            ("file:///a/./b%7e", "file:///a/b~"),
            ("FILE:///a?b#c", "file:///a?b"),
            ("data:,a%20b", "data:,a%20b"),
            ("data:text/plain;base64,QQ==#x", "data:text/plain;base64,QQ=="),
            ("data:?token=hush", "data:?token=***"),
            ("any:a", "any:a"),
            ("any://host/./a", "any://host/a"),
            ("any:///./a", "any:///a"),
        ] {
            assert_eq!(parsed(text).shown, shown, "{text}");
            assert_eq!(parsed(shown).shown, shown, "{text}");
        }
        for (text, word) in [
            ("file:/a", "file:///path"),
            ("file:a", "file:///path"),
            ("file://host/a", "file:///path"),
            ("file://ann:hush@/a", "file:///path"),
            ("data:", "data:text"),
            ("data:#a", "data:text"),
            ("data:/../a", "data:text"),
            ("data://host/a", "data:text"),
            ("any:", "data:text"),
            ("any:/a", "data:text"),
            ("any://", "https://host/path"),
            ("any://ann:hush@/a", "https://host/path"),
            ("http:///a", "https://host/path"),
            ("http:a", "https://host/path"),
            ("other:a", "https://host/path"),
            ("other:///a", "https://host/path"),
        ] {
            let message = refused(text);
            assert!(message.contains(word) && !message.contains("hush"), "{text}: {message}");
        }
        assert_eq!(parsed("file:///a/b.bin").file_name(), "b.bin");
        assert_eq!(parsed("data:,a/b").file_name(), "index.html");
    }

    #[test]
    fn urls_that_mean_the_same_become_the_same() {
        let one = "http://example.com/a~b/c?x=%2F";
        for other in [
            "HTTP://EXAMPLE.com:80/a%7eb/c?x=%2f",
            "http://example.com/./a%7Eb/d/../c?x=%2f#top",
        ] {
            assert_eq!(parsed(other).shown, one);
        }
    }

    #[test]
    fn a_media_type_is_two_names_and_nothing_more() {
        for (text, read) in [
            ("application/zip", "application/zip"),
            ("Image/*", "image/*"),
            ("application/vnd.x+JSON", "application/vnd.x+json"),
        ] {
            assert_eq!(parse_media_type(text).unwrap(), read);
        }
        let long = format!("a/{}", "b".repeat(MEDIA_NAME_BYTES_MAX + 1));
        for wrong in [
            "", "zip", "a/", "/b", "*/*", "a/b/c", "a/b; c=d", "a b/c", "a/b*", "a/\r\nb", &long,
        ] {
            let error = parse_media_type(wrong).unwrap_err().to_string();
            assert!(error.starts_with("type '"), "{error}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port_of_any_scheme() {
        let base = "mem://host/a?b";
        for (other, same) in [
            ("mem://host/c", true),
            ("mem://other/a", false),
            ("http://host/a", false),
        ] {
            assert_eq!(has_same_origin(base, other), same, "{other}");
        }
        assert!(has_same_origin("https://host/", "https://host:443/x"));
        assert!(!has_same_origin("https://host/", "https://host:8443/x"));
        assert!(!has_same_origin("no URL", "no URL"), "in doubt it is another one");
    }

    #[test]
    fn passwords_and_signatures_are_split_off_and_never_shown() {
        let address = parsed("https://ann:p%40ss@host/f?X-Amz-Signature=abc&part=1&sig=xyz");
        assert_eq!(address.shown, "https://host/f?X-Amz-Signature=***&part=1&sig=***");
        assert_eq!(
            address.secret_url.unwrap(),
            "https://host/f?X-Amz-Signature=abc&part=1&sig=xyz"
        );
        assert_eq!(
            address.credential.unwrap(),
            Credential {
                user: "ann".into(),
                password: "p@ss".into()
            }
        );
        // Of nginx, of stores of objects, of delivery networks.
        for query in [
            "md5=s&expires=1",
            "Authorization=s",
            "auth_key=s",
            "hdnts=s",
            "hmac=s",
            "sign=s",
            "st=s",
            "sessionid=s",
            "AccessKey=s",
            "sharedkey=s",
            "X-Sig=s",
            "x-api-key=s",
            "subscription-key=s",
            "session_id=s",
            "api_key=s",
            "access-key=s",
        ] {
            let shown = parsed(&format!("https://host/f?{query}")).shown;
            assert!(shown.contains("=***") && !shown.contains("=s"), "{shown}");
        }
        let design = "https://host/f?design=s&start=1";
        assert_eq!(
            parsed(design).shown,
            design,
            "what only holds one of the short names is shown"
        );
        assert!(!refused("gopher://ann:secret@host/").contains("secret"));
        for text in [
            "https://ann:secret@/",
            "http://ann:pa/secret@h/x",
            "ann:secret@h/x",
            "http:ann:secret@h/",
            "gopher://h/?token=secret",
        ] {
            assert!(!refused(text).contains("secret"), "{text}");
        }
    }

    #[test]
    fn a_normalised_url_stays_as_it_is() {
        for (text, shown) in [
            ("http://h/100%.bin", "http://h/100%25.bin"),
            ("http://h/%%34%31", "http://h/%2541"),
            ("http://h/?t%%36ken=secret", "http://h/?t%256ken=secret"),
            ("http://h/%2525", "http://h/%2525"),
        ] {
            assert_eq!(parsed(text).shown, shown);
            assert_eq!(parsed(shown).shown, shown);
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_its_field_and_what_is_right() {
        for (text, word) in [
            ("nonsense", "is no URL"),
            ("gopher://host/x", "these are: http, https, file, data, any"),
            (
                "ftp://host/x",
                "scheme 'ftp' needs a backhaul built with the feature 'ftp'",
            ),
            (
                "ftpes://host/x",
                "scheme 'ftpes' needs a backhaul built with the feature 'ftps'",
            ),
            ("http://host/a b", "%XX"),
            ("http://host/\r\nX: y", "%XX"),
            ("http:///x", "is no URL"),
            ("http:host/x", "is no URL"),
            ("http://host\\x", "%XX"),
            // What is no text would reach the server as another password.
            ("http://ann:%FFhush@host/x", "no UTF-8"),
            ("http://%E9:hush@host/x?token=hush", "no UTF-8"),
        ] {
            let message = refused(text);
            assert!(!message.contains("hush"), "{message}");
            assert!(message.starts_with("url '") && message.contains(word), "{message}");
        }
        assert!(refused(&format!("http://host/{}", "a".repeat(URL_BYTES_MAX))).contains("at most"));
        let without_tls = &served()[..1];
        let message = Address::parse("https://host/x", without_tls).unwrap_err().to_string();
        assert!(
            message.contains("scheme 'https' needs a backhaul built with the feature 'tls'"),
            "{message}"
        );
    }

    #[test]
    fn a_name_from_a_url_is_never_a_path() {
        let all = ["http", "ftp", "ftpes"].map(|scheme| (scheme, Capabilities::default()));
        for (url, name) in [
            ("ftp://h/a/b.bin;type=i", "b.bin"),
            ("ftpes://h/b;c;TYPE=I", "b;c"),
            ("ftp://h/b;type=x", "b;type=x"),
            ("http://h/b.bin;type=i", "b.bin;type=i"),
            ("http://h/a/b.bin?x=/y", "b.bin"),
            ("http://h/", "index.html"),
            ("http://h", "index.html"),
            ("http://h/a%20b", "a b"),
            ("http://h/..%2F..%2Fetc%2Fpasswd", ".._.._etc_passwd"),
            ("http://h/%2e%2e", "index.html"),
        ] {
            assert_eq!(Address::parse(url, &all).unwrap().file_name(), name, "{url}");
        }
    }

    #[test]
    fn headers_that_break_the_request_are_refused() {
        assert_eq!(
            parse_header("header", "X-A: b ").unwrap().0,
            RequestHeader {
                name: "X-A".into(),
                value: "b".into()
            }
        );
        assert!(parse_header("header", "Cookie: a").unwrap().1);
        for text in [
            "no colon",
            ": x",
            "A B: c",
            "X: a\r\nY: b",
            "X: a\nb",
            "X: \0",
            "Range: bytes=0-",
            "TE: x",
            "Host: a, b",
            "host: http://a/",
            "HOST: u@a",
            "Host: b\u{fc}cher.example",
            "Authorization: Bearer \u{fc}",
        ] {
            assert!(
                matches!(
                    parse_header("header", text),
                    Err(Error::Invalid { ref field, .. }) if field == "header"
                ),
                "{text:?}"
            );
        }
        for text in [
            "Host:",
            "Host: a:80",
            "Host: [::1]:80",
            "Host: xn--bcher-kva.example",
            "X: \u{fc}",
        ] {
            assert!(parse_header("header", text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn digests_are_read_as_hex_or_base64_and_nothing_else() {
        let digest = [0x5a; 32];
        assert_eq!(parse_sha256(&data_encoding::HEXUPPER.encode(&digest)).unwrap(), digest);
        assert_eq!(parse_sha256(&data_encoding::BASE64.encode(&digest)).unwrap(), digest);
        for text in ["", "5a", &"5a".repeat(31), &"5a".repeat(33), &"zz".repeat(32)] {
            assert!(
                parse_sha256(text)
                    .unwrap_err()
                    .to_string()
                    .contains("64 hexadecimal digits"),
                "{text}"
            );
        }
    }

    #[test]
    fn digests_of_every_algorithm_are_read_in_every_form_and_nothing_else() {
        for algorithm in DigestAlgorithm::all() {
            let bytes = vec![0xfb; algorithm.len_bytes()];
            let digest = Digest::new(*algorithm, bytes.clone()).unwrap();
            let (hex, base64) = (
                data_encoding::HEXUPPER.encode(&bytes),
                data_encoding::BASE64.encode(&bytes),
            );
            let name = algorithm.name();
            for text in [
                digest.to_string(),
                format!("{name}:{hex}"),
                format!("{}:{base64}", name.to_uppercase()),
                format!("{name}=:{base64}:"),
            ] {
                assert_eq!(parse_digest(&text).unwrap(), digest, "{text}");
            }
        }
        let zeros = "00".repeat(32);
        for (text, word) in [
            (String::new(), "names no algorithm"),
            (zeros.clone(), "names no algorithm"),
            (format!("md5:{zeros}"), "sha-1, sha-256, sha-384, sha-512"),
            (format!("sha-512:{zeros}"), "128 hexadecimal digits"),
            (format!("sha-256=:{zeros}:"), "44 letters of base64"),
            ("sha-256:".into(), "64 hexadecimal digits"),
        ] {
            let message = parse_digest(&text).unwrap_err().to_string();
            assert!(message.starts_with("digest '") && message.contains(word), "{message}");
        }
    }

    #[test]
    fn a_mirror_is_refused_by_its_own_name_and_never_has_credentials() {
        let refused = |text| {
            parse_mirror(text, &[("http", Capabilities::default())])
                .unwrap_err()
                .to_string()
        };
        assert!(refused("nonsense").starts_with("mirror 'nonsense'"));
        let message = refused("http://ann:secret@host/f?sig=hush");
        assert!(message.starts_with("mirror 'http://host/f?sig=***'"), "{message}");
        assert!(has_same_origin("http://h/a", "http://h:80/b?c"));
        for other in ["http://h:81/a", "http://g/a", "https://h/a", "h"] {
            assert!(!has_same_origin("http://h/a", other), "{other}");
        }
    }

    #[test]
    fn destinations_are_absolute_and_never_climb() {
        let current = Path::new("/home");
        assert_eq!(
            parse_destination(Path::new("./a/b"), current).unwrap(),
            Path::new("/home/a/b")
        );
        for text in ["", "a/../b", "dir/", "/", "a\0b", &"n".repeat(256)] {
            assert!(parse_destination(Path::new(text), current).is_err(), "{text:?}");
        }
    }
}
