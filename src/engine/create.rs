//! Creation: everything is checked first, then everything is durable before the first id is given out. `list` records it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, RandomState};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use backhaul_backends::{Capabilities, Credential, Digest, Method, Registry, WebErrorStatus};
use backhaul_journal::FileKind;

use super::Engine;
use super::access;
use super::backends::check_abilities;
use super::body::{Body, check_body};
use super::destination::{Destinations, refused};
use super::expected::{check_digests, check_recoverable, check_size};
use super::groups::{check_name, checked_group};
use super::places::check_mirrors;
use super::proxied::Asked;
use super::spool::SpooledBody;
use crate::address::{HEADERS_MAX, Neighbour, harmless, parse_header, parse_media_type};
use crate::config::Config;
use crate::environment::Environment;
use crate::error::Error;
use crate::hashed::Hashed;
use crate::operation::{
    Collision, CompletionGroupId, CostPolicy, Kind, Operation, Priority, RequestHeader, SPEC_BYTES_MAX, Shared, Spec,
    TransferId, stored_digests,
};
use crate::vault::Secrets;

/// A download to be created. `Debug` shows no value that may be secret.
#[derive(Clone, Default)]
pub struct NewDownload {
    /// What to fetch. User info becomes a sealed credential.
    pub url: String,
    /// How it is asked for; GET by default. Only a GET goes on with what it has: the answer to any other method is fetched
    /// from zero in each attempt, and the server may get the request more than once. One app may ask the same URL several
    /// times at once, but for GET.
    ///
    /// Source: `BackgroundDownloader.Method`.
    pub method: Method,
    /// What is sent along, whole in each attempt and after a redirect by 307 or 308, wherever that leads; not with GET. Its
    /// media type is a header like any other.
    pub body: Option<Body>,
    /// Where the file goes: a path with a file name, or a directory with a `/` at its end, which takes the file name
    /// from the URL.
    pub destination: PathBuf,
    /// Request headers, each as `Name: value`.
    pub headers: Vec<String>,
    /// Request headers whose values are sealed.
    pub secret_headers: Vec<String>,
    /// The SHA-256 that the content must have; the same as one of `digests`.
    pub sha256: Option<[u8; 32]>,
    /// Digests that the content must have, all of them; at most 4, and one of each algorithm.
    pub digests: Vec<Digest>,
    /// Other URLs of the same bytes, best first; at most 16. They are gone to where the URL fails, without credentials and
    /// secret headers unless they are of its origin.
    pub mirrors: Vec<String>,
    /// The length that the content must have, in bytes; no file has more than 2⁶³ − 1.
    pub expected_bytes: Option<u64>,
    /// The media type that the content must have where the server names one: `type/subtype` or `type/*`, without
    /// parameters (RFC 9110, section 8.3.1). A web page in its place counts as that of a network that wants a login, and
    /// is tried again; another type ends the operation.
    pub expected_type: Option<String>,
    /// Errors that the owner can mend: one of them stops the operation, with all its bytes, where it would end it
    /// otherwise, until [`Engine::set`] and [`Engine::resume`]. At most 64, each one with [`WebErrorStatus::is_mendable`].
    /// None by default, as with `RecoverableWebErrorStatuses`.
    pub recoverable: Vec<WebErrorStatus>,
    /// What happens where the destination exists.
    pub collision: Collision,
    /// Its rank among those that wait.
    pub priority: Priority,
    /// What it may cost.
    pub cost_policy: CostPolicy,
    /// The application it belongs to: up to 128 bytes without control characters.
    pub app: String,
    /// Name of its transfer group, 1 to 128 bytes without control characters. One that is not there is made, as a parallel
    /// one, together with the operation. Without one it is in none.
    pub group: Option<String>,
    /// The completion group it joins, one of its app that is not enabled yet.
    pub completion_group: Option<CompletionGroupId>,
    /// It stays idle until [`Engine::start`].
    pub hold: bool,
    /// [`Engine::read_at`] steers it: a read where nothing is yet has that fetched first, and the rest afterwards. Cannot be
    /// changed later. The server has to do more for it, at every attempt: it must announce the length, else the operation
    /// fails with [`WebErrorStatus::MISSING_CONTENT_LENGTH_SUPPORT`]; and it must say that it serves byte ranges and show a
    /// strong validator (an entity tag, or a Last-Modified at least a second older than the response; a strong digest that
    /// is asked for here is as good), else with [`WebErrorStatus::INSUFFICIENT_RANGE_SUPPORT`]. Where it fails so, no byte
    /// of that response is kept. For GET alone. `false` by default, as `IsRandomAccessRequired`.
    pub random_access: bool,
    /// The proxy it goes through, its mirrors and redirects too: `http://[USER[:PASSWORD]@]HOST[:PORT]`, the same with
    /// `socks5://` (the name of the server is looked up here) or `socks5h://` (by the proxy), or `HOST:PORT`, which is an HTTP
    /// proxy; at most 2048 bytes; `direct` for no proxy; `default`, like `None`, for the [`Config::proxies`] of the engine.
    /// User name and password in it are percent-encoded, and become the sealed `proxy_credential`. Refused where a URL is of
    /// a protocol that is not led through proxies.
    pub proxy: Option<String>,
    /// User name and password for the proxy, whichever it is, up to 255 bytes each; kept sealed, and told to no server.
    ///
    /// Source: `BackgroundDownloader.ProxyCredential`.
    pub proxy_credential: Option<Credential>,
}

