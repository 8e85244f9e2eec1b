//! FTP, and with the feature `ftps` FTP under TLS, on libcurl. The connections are opened here.

mod conversation;
mod decide;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod intake;
mod problem;
#[cfg(feature = "ftps")]
mod protection;
mod replies;
mod round;
mod sockets;
mod target;

use std::path::PathBuf;

use self::round::{Question, Task};
#[cfg(feature = "ftps")]
use self::target::Protection;
use self::target::{SCHEMES, Target};
use crate::problem::Problem;
use crate::{
    Backend, Capabilities, ConfigError, Credential, Failure, Interrupt, Request, Sink, UrlForm, WebErrorStatus,
};

/// Transfers of libcurl in one attempt: the rest, the same with MLST, and the whole.
const ROUNDS_MAX: usize = 4;

/// How the backend reaches servers.
#[derive(Clone, Debug, Default)]
pub struct FtpConfig {
    /// The server opens the data connections, to a port of this device (PORT, EPRT), and not this device (PASV, EPSV).
    /// It does not work through most firewalls, and never through a proxy.
    ///
    /// Source: RFC 959, section 3.3; RFC 2428.
    pub active: bool,
    /// CA bundle in PEM form for `ftps` and `ftpes`; where given, no other root counts. It must exist and hold a certificate.
    pub ca_bundle: Option<PathBuf>,
    /// Value of the environment's `SSL_CERT_FILE`.
    pub ssl_cert_file: Option<PathBuf>,
    /// Value of the environment's `SSL_CERT_DIR`: directories, with colons between them.
    pub ssl_cert_dir: Option<PathBuf>,
}

/// Fetches over FTP. Each attempt logs in anew.
#[derive(Debug)]
pub struct FtpBackend {
    config: FtpConfig,
    #[cfg(feature = "ftps")]
    roots: protection::Roots,
}

impl FtpBackend {
    /// Checks the configuration; certificates other than those of [`FtpConfig::ca_bundle`] are first looked for when a URL
    /// is fetched that needs them.
    ///
    /// # Errors
    /// [`ConfigError`] names the field.
    pub fn new(config: FtpConfig) -> Result<Self, ConfigError> {
        #[cfg(feature = "ftps")]
        if let Some(bundle) = &config.ca_bundle {
            protection::check_bundle(bundle).map_err(|reason| ConfigError {
                field: "ca_bundle",
                reason,
            })?;
        }
        Ok(Self {
            #[cfg(feature = "ftps")]
            roots: protection::Roots::new(crate::roots::Sources {
                bundle: config.ca_bundle.clone(),
                environment_file: config.ssl_cert_file.clone(),
                environment_directory: config.ssl_cert_dir.clone(),
            }),
            config,
        })
    }

    #[cfg(feature = "ftps")]
    fn roots(&self, protection: Protection) -> Result<Option<&[u8]>, Problem> {
        if protection == Protection::None {
            return Ok(None);
        }
        let pem = self.roots.pem();
        pem.map(Some)
            .map_err(|text| Problem::permanent(WebErrorStatus::UNEXPECTED_CLIENT_ERROR, text))
    }

    fn fetch(
        &self,
        target: &Target,
        in_url: Option<Credential>,
        request: &Request,
        sink: &mut dyn Sink,
        interrupt: &Interrupt,
    ) -> Result<(), Problem> {
        if !request.method.is_get() || request.body.is_some() {
            let text = "FTP knows no methods: only GET, and nothing to send along";
            return Err(Problem::permanent(WebErrorStatus::METHOD_NOT_ALLOWED, text));
        }
        let given = request.credential.clone().or(in_url);
        let is_given = given.is_some();
        let credential = checked(given)?;
        let secrets = [credential.user.as_str(), credential.password.as_str()];
        let task = Task {
            request,
            target,
            credential: &credential,
            secrets: if is_given { &secrets } else { &[] },
            interrupt,
            active: self.config.active,
            #[cfg(feature = "ftps")]
            roots: self.roots(target.protection)?,
            #[cfg(not(feature = "ftps"))]
            roots: None,
        };
        let mut question = Question {
            ask: decide::ask(request.held.as_ref()),
            with_facts: false,
        };
        for _ in 0..ROUNDS_MAX {
            match round::run(&task, question, sink)? {
                Some(other) => question = other,
                None => return Ok(()),
            }
        }
        Err(Problem::bad_reply("another answer each time it was asked"))
    }
}

/// Who logs in. Commands end with the line, so that nobody can be named who has one in his name.
///
/// Source: RFC 1635 for `anonymous`.
fn checked(credential: Option<Credential>) -> Result<Credential, Problem> {
    let Some(credential) = credential else {
        return Ok(Credential {
            user: "anonymous".to_owned(),
            password: "anonymous@".to_owned(),
        });
    };
    for (name, text) in [("user name", &credential.user), ("password", &credential.password)] {
        if text.chars().any(|character| matches!(character, '\r' | '\n' | '\0')) {
            let text = format!("the {name} holds an end of line or a zero byte, which no command can carry");
            return Err(Problem::permanent(WebErrorStatus::UNAUTHORIZED, text));
        }
    }
    Ok(credential)
}

impl Backend for FtpBackend {
    fn schemes(&self) -> Vec<&str> {
        SCHEMES.iter().map(|(scheme, ..)| *scheme).collect()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            resume: true,
            ranges: false,
            methods: false,
            headers: false,
            proxies: true,
            urls: UrlForm::Host,
        }
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<(), Failure> {
        let (target, in_url) = Target::parse(&request.url).map_err(|problem| problem.at(""))?;
        self.fetch(&target, in_url, request, sink, interrupt)
            .map_err(|problem| problem.at(target.place()))
    }
}
