//! HTTP and, with the feature `tls`, HTTPS, on ureq's protocol core with our own resolver, connector and transport.

mod attempt;
mod body;
mod buffers;
mod chunks;
mod connector;
mod digests;
mod exchange;
mod fields;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod idle;
mod links;
mod problem;
mod response;
#[cfg(feature = "tls")]
mod roots;
mod route;
mod source;
mod target;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod wire;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use ureq::Agent;
use ureq::config::Config;

use self::attempt::Attempt;
use self::body::Transfer;
use self::connector::{NoResolver, WireConnector};
use self::exchange::Errand;
use self::fields::Fields;
use self::response::{Accepted, Ask, Decision, Reply, Terms};
use self::route::Route;
use self::source::Source;
use self::target::Target;
use self::tls::TlsSetup;
use crate::problem::Problem;
use crate::{
    Backend, Capabilities, ConfigError, Credential, Failure, Head, Held, Interrupt, Method, Request, Restart, Sink,
    UrlForm, WebErrorStatus, proof,
};

/// Largest buffer of a body under TLS (with reads of 256 KiB, in a minimal program, 512 KiB took no less
/// CPU; not measured here).
const TLS_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// Redirects followed in one attempt.
///
/// Source: RFC 9110, section 15.4, leaves the number open; browsers allow 20, wget 20, curl's library 30.
const REDIRECTS_MAX: usize = 10;

/// Largest response head. It must fit the input buffers.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// How the backend reaches servers. Certificates mean something to https alone, so to builds with the feature `tls`.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// CA bundle in PEM form; where given, no other root counts. It must exist and hold a certificate.
    pub ca_bundle: Option<PathBuf>,
    /// Value of the environment's `SSL_CERT_FILE`.
    pub ssl_cert_file: Option<PathBuf>,
    /// Value of the environment's `SSL_CERT_DIR`: directories, with colons between them.
    pub ssl_cert_dir: Option<PathBuf>,
    /// What the backend calls itself.
    pub user_agent: String,
    /// Connections that are kept for another request, in all and for one origin; 64 by default (chosen without measurement;
    /// more than there mostly are workers). One under TLS takes about 32 KiB.
    pub idle_max: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            ca_bundle: None,
            ssl_cert_file: None,
            ssl_cert_dir: None,
            user_agent: concat!("backhaul/", env!("CARGO_PKG_VERSION")).to_owned(),
            idle_max: 64,
        }
    }
}

/// Fetches over HTTP/1.1. All attempts share one pool of connections.
#[derive(Debug)]
pub struct HttpBackend {
    agent: Agent,
    /// The root of the server whose URL was parsed last: those that come one after the other mostly are of one server.
    root: Mutex<Option<Target>>,
}

impl HttpBackend {
    /// Checks the configuration; certificates other than those of [`HttpConfig::ca_bundle`] are first looked for when
    /// an https URL is fetched.
    ///
    /// # Errors
    /// [`ConfigError`] names the field.
    pub fn new(config: HttpConfig) -> Result<Self, ConfigError> {
        let tls = TlsSetup::new(&config)?;
        if ureq::http::HeaderValue::from_str(&config.user_agent).is_err() {
            let reason = format!("{:?} has a character that a header cannot hold", config.user_agent);
            return Err(ConfigError {
                field: "user_agent",
                reason,
            });
        }
        Ok(Self::on(Agent::with_parts(
            settings(config.user_agent),
            WireConnector::new(tls, config.idle_max),
            NoResolver::new(),
        )))
    }

    fn on(agent: Agent) -> Self {
        Self {
            agent,
            root: Mutex::new(None),
        }
    }

    fn target(&self, url: &str) -> Result<(Target, Option<Credential>), Problem> {
        let root = || self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = root().as_ref().and_then(|root| root.below(url)) {
            return Ok((target, None));
        }
        let (target, credential) = Target::parse(url)?;
        *root() = Some(target.root());
        Ok((target, credential))
    }
}

/// How ureq is to behave: it follows nothing, decodes nothing and keeps nothing to itself.
fn settings(user_agent: String) -> Config {
    Config::builder()
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .accept_encoding("identity")
        .user_agent(user_agent)
        .max_response_header_size(HEAD_BYTES_MAX)
        .max_idle_connections(0)
        .max_idle_connections_per_host(0)
        // Which ones are sent is decided by the type of the method.
        .allow_non_standard_methods(true)
        .build()
}