impl fmt::Debug for NewDownload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mirrors: Vec<_> = self.mirrors.iter().map(|mirror| harmless(mirror)).collect();
        formatter
            .debug_struct("NewDownload")
            .field("url", &harmless(&self.url))
            .field("method", &self.method)
            .field("body", &self.body)
            .field("destination", &self.destination)
            .field("headers", &self.headers.len())
            .field("secret_headers", &self.secret_headers.len())
            .field("sha256", &self.sha256)
            .field("digests", &self.digests)
            .field("mirrors", &mirrors)
            .field("expected_bytes", &self.expected_bytes)
            .field("expected_type", &self.expected_type)
            .field("recoverable", &self.recoverable)
            .field("collision", &self.collision)
            .field("priority", &self.priority)
            .field("cost_policy", &self.cost_policy)
            .field("app", &self.app)
            .field("group", &self.group)
            .field("completion_group", &self.completion_group)
            .field("hold", &self.hold)
            .field("random_access", &self.random_access)
            .field("proxy", &self.proxy.as_deref().map(harmless))
            .field("proxy_credential", &self.proxy_credential)
            .finish()
    }
}

/// A download that passed all checks that need no engine, with the id it will have.
#[derive(Debug)]
pub struct CheckedDownload {
    pub(super) id: TransferId,
    pub(super) spec: Shared<Spec>,
    pub(super) secrets: Secrets,
    /// The copy that is sent along.
    pub(super) spooled: Option<SpooledBody>,
    pub(super) hold: bool,
    /// Nothing stood under its destination when that was looked at.
    is_free: bool,
}

/// Checks downloads as far as it can be done without an engine: nothing is written, no lock is taken. What the backend of a
/// URL cannot do is not taken either.
///
/// # Errors
/// The position of the first one that is refused, and why: [`Error::Invalid`] naming the field, or
/// [`Error::LimitReached`].
pub fn check_downloads(
    downloads: &[NewDownload],
    config: &Config,
    environment: &Environment,
    backends: &Registry,
) -> Result<Vec<CheckedDownload>, (usize, Error)> {
    Checks::new(config, environment, backends, downloads.len()).check(downloads)
}

/// The checks of a list that comes part by part.
pub(crate) struct Checks<'a> {
    checker: Checker<'a>,
    distinct: Distinct,
}

impl<'a> Checks<'a> {
    /// `count` downloads are to come.
    pub(crate) fn new(config: &'a Config, environment: &'a Environment, backends: &'a Registry, count: usize) -> Self {
        Self {
            checker: Checker {
                environment,
                served: backends.served(),
                neighbour: Neighbour::default(),
                destinations: Destinations::new(config, environment),
                owner_uid: rustix::process::getuid().as_raw(),
                drawn: Vec::new(),
                left: count,
            },
            distinct: Distinct::default(),
        }
    }

