//! The template that downloads are created from.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use backhaul_backends::{Credential, Digest, Method, WebErrorStatus};

use super::operation::DownloadOperation;
use crate::address::{appended, check_header_name, credential_problem, parse_header_parts};
use crate::engine::{Body, Filter, GroupFilter, NewDownload, check_takes_body};
use crate::error::Error;
use crate::group::{BackgroundTransferCompletionGroup, BackgroundTransferGroup};
use crate::operation::{Collision, CostPolicy, Priority, RequestHeader};
use crate::service::Service;

/// Bytes of a user name and a password together (chosen: three times that fits a URL, which they travel in).
const CREDENTIAL_BYTES_MAX: usize = 4 * 1024;

/// A template for downloads, and the place to find those there are.
///
/// What is set on it counts for the downloads that are created from it afterwards; each one has a copy, and no later change
/// of the template touches it. Whatever is set is checked when a download is created, headers at once.
///
/// Stands for `BackgroundDownloader`. It differs in that priority, digests, mirrors, collision rule, expected length and type
/// and recoverable statuses are set here, before the download is there, and that a download may name a proxy of its own. Not
/// there at all: `RequestUnconstrainedDownloadsAsync`, as no download is constrained, and the toast and tile notifications.
///
/// ```no_run
/// use backhaul::{BackgroundDownloader, CostPolicy, Service};
///
/// # fn main() -> Result<(), backhaul::Error> {
/// let service = Service::open("/var/lib/backhaul")?;
/// let mut downloader = BackgroundDownloader::new(&service);
/// downloader.set_request_header("X-Device", "42")?.set_cost_policy(CostPolicy::UnrestrictedOnly);
/// let download = downloader.create_download("https://example.com/big.img", "/data/big.img")?;
/// download.start()?;
/// for progress in download.progress() {
///     println!("{} of {:?} bytes", progress.bytes_received, progress.total_bytes);
/// }
/// let done = download.wait()?;
/// println!("{}: {:?}", done.status, done.error);
/// for download in BackgroundDownloader::current_downloads(&service)? {
///     println!("{}", download.id());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BackgroundDownloader {
    service: Service,
    /// Everything but URL, destination, headers and credential.
    template: NewDownload,
    headers: Vec<TemplateHeader>,
    credential: Option<Credential>,
}

#[derive(Clone)]
struct TemplateHeader {
    header: RequestHeader,
    is_secret: bool,
}

impl fmt::Debug for BackgroundDownloader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|header| &*header.header.name).collect();
        formatter
            .debug_struct("BackgroundDownloader")
            .field("service", &self.service)
            .field("template", &self.template)
            .field("headers", &names)
            .field("credential", &self.credential.as_ref().map(|_| "***"))
            .finish()
    }
}

impl BackgroundDownloader {
    /// A template with nothing set. Its downloads belong to the app of the service.
    ///
    /// Stands for the constructor of `BackgroundDownloader`.
    #[must_use]
    pub fn new(service: &Service) -> Self {
        let template = NewDownload {
            hold: true,
            ..NewDownload::default()
        };
        Self {
            service: service.clone(),
            template,
            headers: Vec::new(),
            credential: None,
        }
    }

    /// A template whose downloads join a completion group. Once that is enabled nothing more is created from it: creation
    /// fails with [`Error::CompletionGroupNotNow`].
    ///
    /// Stands for the constructor of `BackgroundDownloader` with a completion group, and
    /// [`DownloadOperation::completion_group`] for `CompletionGroup`.
    #[must_use]
    pub fn with_completion_group(service: &Service, group: &BackgroundTransferCompletionGroup) -> Self {
        let mut downloader = Self::new(service);
        downloader.template.completion_group = Some(group.id());
        downloader
    }

    // ---- how it is asked for ----

