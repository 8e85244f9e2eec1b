//! What a protocol backend is: one blocking call a direction, told what is already held, interruptible from outside.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::{BodySource, Digest, Failure, HeaderFields, Interrupt, Method, Proxies};

/// One protocol. A backend makes one attempt and reports; it never retries, never touches a file, and never decides
/// when to try again. The crate's own page says how one is written.
pub trait Backend: Send + Sync {
    /// URL schemes that this backend serves, in lower case ([`crate::is_scheme`]). They are asked for once, when it is
    /// registered.
    fn schemes(&self) -> Vec<&str>;

    /// What this protocol can do; the same in each call.
    fn capabilities(&self) -> Capabilities;

    /// Makes one attempt to fetch the resource: calls [`Sink::begin`] once, before the first byte, and [`Sink::write`]
    /// for each run of bytes in order. `Ok` means that the resource is complete by the protocol's own proof (announced
    /// length, final chunk, or an orderly end where no length was announced).
    ///
    /// # Errors
    /// A classified [`Failure`]; whatever reached the sink before it stays valid.
    fn download(&self, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<(), Failure>;
}

/// What a protocol can do; nobody asks which backend it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says one thing, and none follows from another"
)]
pub struct Capabilities {
    /// An interrupted download can go on from an offset.
    pub resume: bool,
    /// A gap in the middle can be fetched alone ([`Held::end_bytes`]), and several connections may fetch one resource. Without
    /// it [`Held::end_bytes`] is never set.
    pub ranges: bool,
    /// Methods other than GET, and request bodies, mean something.
    pub methods: bool,
    /// Request headers mean something.
    pub headers: bool,
    /// The way can lead through a proxy ([`Request::proxies`]).
    pub proxies: bool,
    /// What its URLs look like.
    pub urls: UrlForm,
}

/// What the URLs of a scheme look like. What has another form is refused when an operation is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UrlForm {
    /// `scheme://host/path`, with a host that is not empty; the port, user info and query as RFC 3986 has them.
    #[default]
    Host,
    /// `scheme:///path`: there is no host (RFC 8089, for files of this device).
    Path,
    /// `scheme:text`, where the text is not empty and does not begin with `/`; it is not divided any further (RFC 3986,
    /// section 3.3, `path-rootless`; RFC 2397).
    Opaque,
    /// Any of these; the backend sees what it makes of it.
    Any,
}

/// What to fetch, and what is held of it already.
#[derive(Clone)]
pub struct Request {
    /// Absolute URL, with any secret query values in place; user info has been moved to `credential`.
    pub url: String,
    /// What is asked of the server. Only the answer to a GET can continue held bytes (RFC 9110, section 14.2): with any other
    /// method it comes whole again.
    pub method: Method,
    /// What is sent along, from its beginning in every attempt and after every redirect that keeps the method.
    pub body: Option<Arc<dyn BodySource>>,
    /// Request headers in order, secret ones included. None where the backend has no [`Capabilities::headers`].
    pub headers: Vec<Header>,
    /// User name and password for the origin.
    pub credential: Option<Credential>,
    /// Which proxy leads to which server.
    pub proxies: Arc<Proxies>,
    /// Bytes that are held and proven on disk; `None` asks for the whole resource.
    pub held: Option<Held>,
    /// Length that the finished resource must have, in bytes.
    pub expected_bytes: Option<u64>,
    /// Media type that the resource must have where the server names one: `type/subtype` or `type/*`, in lower case and
    /// without parameters.
    pub expected_type: Option<String>,
    /// Time limits of this attempt.
    pub limits: Limits,
    /// Size of the read buffer, in bytes; 4 KiB to 1 MiB.
    pub buffer_bytes: usize,
}

/// One request header.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// Field name.
    pub name: String,
    /// Field value.
    pub value: String,
    /// The value must not be shown and must not leave the origin it was given for.
    pub secret: bool,
}

/// Request headers that this backend sets itself, in lower case: each would change what a response means or where it
/// ends.
pub const RESERVED_HEADERS: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A user name and a password. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

/// Bytes of an earlier response, and what can prove that a new response continues them: either `[0, offset_bytes)`, or,
/// with `end_bytes`, whatever lies around the gap `[offset_bytes, end_bytes)`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// First missing byte.
    pub offset_bytes: u64,
    /// First byte after the gap, where only that gap is to be fetched; to the end of the resource where `None`.
    pub end_bytes: Option<u64>,
    /// The held bytes right before `offset_bytes`, at most [`TAIL_BYTES_MAX`], as they are on the disk. They are asked for
    /// once more and compared: an extra check, never a proof.
    pub tail: Vec<u8>,
    /// Validators of the response that the bytes came from.
    pub validators: Validators,
    /// Media type of that response, as sent.
    pub content_type: Option<String>,
    /// The bytes came from another source than [`Request::url`]: what only one server can know of its own resource, as a
    /// time of modification, then proves nothing.
    pub foreign: bool,
    /// Scheme, host and port of the server that gave the bytes, as they stand in a URL, where they are known. A redirect may
    /// lead to another one, and to that the bytes are as good as `foreign`.
    pub server: Option<String>,
    /// A strong digest of the whole resource is known from elsewhere, and the bytes count for nothing before the whole
    /// was compared with it.
    pub digest_expected: bool,
}