    /// Checks the next ones of the list.
    ///
    /// # Errors
    /// As [`check_downloads`]; the position is that among these.
    pub(crate) fn check(&mut self, downloads: &[NewDownload]) -> Result<Vec<CheckedDownload>, (usize, Error)> {
        let Self { checker, distinct } = self;
        distinct.check_all(downloads.iter().map(|download| checker.check(download, false)))
    }

    /// The same for those at some positions of a series.
    pub(crate) fn check_some(
        &mut self,
        series: &mut Series<'_>,
        range: Range<usize>,
    ) -> Result<Vec<CheckedDownload>, (usize, Error)> {
        let Self { checker, distinct } = self;
        let are_free = series.are_free;
        distinct.check_all(range.map(|index| checker.check(series.at(index), are_free)))
    }
}

/// Downloads that have almost everything in common: one of them is there at a time.
pub(crate) struct Series<'a> {
    one: NewDownload,
    set: &'a dyn Fn(usize, &mut NewDownload),
    /// What is done to each after that.
    and_then: Option<&'a dyn Fn(&mut NewDownload)>,
    /// A moment ago nothing stood under any destination that must be free.
    are_free: bool,
}

impl<'a> Series<'a> {
    /// What `set` makes of `common`, which it is given as it has left it, is the download of that position.
    pub(crate) fn new(common: NewDownload, set: &'a dyn Fn(usize, &mut NewDownload)) -> Self {
        Self {
            one: common,
            set,
            and_then: None,
            are_free: false,
        }
    }

    /// The same, with one more thing done to each.
    pub(crate) fn and_then(self, and_then: &'a dyn Fn(&mut NewDownload)) -> Self {
        let and_then = Some(and_then);
        Self { and_then, ..self }
    }

    /// The same where all of them passed [`check_free`] a moment ago: destinations that must be free are not looked at again.
    pub(crate) fn with_free(self, are_free: bool) -> Self {
        Self { are_free, ..self }
    }

    /// The download at a position.
    pub(crate) fn at(&mut self, index: usize) -> &NewDownload {
        (self.set)(index, &mut self.one);
        if let Some(and_then) = self.and_then {
            and_then(&mut self.one);
        }
        &self.one
    }
}

impl CheckedDownload {
    /// The id that it will have.
    pub(crate) fn id(&self) -> TransferId {
        self.id
    }
}

impl Engine {
    /// Creates downloads. All of them are checked first: where one is refused, none is created. They are durable on
    /// return.
    ///
    /// # Errors
    /// The position of the first one that is refused, and why: as [`check_downloads`] and [`Engine::accept`].
    pub fn create(&self, downloads: &[NewDownload]) -> Result<Vec<TransferId>, (usize, Error)> {
        let checked = self.checks(downloads.len()).check(downloads)?;
        self.accept(checked)
    }