impl Backend for HttpBackend {
    fn schemes(&self) -> Vec<&str> {
        tls::SCHEMES.to_vec()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            resume: true,
            ranges: true,
            methods: true,
            headers: true,
            proxies: true,
            urls: UrlForm::Host,
        }
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<(), Failure> {
        let attempt = Attempt::enter(interrupt, request.limits);
        let (target, credential) = self.target(&request.url).map_err(|problem| problem.at(""))?;
        let fields = Fields::check(&request.headers, request.credential.as_ref().or(credential.as_ref()))
            .map_err(|problem| problem.at(&target.place()))?;
        let mut download = Download {
            agent: &self.agent,
            attempt: &attempt,
            request,
            errand: Errand {
                method: request.method.clone(),
                body: request.body.as_deref(),
            },
            visited: Vec::new(),
            target,
            fields,
        };
        download
            .run(sink)
            .map_err(|problem| problem.at(&download.target.place()))
    }
}

/// One attempt under way.
struct Download<'a> {
    agent: &'a Agent,
    attempt: &'a Attempt,
    request: &'a Request,
    errand: Errand<'a>,
    target: Target,
    fields: Fields,
    /// Where it was asked before it was sent on, and whether with GET.
    visited: Vec<(Target, bool)>,
}

impl Download<'_> {
    fn run(&mut self, sink: &mut dyn Sink) -> Result<(), Problem> {
        let terms = Terms {
            held: self.request.held.as_ref(),
            expected_bytes: self.request.expected_bytes,
            is_elsewhere: false,
        };
        // Where it leads is not known yet, so by what the server of the held bytes could prove.
        let mut ask = if self.request.method.is_get() {
            response::ask(terms)
        } else {
            response::ask_without_range(terms)
        };
        // Ends: every turn follows one of a bounded number of redirects, asks for the rest, which happens a bounded number
        // of times, or asks for the whole, which happens once.
        loop {
            let (reply, body) = self.make(&ask)?;
            let elsewhere = self.held_elsewhere();
            let terms = Terms {
                held: elsewhere.as_ref().or(terms.held),
                is_elsewhere: elsewhere.is_some(),
                ..terms
            };
            let expected_type = self.request.expected_type.as_deref();
            if let Some(problem) = response::not_the_content(terms.held, expected_type, &reply) {
                exchange::drain(&reply, body);
                return Err(problem);
            }
            match response::decide(&ask, terms, &reply, SystemTime::now()) {
                Decision::Accept(mut accepted) => {
                    let mut source = Source::new(self.attempt, body, reply.framing);
                    if self.continues(&accepted, &mut source)? {
                        return self.receive(reply, &mut accepted, &mut source, sink);
                    }
                    ask = Ask::Whole {
                        given_up: Some(Restart::Changed),
                    };
                }
                Decision::AskWhole(reason) => {
                    exchange::drain(&reply, body);
                    ask = Ask::Whole { given_up: Some(reason) };
                }
                Decision::AskRest(rest) => {
                    exchange::drain(&reply, body);
                    ask = Ask::Rest(rest);
                }
                Decision::Redirect(location) => {
                    exchange::drain(&reply, body);
                    self.follow(reply.status, &location)?;
                }
                Decision::Fail(problem) => {
                    exchange::drain(&reply, body);
                    let problem = match self.attempt.route() {
                        None => problem,
                        Some(route) => route.note(problem),
                    };
                    let in_midst = terms.held.is_some_and(|held| held.offset_bytes > 0);
                    let is_redirected = !self.visited.is_empty();
                    return Err(if in_midst && is_redirected {
                        problem.at_redirected()
                    } else {
                        problem
                    });
                }
            }
        }
    }

    /// What is held, as of another source, where the redirects have led to another server than the one that gave it.
    fn held_elsewhere(&self) -> Option<Held> {
        let held = self.request.held.as_ref()?;
        let server = held.server.as_deref()?;
        (server != self.target.front()).then(|| Held {
            foreign: true,
            ..held.clone()
        })
    }

    /// Whether the body begins with the end of what is held, where it is to begin so.
    fn continues(&self, accepted: &Accepted, source: &mut Source<'_>) -> Result<bool, Problem> {
        let tail = self.request.held.as_ref().map_or(&[][..], |held| &held.tail);
        let tail = &tail[tail.len().saturating_sub(accepted.overlap_bytes)..];
        Ok(body::read_exact(self.attempt, source, tail.len())? == tail)
    }

    fn make(&self, ask: &Ask) -> Result<(Box<Reply>, ureq::Body), Problem> {
        let route = Route::of(&self.request.proxies, &self.target).map(Arc::new);
        self.attempt.take_route(route.clone());
        let (reply, body) = exchange::make(self.agent, self.attempt, &self.errand, &self.target, &self.fields, ask)?;
        match route.and_then(|route| route.problem(reply.status)) {
            None => Ok((reply, body)),
            Some(problem) => {
                exchange::drain(&reply, body);
                Err(problem)
            }
        }
    }

    /// RFC 9110, section 15.4: 307 and 308 keep the method and what is sent; after the others the answer is fetched.
    fn follow(&mut self, status: u16, location: &str) -> Result<(), Problem> {
        let next = self.target.join(location)?;
        self.visited.push((self.target.clone(), self.errand.method.is_get()));
        if !matches!(status, 307 | 308) && !self.errand.method.is_get() {
            self.errand = Errand {
                method: Method::GET,
                body: None,
            };
            self.fields.leave_body();
        }
        let is_get = self.errand.method.is_get();
        if self.visited.contains(&(next.clone(), is_get)) {
            let text = format!("redirected in a loop, back to {}", next.place());
            return Err(Problem::permanent(WebErrorStatus::REDIRECT_FAILED, text));
        }
        if self.visited.len() > REDIRECTS_MAX {
            let text = format!("redirected more than {REDIRECTS_MAX} times");
            return Err(Problem::permanent(WebErrorStatus::REDIRECT_FAILED, text));
        }
        if !next.has_origin_of(&self.target) {
            self.fields.leave_origin();
        }
        self.target = next;
        Ok(())
    }

    fn receive(
        &self,
        mut reply: Box<Reply>,
        accepted: &mut Accepted,
        source: &mut Source<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Problem> {
        let (framing, body) = (reply.framing, accepted.body);
        {
            // It may be long, and what follows takes its time.
            let head = self.head(&mut reply, accepted);
            sink.begin(&head).map_err(|_| Problem::refused())?;
        }
        let Some((length, then_more)) = body.terms() else {
            return Ok(());
        };
        let mut transfer = Transfer {
            attempt: self.attempt,
            sink,
            framing,
            length,
            then_more,
        };
        // Under TLS each read gives one record, so that more room saves only calls that write.
        let is_secure = self.target.server().0 == "https";
        let bytes_max = if is_secure { TLS_BUFFER_BYTES_MAX } else { usize::MAX };
        transfer.run(source, self.request.buffer_bytes.min(bytes_max))
    }

    /// What the Link field refers to, where it may be gone to from here: as for a redirect, never out of https.
    fn mirrors(&self, reply: &Reply) -> Vec<String> {
        if !self.request.method.is_get() {
            return Vec::new();
        }
        let joined = reply.mirrors.iter().filter_map(|link| self.target.join(link).ok());
        let elsewhere = joined.filter(|mirror| *mirror != self.target);
        elsewhere.map(|mirror| mirror.as_str().to_owned()).collect()
    }

    fn head(&self, reply: &mut Reply, accepted: &mut Accepted) -> Head {
        let is_get = self.request.method.is_get();
        let modified = accepted.validators.last_modified.as_deref().and_then(proof::date);
        Head {
            start: accepted.start.clone(),
            actual_url: self.target.without_secrets(),
            status_code: reply.status,
            resumable: if is_get { accepted.resumable } else { Some(false) },
            provable: is_get && proof::is_provable_at(&accepted.validators, modified),
            on_trust: accepted.on_trust,
            modified,
            mirrors: self.mirrors(reply),
            headers: self.attempt.take_shown(),
            validators: std::mem::take(&mut accepted.validators),
            content_type: reply.content_type.take(),
        }
    }
}