/// Most bytes of [`Held::tail`].
pub const TAIL_BYTES_MAX: usize = 4096;

/// What identifies one representation of a resource (RFC 9110, section 8.8), as the server said it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// Entity tag with its quotes, and with `W/` where weak.
    pub etag: Option<String>,
    /// Last-Modified, as sent.
    pub last_modified: Option<String>,
    /// Date of the response that carried them, as sent: decides whether Last-Modified is strong (section 8.8.2.2).
    pub date: Option<String>,
    /// Complete length in bytes, where announced.
    pub total_bytes: Option<u64>,
    /// Digests of the whole representation, strongest first, one of an algorithm at most (RFC 9530, section 3). Whoever
    /// joins bytes because two of them are equal compares the whole with it in the end.
    pub digests: Vec<Digest>,
}

/// Time limits of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Name resolution, TCP connect and TLS handshake, together.
    pub connect: Duration,
    /// From the request sent to the response headers received.
    pub response: Duration,
    /// Longest silence between two reads of the body.
    pub stall: Duration,
}

impl Default for Limits {
    /// 30 s to connect, 60 s to the response headers, 60 s of silence (chosen without measurement; wget and aria2 use 60 s).
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            response: Duration::from_secs(60),
            stall: Duration::from_secs(60),
        }
    }
}

/// What the backend tells before the first byte of an accepted response. For most of it [`crate::start`] and
/// [`crate::is_provable`] have the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where the bytes that follow belong.
    pub start: Start,
    /// Validators of this response.
    pub validators: Validators,
    /// URL that answered, after redirects, without secrets.
    pub actual_url: String,
    /// Status code of the protocol (HTTP status, FTP reply).
    pub status_code: u16,
    /// Whether it can continue from an offset: the server said so or proved it. `None` where it says nothing and may: held
    /// bytes that something can prove are kept for it, but parts are not asked for over several connections.
    pub resumable: Option<bool>,
    /// The validators can prove that a later response continues this one.
    pub provable: bool,
    /// The bytes continue held ones without proof, because [`Held::digest_expected`] allows it.
    pub on_trust: bool,
    /// Media type, as sent.
    pub content_type: Option<String>,
    /// Time of last modification by the server's clock.
    pub modified: Option<SystemTime>,
    /// Absolute URLs under which the server says that the same bytes are, best first; at most 8 (RFC 6249). To be trusted
    /// only under a digest.
    pub mirrors: Vec<String>,
    /// Header fields of the response as they were sent, in order, names in their own case. Those that may carry a secret,
    /// and those that are no text, are left out.
    pub headers: HeaderFields,
}

/// Where the bytes that follow belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing was held; they begin at 0.
    Beginning,
    /// They continue the held bytes at `offset_bytes`, under proof.
    Continue {
        /// First byte that follows; equal to [`Held::offset_bytes`].
        offset_bytes: u64,
    },
    /// They begin at 0 again; what was held is void.
    Restart(Restart),
}

/// Why held bytes were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restart {
    /// The validators say that the resource is another one now.
    Changed,
    /// The server answered with the whole resource although only a part was asked for.
    RangeIgnored,
    /// Nothing proves that the new bytes continue the old ones.
    NoProof,
    /// The server says that the held bytes reach beyond the resource (416).
    BeyondEnd,
    /// The method is another one than GET, whose answer never continues an earlier one.
    Method,
}

/// Takes the bytes. Its own errors stay with it: the backend hears only that it must stop.
pub trait Sink {
    /// Hears of an accepted response, before its first byte.
    ///
    /// # Errors
    /// [`Refused`] where the sink cannot take what follows; it knows why.
    fn begin(&mut self, head: &Head) -> Result<(), Refused>;

    /// Takes the next bytes.
    ///
    /// # Errors
    /// As [`Sink::begin`].
    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused>;
}

/// The sink takes no more; the caller of [`Backend::download`] asks the sink why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl std::fmt::Debug for Held {
    /// The tail by its length: it is content.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Held")
            .field("offset_bytes", &self.offset_bytes)
            .field("end_bytes", &self.end_bytes)
            .field("tail_bytes", &self.tail.len())
            .field("validators", &self.validators)
            .field("content_type", &self.content_type)
            .field("foreign", &self.foreign)
            .field("server", &self.server)
            .field("digest_expected", &self.digest_expected)
            .finish()
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Credential(***)")
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = if self.secret { "***" } else { &self.value };
        write!(formatter, "{}: {value}", self.name)
    }
}