    /// The checks of so many downloads against the settings of this engine; they change nothing.
    pub(crate) fn checks(&self, count: usize) -> Checks<'_> {
        let core = &self.core;
        Checks::new(&core.config, &core.environment, &core.backends, count)
    }

    /// One live operation has a destination, and one of each app a URL. URLs whose hidden values differ are different.
    pub(super) fn check_exclusive(&self, checked: &CheckedDownload) -> Result<(), Error> {
        let spec = &checked.spec;
        let for_destination = {
            let state = self.core.state();
            state.table.live_for_destination(&spec.destination).map(Cow::into_owned)
        };
        if let Some(other) = for_destination {
            let shown = spec.destination.display().to_string();
            return Err(conflict("destination", shown, &other));
        }
        self.check_url_free(checked.id, spec, &checked.secrets)
    }

    /// No other live operation of the same app has the URL. Nobody minds the same request twice but a GET, of which one
    /// answer is enough.
    pub(super) fn check_url_free(&self, id: TransferId, spec: &Spec, secrets: &Secrets) -> Result<(), Error> {
        if !spec.method.is_get() {
            return Ok(());
        }
        let state = self.core.state();
        let others = state.table.live_for_url(&spec.app, &spec.url);
        let is_other = |other: &Cow<'_, Operation>| other.id != id && other.spec.method.is_get();
        let others: Vec<Operation> = others.filter(is_other).map(Cow::into_owned).collect();
        drop(state);
        let same = others.iter().find(|other| self.has_url(other, secrets.url.as_deref()));
        same.map_or(Ok(()), |other| Err(conflict("url", spec.url.clone(), other)))
    }

    pub(super) fn check_limit(&self, more: usize) -> Result<(), Error> {
        let max = self.core.config.operations_max;
        if self.core.state().table.len().saturating_add(more) > max {
            let limit = match self.core.config.memory_limit {
                None => "operations (remove those that have ended)",
                Some(_) => "operations within the memory limit (remove those that have ended, or raise memory-limit)",
            };
            return Err(Error::limit(limit, max as u64));
        }
        Ok(())
    }

    /// One app must not take the place of all others.
    pub(super) fn check_app_limits(&self, checked: &[CheckedDownload]) -> Result<(), (usize, Error)> {
        let max = self.core.config.operations_per_app_max;
        let mut more: HashMap<&str, usize> = HashMap::new();
        let state = self.core.state();
        for (index, one) in checked.iter().enumerate() {
            let app = one.spec.app.as_str();
            let count = more.entry(app).or_insert_with(|| state.table.count_of_app(app));
            *count += 1;
            if *count > max {
                let limit = "operations of one app (remove those that have ended)";
                return Err((index, Error::limit(limit, max as u64)));
            }
        }
        Ok(())
    }
}

/// Checks one download after another; most of a list has its host and its directory in common, which are looked at once.
struct Checker<'a> {
    environment: &'a Environment,
    /// The schemes there are, each with what its backend can do.
    served: Vec<(&'a str, Capabilities)>,
    /// The last URL.
    neighbour: Neighbour,
    destinations: Destinations<'a>,
    owner_uid: u32,
    /// Ids drawn at once for all that are still to be checked, and how many those are.
    drawn: Vec<u8>,
    left: usize,
}

/// Ids drawn at once, at most.
const DRAWN_MAX: usize = 64;

impl Checker<'_> {
    fn check(&mut self, download: &NewDownload, is_free: bool) -> Result<CheckedDownload, Error> {
        if !download.app.is_empty() {
            check_name("app", &download.app)?;
        }
        let address = self.neighbour.parse(&download.url, &self.served)?;
        let destination = self.destinations.find(&download.destination, &address)?;
        let is_known_free = destination.is_free || is_free && download.collision == Collision::Fail;
        let destination = destination.path;
        let is_free = is_known_free || check_kind(self.environment, &destination)?;
        let (headers, secret_headers) = check_headers(&download.headers, &download.secret_headers)?;
        let expected_type = download.expected_type.as_deref().map(parse_media_type).transpose()?;
        let (sha256, digests) = check_digests(download)?;
        let (mirrors, sealed_mirrors) = check_mirrors(download, &self.served, &address)?;
        access::check_method(download)?;
        let body = check_body(self.environment, &download.method, download.body.as_ref())?;
        let proxy = Asked::check(download.proxy.as_deref(), download.proxy_credential.as_ref())?;
        let secrets = Secrets::new(address.secret_url, address.credential, secret_headers);
        let mut secrets = secrets.with_proxy(proxy.credential);
        secrets.mirrors = sealed_mirrors;
        let spec = Spec {
            kind: Kind::Download,
            url: address.shown,
            destination,
            app: download.app.clone(),
            owner_uid: self.owner_uid,
            group: checked_group(download.group.as_deref())?,
            headers,
            has_secrets: !secrets.is_empty(),
            sha256,
            expected_bytes: check_size(download.expected_bytes)?,
            collision: download.collision,
            priority: download.priority,
            cost_policy: download.cost_policy,
            expected_type,
            recoverable: check_recoverable(&download.recoverable)?,
            digests: stored_digests(&digests),
            mirrors,
            random_access: download.random_access,
            proxy: proxy.shown,
            method: download.method.clone(),
            body,
            completion_group: download.completion_group,
        };
        check_abilities(&spec, &secrets, &self.served)?;
        check_spec_bytes(&spec)?;
        Ok(CheckedDownload {
            id: self.draw_id(),
            spec: Shared::new(spec),
            secrets,
            spooled: match &download.body {
                Some(Body::Spooled(spooled)) => Some(spooled.clone()),
                _ => None,
            },
            hold: download.hold,
            is_free,
        })
    }

    fn draw_id(&mut self) -> TransferId {
        const ID_BYTES: usize = 16;
        if self.drawn.is_empty() {
            self.drawn = vec![0; ID_BYTES * self.left.clamp(1, DRAWN_MAX)];
            self.environment.random.fill(&mut self.drawn);
        }
        self.left = self.left.saturating_sub(1);
        let mut id = [0; ID_BYTES];
        let rest = self.drawn.len().saturating_sub(ID_BYTES);
        id.copy_from_slice(&self.drawn[rest..]);
        self.drawn.truncate(rest);
        TransferId(id)
    }
}