    /// Puts a value behind what the header of this name has so far, with `, ` between; the first one is the value. Headers
    /// whose names tell of a secret (`Authorization`, `Cookie`) are kept sealed.
    ///
    /// Stands for `SetRequestHeader`, which concatenates, too. [`BackgroundDownloader::replace_request_header`] does not.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `header`: no header name, a line break in the value, longer than 8 KiB, or a header that the
    /// service sets itself. The template stays as it was.
    ///
    /// ```
    /// use backhaul::{BackgroundDownloader, Error, Service};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// let service = Service::open(directory.path())?;
    /// let mut downloader = BackgroundDownloader::new(&service);
    /// // Accept: text/plain, text/html
    /// downloader.set_request_header("Accept", "text/plain")?.set_request_header("accept", "text/html")?;
    /// let refused = downloader.set_request_header("X-Two", "lines\r\nX-Other: smuggled");
    /// assert!(matches!(refused, Err(Error::Invalid { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_request_header(&mut self, name: &str, value: &str) -> Result<&mut Self, Error> {
        self.append(name, value, false)
    }

    /// The same by a name that says what it does. It differs from nothing in `WinRT`, which has only the other name.
    ///
    /// # Errors
    /// As [`BackgroundDownloader::set_request_header`].
    pub fn append_request_header(&mut self, name: &str, value: &str) -> Result<&mut Self, Error> {
        self.append(name, value, false)
    }

    /// The same for a value that is kept sealed and never shown, whatever the name. With it all values of the header are.
    /// `WinRT` stores all of them in clear text.
    ///
    /// # Errors
    /// As [`BackgroundDownloader::set_request_header`].
    pub fn set_secret_request_header(&mut self, name: &str, value: &str) -> Result<&mut Self, Error> {
        self.append(name, value, true)
    }

    /// Puts a value in the place of all that the header of this name has. It is shown, also where the one before it was
    /// sealed, unless the name tells of a secret. `WinRT` has no such call.
    ///
    /// # Errors
    /// As [`BackgroundDownloader::set_request_header`].
    pub fn replace_request_header(&mut self, name: &str, value: &str) -> Result<&mut Self, Error> {
        parse_header_parts("header", name, value)?;
        self.remove_request_header(name)?.append(name, value, false)
    }

    /// Removes a header; one that is not there is no error. `WinRT` has no such call on templates.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `header` where it is no name of a header.
    pub fn remove_request_header(&mut self, name: &str) -> Result<&mut Self, Error> {
        check_header_name("header", name)?;
        self.headers.retain(|other| !other.header.is_named(name));
        Ok(self)
    }

    fn append(&mut self, name: &str, value: &str, is_secret: bool) -> Result<&mut Self, Error> {
        let (header, is_secret_by_name) = parse_header_parts("header", name, value)?;
        let is_secret = is_secret || is_secret_by_name;
        match self.headers.iter_mut().find(|other| other.header.is_named(name)) {
            Some(before) => {
                before.header = appended(&before.header, &header.value)?;
                before.is_secret |= is_secret;
            }
            None => self.headers.push(TemplateHeader { header, is_secret }),
        }
        Ok(self)
    }

    /// How it is asked for; GET by default. Only a GET goes on with the bytes it has: the answer to any other method is fetched
    /// from zero in each attempt, and the server may get the request more than once.
    ///
    /// Stands for `Method`. It differs in that a download by POST can be paused, and survives its process.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `method` where it is no name of one.
    pub fn set_method(&mut self, method: &str) -> Result<&mut Self, Error> {
        let parsed = method.parse::<Method>();
        self.template.method = parsed.map_err(|problem| Error::invalid("method", method, problem))?;
        Ok(self)
    }

    /// User and password for the server of the URL; kept sealed, and sent to its origin only. User info in a URL counts more.
    /// `None` for none, which is the default. Where the protocol of the URL cannot carry it, a creation is refused by the name
    /// `server_credential`.
    ///
    /// Stands for `ServerCredential`.
    pub fn set_server_credential(&mut self, credential: Option<(&str, &str)>) -> &mut Self {
        self.credential = credential.map(owned);
        self
    }

    /// User name and password for the proxy, whichever it is; kept sealed, and told to no server. `None` for none, which is
    /// the default. Those in the URL of [`BackgroundDownloader::set_proxy`] count more.
    ///
    /// Stands for `ProxyCredential`.
    pub fn set_proxy_credential(&mut self, credential: Option<(&str, &str)>) -> &mut Self {
        self.template.proxy_credential = credential.map(owned);
        self
    }

    /// The proxy that a download goes through, as [`NewDownload::proxy`] has it: `http://host:port`, `socks5://host:port`,
    /// `socks5h://host:port`, or `direct` for none. `None`, the default, for those of the engine, which are those of its
    /// configuration or environment.
    ///
    /// `WinRT` has none: its downloads go through the proxy of the system.
    pub fn set_proxy(&mut self, proxy: Option<&str>) -> &mut Self {
        self.template.proxy = proxy.map(str::to_owned);
        self
    }

    /// Other URLs of the same bytes, best first; at most 16. They are gone to where the URL fails. `WinRT` has none.
    pub fn set_mirrors<M: Into<String>>(&mut self, mirrors: impl IntoIterator<Item = M>) -> &mut Self {
        self.template.mirrors = mirrors.into_iter().map(Into::into).collect();
        self
    }

    // ---- what it may cost, and when it runs ----

    /// What a download may cost.
    ///
    /// Stands for `CostPolicy`. This version knows no metered networks: see [`CostPolicy`].
    pub fn set_cost_policy(&mut self, policy: CostPolicy) -> &mut Self {
        self.template.cost_policy = policy;
        self
    }

    /// The rank among those that wait.
    ///
    /// Stands for the property `Priority` of the operation, which `WinRT` lets be set only there.
    pub fn set_priority(&mut self, priority: Priority) -> &mut Self {
        self.template.priority = priority;
        self
    }

    /// The transfer group that downloads join.
    ///
    /// Stands for `TransferGroup`.
    pub fn set_transfer_group(&mut self, group: &BackgroundTransferGroup) -> &mut Self {
        self.set_group(Some(group.name()))
    }

    /// The same by its name; it is made, as a parallel one, where it is missing. `None` for no group, which is the default.
    ///
    /// Stands for the deprecated `Group`.
    pub fn set_group(&mut self, name: Option<&str>) -> &mut Self {
        self.template.group = name.map(Into::into);
        self
    }

    // ---- what must come ----

    /// Digests that the content must have, all of them; at most 4, and one of each algorithm. `WinRT` has none.
    pub fn set_digests(&mut self, digests: impl IntoIterator<Item = Digest>) -> &mut Self {
        self.template.digests = digests.into_iter().collect();
        self
    }

    /// The length that the content must have, in bytes, at most 2⁶³ − 1 (checked on creation). `WinRT` has none.
    pub fn set_expected_bytes(&mut self, bytes: Option<u64>) -> &mut Self {
        self.template.expected_bytes = bytes;
        self
    }

    /// The media type that the content must have where the server names one: `type/subtype` or `type/*`. `WinRT` has none.
    pub fn set_expected_type(&mut self, media_type: Option<&str>) -> &mut Self {
        self.template.expected_type = media_type.map(Into::into);
        self
    }

    /// What happens where the destination exists when the download is published; it fails by default. `WinRT` writes into a
    /// file that must exist.
    pub fn set_collision(&mut self, collision: Collision) -> &mut Self {
        self.template.collision = collision;
        self
    }

    /// Errors that the application can mend: one of them pauses the download, with all its bytes, where it would end it
    /// otherwise, until a change and [`DownloadOperation::resume`]. At most 64.
    ///
    /// Stands for `RecoverableWebErrorStatuses` of the operation. It differs in that it cannot be changed later.
    pub fn set_recoverable_web_error_statuses(
        &mut self,
        statuses: impl IntoIterator<Item = WebErrorStatus>,
    ) -> &mut Self {
        self.template.recoverable = statuses.into_iter().collect();
        self
    }

    /// Whether a download can be read anywhere while it runs, so that what is read is fetched first. The server has to announce
    /// the length, serve byte ranges, and show a strong validator, else the download fails with
    /// [`WebErrorStatus::MISSING_CONTENT_LENGTH_SUPPORT`] or [`WebErrorStatus::INSUFFICIENT_RANGE_SUPPORT`].
    ///
    /// Stands for `IsRandomAccessRequired` of the operation.
    pub fn set_random_access_required(&mut self, is_required: bool) -> &mut Self {
        self.template.random_access = is_required;
        self
    }

    // ---- creation ----

    /// Creates a download. It is durable on return, and stays [`Idle`](crate::TransferStatus::Idle) until
    /// [`DownloadOperation::start`].
    ///
    /// `path` is a path with a file name, or a directory with a `/` at its end, which takes the file name from the URL.
    ///
    /// Stands for `CreateDownload`. It differs in that the file must not exist, unless [`BackgroundDownloader::set_collision`]
    /// says otherwise, and that a second live download of one URL or to one destination is refused.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field; [`Error::Conflict`] with the id of the other download;
    /// [`Error::DestinationExists`]; otherwise as [`Service::create`].
    ///
    /// ```
    /// use backhaul::{BackgroundDownloader, Service, TransferStatus};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// let state = directory.path().join("state");
    /// let service = Service::open(&state)?;
    /// let downloader = BackgroundDownloader::new(&service);
    /// let download = downloader.create_download("https://example.com/big.img", directory.path().join("big.img"))?;
    /// assert_eq!(download.progress_snapshot()?.status, TransferStatus::Idle);
    /// let id = download.id();
    /// drop((download, downloader, service));
    ///
    /// let service = Service::open(&state)?; // another run of the program
    /// let found = BackgroundDownloader::current_downloads(&service)?;
    /// assert_eq!(found[0].id(), id);
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_download(&self, url: &str, path: impl AsRef<Path>) -> Result<DownloadOperation, Error> {
        self.create(&self.filled_in(url, path.as_ref())?)
    }

    /// The same with the content of a file as the body of the request; its media type is a header like any other. The file has
    /// to stay as it is until the download has ended: where it does not, the download fails.
    ///
    /// Stands for `CreateDownload` with a body file.
    ///
    /// # Errors
    /// As [`BackgroundDownloader::create_download`]; [`Error::Invalid`] naming `body` where the method is GET, which takes none,
    /// or where it is no regular file.
    pub fn create_download_with_body_file(
        &self,
        url: &str,
        path: impl AsRef<Path>,
        body: impl Into<PathBuf>,
    ) -> Result<DownloadOperation, Error> {
        self.create(&NewDownload {
            body: Some(Body::File(body.into())),
            ..self.filled_in(url, path.as_ref())?
        })
    }

    /// The same with all that a reader gives as the body, which is copied into the state directory before the call returns, so
    /// that the download outlives its reader; at most [`Config::body_bytes_max`](crate::Config::body_bytes_max) bytes. Nothing is
    /// read where the download would be refused anyway.
    ///
    /// Stands for `CreateDownloadAsync` with a body stream.
    ///
    /// # Errors
    /// As [`BackgroundDownloader::create_download_with_body_file`]; [`Error::LimitReached`] where there are more bytes;
    /// [`Error::Io`] where the reader fails.
    pub fn create_download_with_body(
        &self,
        url: &str,
        path: impl AsRef<Path>,
        mut body: impl Read,
    ) -> Result<DownloadOperation, Error> {
        let download = self.filled_in(url, path.as_ref())?;
        // A reader may be read once only.
        check_takes_body(&download.method, || "a reader".into())?;
        self.service.check(&download, false)?;
        let spooled = self.service.spool(&mut body, u64::MAX)?;
        self.create(&NewDownload {
            body: Some(Body::Spooled(spooled)),
            ..download
        })
    }

    fn create(&self, download: &NewDownload) -> Result<DownloadOperation, Error> {
        let ids = self.service.create(std::slice::from_ref(download));
        let ids = ids.map_err(|(_, error)| error)?;
        let id = ids.first().copied();
        let id = id.ok_or_else(|| Error::Service("the service has created nothing and told no error".into()))?;
        Ok(DownloadOperation::created(&self.service, id, download))
    }

    fn filled_in(&self, url: &str, path: &Path) -> Result<NewDownload, Error> {
        let text = |header: &TemplateHeader| format!("{}: {}", header.header.name, header.header.value);
        let (secret, plain): (Vec<_>, Vec<_>) = self.headers.iter().partition(|header| header.is_secret);
        let url = match &self.credential {
            Some(credential) => {
                check_credential(url, credential)?;
                with_credential(url, &credential.user, &credential.password)
            }
            None => url.to_owned(),
        };
        Ok(NewDownload {
            url,
            destination: path.to_path_buf(),
            headers: plain.into_iter().map(text).collect(),
            secret_headers: secret.into_iter().map(text).collect(),
            ..self.template.clone()
        })
    }

    // ---- enumeration ----

    /// The pending downloads of this app that are in no transfer group: those that have not ended, and those whose end nobody
    /// has [acknowledged](DownloadOperation::acknowledge). In the order of their creation.
    ///
    /// Stands for `GetCurrentDownloadsAsync`. It differs in that nothing has to be attached: each one runs whether or not
    /// anybody has a handle of it.
    ///
    /// # Errors
    /// [`Error::Disconnected`] where the engine has stopped.
    pub fn current_downloads(service: &Service) -> Result<Vec<DownloadOperation>, Error> {
        Self::pending(service, GroupFilter::Ungrouped)
    }

    /// The same of one transfer group.
    ///
    /// Stands for `GetCurrentDownloadsForTransferGroupAsync`.
    ///
    /// # Errors
    /// [`Error::Disconnected`] where the engine has stopped.
    pub fn current_downloads_for_group(
        service: &Service,
        group: &BackgroundTransferGroup,
    ) -> Result<Vec<DownloadOperation>, Error> {
        Self::pending(service, GroupFilter::Named(group.name().to_owned()))
    }

    /// The downloads of a completion group, but for those whose records were removed, in the order of their creation.
    ///
    /// Stands for `Downloads` of `BackgroundTransferCompletionGroupTriggerDetails`. It differs in that they are there for
    /// everybody, at any time.
    ///
    /// # Errors
    /// [`Error::UnknownCompletionGroup`].
    pub fn downloads_of_completion_group(
        service: &Service,
        group: &BackgroundTransferCompletionGroup,
    ) -> Result<Vec<DownloadOperation>, Error> {
        let mut found = Vec::new();
        for id in group.view()?.members {
            match DownloadOperation::find(service, id) {
                Ok(download) => found.push(download),
                // It was removed just now.
                Err(Error::UnknownId(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// All downloads of this app, whatever their group and whether or not their ends were acknowledged. In the order of their
    /// creation. `WinRT` has no such call.
    ///
    /// # Errors
    /// [`Error::Disconnected`] where the engine has stopped.
    pub fn all_downloads(service: &Service) -> Result<Vec<DownloadOperation>, Error> {
        Self::list(service, GroupFilter::Any, |_| true)
    }

    fn pending(service: &Service, group: GroupFilter) -> Result<Vec<DownloadOperation>, Error> {
        Self::list(service, group, |view| !view.acknowledged)
    }

    fn list(
        service: &Service,
        group: GroupFilter,
        is_wanted: impl Fn(&crate::OperationView) -> bool,
    ) -> Result<Vec<DownloadOperation>, Error> {
        let filter = Filter {
            app: Some(service.app().to_owned()),
            group,
        };
        let mut found = Vec::new();
        for view in service.list(&filter) {
            let view = view?;
            if is_wanted(&view) {
                found.push(DownloadOperation::of(service, &view));
            }
        }
        Ok(found)
    }
}

fn owned((user, password): (&str, &str)) -> Credential {
    Credential {
        user: user.to_owned(),
        password: password.to_owned(),
    }
}

/// What the server's protocol cannot carry is refused by the name under which it was given.
fn check_credential(url: &str, credential: &Credential) -> Result<(), Error> {
    let scheme = url
        .split_once("://")
        .map_or("", |(scheme, _)| scheme)
        .to_ascii_lowercase();
    let bytes = credential.user.len() + credential.password.len();
    let problem = match credential_problem(&scheme, credential) {
        _ if bytes > CREDENTIAL_BYTES_MAX => {
            format!("has {bytes} bytes; at most {CREDENTIAL_BYTES_MAX} are taken")
        }
        Some(problem) => problem.to_owned(),
        None => return Ok(()),
    };
    Err(Error::invalid("server_credential", "***", problem))
}

/// A URL with user info, unless it has some already. What is no URL stays as it is: it is refused as such.
fn with_credential(url: &str, user: &str, password: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if rest[..authority_end].contains('@') {
        return url.to_owned();
    }
    format!(
        "{scheme}://{}:{}@{rest}",
        percent_encoded(user),
        percent_encoded(password)
    )
}

/// Every byte but letters and digits as `%XX`, so that nothing of it means anything in a URL.
fn percent_encoded(text: &str) -> String {
    use fmt::Write as _;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        let written = if byte.is_ascii_alphanumeric() {
            encoded.write_char(char::from(byte))
        } else {
            write!(encoded, "%{byte:02X}")
        };
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    #[test]
    fn a_credential_comes_out_of_the_url_as_it_was_given() {
        for (user, password) in [("ann", "pass"), ("a@b/c", "%41?#é:\\"), ("", "x")] {
            let url = with_credential("https://host:8443/a%20b?q=1", user, password);
            let address = Address::parse(&url, &[("https", backhaul_backends::Capabilities::default())])
                .unwrap_or_else(|error| panic!("{error}"));
            let credential = address.credential.map(|one| (one.user, one.password));
            assert_eq!(credential, Some((user.to_owned(), password.to_owned())));
            assert_eq!(address.shown, "https://host:8443/a%20b?q=1");
        }
    }

    #[test]
    fn the_user_info_of_a_url_counts_more_than_the_template() {
        let url = "https://own:secret@host/a";
        assert_eq!(with_credential(url, "ann", "pass"), url);
        assert_eq!(with_credential("no url", "ann", "pass"), "no url");
        assert_eq!(with_credential("http://h/@", "a", "b"), "http://a:b@h/@");
    }
}