fn conflict(field: &'static str, value: String, operation: &Operation) -> Error {
    Error::Conflict {
        field: field.into(),
        value,
        id: operation.id,
        status: operation.status(),
    }
}

/// What stands under the destination already is a regular file, or `true` where nothing does.
fn check_kind(environment: &Environment, path: &Path) -> Result<bool, Error> {
    match environment.storage.stat(path).map(|stat| stat.kind) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(refused(path, format!("cannot be looked at: {error}"))),
        Ok(FileKind::Directory) => Err(refused(path, "is a directory; give a file name, or end it with '/'")),
        Ok(FileKind::Symlink) => Err(refused(path, "is a symlink; give the file it points to")),
        Ok(FileKind::Other) => Err(refused(path, "is no regular file")),
        Ok(FileKind::File) => Ok(false),
    }
}

/// Checks that no destination exists that must not be replaced. Where nothing was there at the checks of a moment ago it is not
/// looked at again: what comes up later is found when the file is given its name, and not replaced either.
///
/// # Errors
/// The position of the first one that does: [`Error::DestinationExists`]; or that cannot be looked at.
pub fn check_free(checked: &[CheckedDownload], environment: &Environment) -> Result<(), (usize, Error)> {
    let kept = checked.iter().enumerate();
    for (index, one) in kept.filter(|(_, one)| one.spec.collision == Collision::Fail && !one.is_free) {
        let path = &one.spec.destination;
        match environment.storage.stat(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err((index, refused(path, format!("cannot be looked at: {error}")))),
            Ok(_) => return Err((index, Error::DestinationExists(path.clone()))),
        }
    }
    Ok(())
}

/// Within one list, too, each destination and each URL of an app may appear only once. They are told apart by 64 bits of
/// hashes whose keys are drawn anew each time, so that a list is not held for that: of a million lists with 100,000 lines,
/// less than one in a thousand is refused for nothing, and not again.
#[derive(Default)]
struct Distinct {
    keys: RandomState,
    destinations: HashSet<u64, BuildHasherDefault<Hashed>>,
    urls: HashSet<u64, BuildHasherDefault<Hashed>>,
}

impl Distinct {
    fn check_all(
        &mut self,
        each: impl ExactSizeIterator<Item = Result<CheckedDownload, Error>>,
    ) -> Result<Vec<CheckedDownload>, (usize, Error)> {
        let mut checked = Vec::with_capacity(each.len());
        for (index, one) in each.enumerate() {
            checked.push(one.map_err(|error| (index, error))?);
        }
        self.check(&checked)?;
        Ok(checked)
    }

    fn check(&mut self, checked: &[CheckedDownload]) -> Result<(), (usize, Error)> {
        for (index, one) in checked.iter().enumerate() {
            let spec = &one.spec;
            let problem = "appears twice; one operation at a time has it";
            // By its bytes: a path is hashed part by part.
            let destination = self.keys.hash_one(spec.destination.as_os_str());
            if !self.destinations.insert(destination) {
                let shown = spec.destination.display().to_string();
                return Err((index, Error::invalid("destination", shown, problem)));
            }
            let url = self.keys.hash_one((&spec.app, &spec.url, &one.secrets.url));
            if spec.method.is_get() && !self.urls.insert(url) {
                return Err((index, Error::invalid("url", &*spec.url, problem)));
            }
        }
        Ok(())
    }
}

/// Refuses what would not fit a record of the journal, together with all that comes to be known of the operation.
pub(super) fn check_spec_bytes(spec: &Spec) -> Result<(), Error> {
    let texts_bytes = spec.url.len() + spec.destination.as_os_str().len() + spec.app.len();
    let is_long = spec.body.is_some() || !spec.headers.is_empty() || !spec.mirrors.is_empty();
    // Whatever else there is takes less than half of the room, all together.
    let may_be_too_long = is_long || texts_bytes > SPEC_BYTES_MAX / 2;
    if may_be_too_long && spec.encoded_bytes() > SPEC_BYTES_MAX {
        return Err(Error::limit(
            "bytes of the url, mirrors, headers and destination of one operation, all together",
            SPEC_BYTES_MAX as u64,
        ));
    }
    Ok(())
}

/// Refuses more headers than an operation may have.
pub(super) fn check_header_count(count: usize) -> Result<(), Error> {
    if count > HEADERS_MAX {
        return Err(Error::limit("headers of one operation", HEADERS_MAX as u64));
    }
    Ok(())
}

/// Plain headers and secret ones.
pub(super) fn check_headers(
    plain_texts: &[String],
    secret_texts: &[String],
) -> Result<(Vec<RequestHeader>, Vec<RequestHeader>), Error> {
    check_header_count(plain_texts.len() + secret_texts.len())?;
    let (mut plain, mut secret) = (Vec::new(), Vec::new());
    for text in plain_texts {
        let (header, is_secret) = parse_header("header", text)?;
        if is_secret {
            secret.push(header);
        } else {
            plain.push(header);
        }
    }
    for text in secret_texts {
        secret.push(parse_header("secret-header", text)?.0);
    }
    let mut hosts = plain.iter().chain(&secret).filter(|header| header.is_named("host"));
    if let (Some(_), Some(host)) = (hosts.next(), hosts.next()) {
        let problem = "is given twice; a request names one host (RFC 9112, section 3.2)";
        return Err(Error::invalid("header", &*host.name, problem));
    }
    Ok((plain, secret))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::sync::Arc;

    use backhaul_backends::MemoryBackend;
    use backhaul_journal::simulation::SimDisk;

    use super::*;
    use crate::environment::FixedEnvironment;

    #[test]
    fn what_no_record_would_hold_is_refused_whatever_makes_it_long() {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        let environment = FixedEnvironment::new(1).on(disk.storage());
        let (config, backends) = (
            Config::default(),
            Registry::new(vec![Arc::new(MemoryBackend::new()) as _]),
        );
        let check = |download: NewDownload| {
            let checked = check_downloads(&[download], &config, &environment, &backends);
            checked.map(|checked| checked[0].spec.encoded_bytes())
        };
        let text = |len: usize| "a".repeat(len);
        let of = |url: usize, app: usize, header: usize, mirror: usize| NewDownload {
            url: format!("mem://host/{}", text(url)),
            destination: "/data/a".into(),
            app: text(app),
            headers: (0..2).map(|number| format!("X-{number}: {}", text(header))).collect(),
            mirrors: (0..2)
                .map(|number| format!("mem://host/{number}{}", text(mirror)))
                .collect(),
            ..NewDownload::default()
        };
        for (url, app, header, mirror) in [
            (16_300, 128, 700, 9),
            (1, 1, 8_150, 900),
            (1, 1, 1, 9_000),
            (9_000, 1, 1, 4_500),
            (16_300, 1, 1, 900),
        ] {
            let refused = check(of(url, app, header, mirror));
            assert!(matches!(refused, Err((0, Error::LimitReached { .. }))), "{refused:?}");
            let taken = check(of(url / 2, app, header / 2, mirror / 2)).unwrap();
            assert!(taken <= SPEC_BYTES_MAX);
        }
        let longest = NewDownload {
            headers: Vec::new(),
            mirrors: Vec::new(),
            ..of(16_300, 128, 0, 0)
        };
        assert!(check(longest).unwrap() <= SPEC_BYTES_MAX);
    }
}
