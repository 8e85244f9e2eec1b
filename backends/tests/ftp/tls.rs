//! FTP under TLS: what is protected, and which certificates are accepted.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use backhaul_backends::{Backend, Failure, FailureKind, FtpBackend, FtpConfig, Interrupt, Start, WebErrorStatus};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

use crate::kit::{CUT, Kept, attempt_with, content, impatient, is_transient, request, resume};
use crate::server::{Data, Fault, File, Protection, Script, Server, Wire};

const LOCAL: &[&str] = &["localhost", "127.0.0.1"];
const VALID: (i32, i32) = (2000, 2100);
const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// A certificate authority with its bundle in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// Kinds of the handshakes so far, in order.
type Handshakes = Arc<Mutex<Vec<HandshakeKind>>>;

struct Secure {
    stream: StreamOwned<ServerConnection, TcpStream>,
    handshakes: Handshakes,
    is_noted: bool,
}

impl Secure {
    fn note(&mut self) {
        if let Some(kind) = self.stream.conn.handshake_kind().filter(|_| !self.is_noted) {
            self.is_noted = true;
            self.handshakes.lock().expect("nobody panicked").push(kind);
        }
    }
}

impl Read for Secure {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Secure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stream.write(bytes)?;
        self.note();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Wire for Secure {
    fn finish(&mut self) -> io::Result<()> {
        self.stream.flush()?;
        self.stream.conn.send_close_notify();
        self.stream.flush()
    }
}

impl Authority {
    fn new() -> Self {
        Self::named("ours")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    fn bundle(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A server with a certificate of this authority, valid from one year to another.
    fn server(
        &self,
        scheme: &str,
        names: &[&str],
        years: (i32, i32),
        versions: &[&'static SupportedProtocolVersion],
    ) -> (Server, Handshakes) {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            );
        let config = Arc::new(config.unwrap());
        let handshakes = Handshakes::default();
        let noted = Arc::clone(&handshakes);
        let protect = Arc::new(move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            let wire: Box<dyn Wire> = Box::new(Secure {
                stream: StreamOwned::new(connection, stream),
                handshakes: Arc::clone(&noted),
                is_noted: false,
            });
            Ok(wire)
        });
        let protection = if scheme == "ftps" {
            Protection::Always(protect)
        } else {
            Protection::OnDemand(protect)
        };
        (
            Server::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), protection),
            handshakes,
        )
    }

    fn backend(&self) -> FtpBackend {
        trusting(Some(self.bundle()))
    }
}

fn trusting(ca_bundle: Option<PathBuf>) -> FtpBackend {
    FtpBackend::new(FtpConfig {
        ca_bundle,
        ..FtpConfig::default()
    })
    .unwrap()
}

fn url(scheme: &str, server: &Server, path: &str) -> String {
    server.url(path).replace("ftp://", &format!("{scheme}://"))
}

fn fails(backend: &FtpBackend, url: &str) -> Failure {
    let (result, kept) = attempt_with(backend, &request(url));
    assert!(kept.heads.is_empty(), "nothing begins");
    result.expect_err("the attempt fails")
}

#[test]
fn both_ways_to_tls_fetch_and_continue_and_reuse_the_session_for_the_data() {
    let authority = Authority::new();
    for scheme in ["ftps", "ftpes"] {
        for versions in [BOTH, &BOTH[1..]] {
            let (server, handshakes) = authority.server(scheme, LOCAL, VALID, versions);
            server.put("/a/file", File::new(content()));
            let url = url(scheme, &server, "/a/file");
            server.script(Script::data(Data::CutAt(CUT)));
            let (result, first) = attempt_with(&authority.backend(), &request(&url));
            let failure = result.expect_err("it is cut");
            assert_eq!(failure.code, Some(426), "{failure}");
            assert!(failure.message.starts_with(&url), "{failure}");
            let (result, second) = attempt_with(&authority.backend(), &resume(&url, first.held(4096)));
            result.expect("the rest comes");
            let offset_bytes = CUT as u64;
            assert_eq!(second.head().start, Start::Continue { offset_bytes });
            assert_eq!(second.head().actual_url, url);
            assert!([first.bytes, second.bytes].concat() == content());
            let kinds = handshakes.lock().unwrap().clone();
            let fresh = |kind: &HandshakeKind| *kind != HandshakeKind::Resumed;
            let pattern: Vec<bool> = kinds.iter().map(fresh).collect();
            assert_eq!(pattern, [true, false, true, false], "{scheme}: {kinds:?}");
            let verbs = server.verbs(1);
            assert_eq!(verbs.contains(&"AUTH".to_owned()), scheme == "ftpes");
            assert!(server.commands().contains(&"1 PROT P".to_owned()));
        }
    }
}

#[test]
fn names_are_checked_as_names_and_addresses_as_addresses() {
    let authority = Authority::new();
    for scheme in ["ftps", "ftpes"] {
        let (server, _) = authority.server(scheme, LOCAL, VALID, BOTH);
        server.put("/file", File::new("abc"));
        for host in ["localhost", "127.0.0.1"] {
            let url = url(scheme, &server, "/file").replace("127.0.0.1", host);
            let (result, kept) = attempt_with(&authority.backend(), &request(&url));
            result.expect("the certificate is good");
            assert_eq!(kept.bytes, b"abc");
        }
    }
}

#[test]
fn a_bad_certificate_is_refused_and_says_why() {
    let authority = Authority::new();
    let other = Authority::named("other");
    let name = WebErrorStatus::CERTIFICATE_COMMON_NAME_IS_INCORRECT;
    let rows = [
        (
            &authority,
            &["elsewhere"][..],
            VALID,
            FailureKind::Permanent,
            name,
            "another host",
        ),
        (
            &authority,
            LOCAL,
            (2000, 2001),
            FailureKind::Permanent,
            WebErrorStatus::CERTIFICATE_EXPIRED,
            "expired",
        ),
        (
            &authority,
            LOCAL,
            (2090, 2100),
            FailureKind::ClockNotSet,
            WebErrorStatus::CERTIFICATE_IS_INVALID,
            "not valid yet",
        ),
        (
            &other,
            LOCAL,
            VALID,
            FailureKind::Permanent,
            WebErrorStatus::CERTIFICATE_IS_INVALID,
            "unknown issuer",
        ),
    ];
    for scheme in ["ftps", "ftpes"] {
        for (issuer, names, years, kind, status, words) in rows {
            let (server, _) = issuer.server(scheme, names, years, BOTH);
            server.put("/file", File::new("abc"));
            let failure = fails(&authority.backend(), &url(scheme, &server, "/file"));
            assert_eq!((failure.kind, failure.status), (kind, status), "{failure}");
            assert!(failure.message.contains(words), "{failure}");
            assert!(!server.verbs(1).contains(&"USER".to_owned()), "nobody hears who we are");
        }
    }
}

#[test]
fn what_was_to_be_protected_never_goes_in_clear_text() {
    let authority = Authority::new();
    for (command, reply) in [
        ("AUTH", "502 no\r\n"),
        ("AUTH", "534 not here\r\n"),
        ("PROT", "536 no\r\n"),
    ] {
        let (server, _) = authority.server("ftpes", LOCAL, VALID, BOTH);
        server.put("/file", File::new("abc"));
        let refusal = Fault::Say(reply.to_owned());
        server.script(Script {
            faults: vec![(command, 1, refusal.clone()), (command, 2, refusal)],
            ..Script::default()
        });
        let failure = fails(&authority.backend(), &url("ftpes", &server, "/file"));
        assert_eq!(
            (failure.kind, failure.status),
            (FailureKind::Permanent, WebErrorStatus::CANNOT_CONNECT),
            "{failure}"
        );
        let verbs = server.verbs(1);
        assert!(!verbs.contains(&"RETR".to_owned()));
        assert!(command == "PROT" || !verbs.contains(&"USER".to_owned()), "{verbs:?}");
    }
}

#[test]
fn what_is_said_in_clear_text_does_not_count_as_said_under_protection() {
    let authority = Authority::new();
    let (server, _) = authority.server("ftpes", LOCAL, VALID, BOTH);
    server.put("/file", File::new("abc"));
    let injected = Fault::Say("234 go on\r\n230 in already\r\n".to_owned());
    server.script(Script::fault("AUTH", injected));
    let failure = fails(&authority.backend(), &url("ftpes", &server, "/file"));
    let status = WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE;
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Permanent, status),
        "{failure}"
    );
}

#[test]
fn an_end_without_close_notify_is_no_end_of_the_data() {
    let authority = Authority::new();
    for scheme in ["ftps", "ftpes"] {
        let (server, _) = authority.server(scheme, LOCAL, VALID, BOTH);
        server.put("/file", File::new(content()));
        for _ in 0..2 {
            server.script(Script {
                data: Data::BreakAt(CUT),
                ..Script::without(&["SIZE", "MLST"])
            });
        }
        let (result, kept) = attempt_with(&authority.backend(), &request(&url(scheme, &server, "/file")));
        let failure = result.expect_err("a cut is no end");
        assert!(is_transient(&failure), "{failure}");
        assert!(kept.bytes == content()[..CUT], "{failure}");
    }
}

#[test]
fn a_port_without_tls_is_not_spoken_to() {
    let authority = Authority::new();
    let server = Server::start();
    server.put("/file", File::new("abc"));
    let failure = fails(&authority.backend(), &url("ftps", &server, "/file"));
    assert_eq!(failure.status, WebErrorStatus::CANNOT_CONNECT, "{failure}");
    let failure = fails(&authority.backend(), &url("ftpes", &server, "/file"));
    assert_eq!(failure.status, WebErrorStatus::CANNOT_CONNECT, "{failure}");
    assert_eq!(failure.kind, FailureKind::Permanent);
}

#[test]
fn silence_is_left_and_interrupted_under_tls_too() {
    let authority = Authority::new();
    for scheme in ["ftps", "ftpes"] {
        let (server, _) = authority.server(scheme, LOCAL, VALID, BOTH);
        server.put("/file", File::new(content()));
        let url = url(scheme, &server, "/file");
        server.script(Script::data(Data::HangAt(CUT)));
        let (result, kept) = attempt_with(&authority.backend(), &impatient(&url));
        assert_eq!(result.expect_err("it is silent").status, WebErrorStatus::TIMEOUT);
        assert!(kept.bytes == content()[..CUT]);
        server.script(Script::data(Data::HangAt(CUT)));
        let (teller, all_came) = mpsc::channel();
        let mut kept = Kept {
            tell_at: Some((CUT, teller)),
            ..Kept::default()
        };
        let (failure, took) = interrupted(&authority.backend(), &url, &mut kept, move || all_came.recv().unwrap());
        assert_eq!(failure.kind, FailureKind::Interrupted, "{failure}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

/// Says nothing where a handshake should be.
fn mute() -> (Server, String) {
    let protect = Arc::new(|mut stream: TcpStream| {
        io::copy(&mut stream, &mut io::sink())?;
        Err(io::Error::other("the client is gone"))
    });
    let server = Server::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), Protection::OnDemand(protect.clone()));
    let implicit = Server::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), Protection::Always(protect));
    let url = url("ftps", &implicit, "/file");
    (server, url)
}

#[test]
fn a_handshake_without_an_answer_is_left_and_interrupted() {
    let authority = Authority::new();
    let (explicit, implicit) = mute();
    for url in [url("ftpes", &explicit, "/file"), implicit] {
        let start = Instant::now();
        let (result, _) = attempt_with(&authority.backend(), &impatient(&url));
        let failure = result.expect_err("it is silent");
        assert_eq!(failure.status, WebErrorStatus::TIMEOUT, "{failure}");
        assert!(start.elapsed() < Duration::from_secs(10), "{url}");
        let (failure, took) = interrupted(&authority.backend(), &url, &mut Kept::default(), || {});
        assert_eq!(failure.kind, FailureKind::Interrupted, "{failure}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

fn interrupted(backend: &FtpBackend, url: &str, kept: &mut Kept, when: impl FnOnce() + Send) -> (Failure, Duration) {
    let interrupt = Interrupt::new();
    let (raised, told) = mpsc::channel();
    thread::scope(|scope| {
        let raise = interrupt.clone();
        scope.spawn(move || {
            when();
            raised.send(Instant::now()).unwrap();
            raise.raise();
        });
        let result = backend.download(&request(url), kept, &interrupt);
        let since = told.recv().unwrap().elapsed();
        (result.expect_err("an interrupted attempt fails"), since)
    })
}

#[test]
fn roots_that_are_not_there_are_an_error_that_says_where_they_were_looked_for() {
    let authority = Authority::new();
    let (server, _) = authority.server("ftps", LOCAL, VALID, BOTH);
    server.put("/file", File::new("abc"));
    let failure = fails(&trusting(None), &url("ftps", &server, "/file"));
    assert_eq!(
        failure.kind,
        FailureKind::Permanent,
        "the usual roots know nothing of ours: {failure}"
    );
    let from = |config: FtpConfig| {
        attempt_with(
            &FtpBackend::new(config).unwrap(),
            &request(&url("ftps", &server, "/file")),
        )
    };
    let (result, _) = from(FtpConfig {
        ssl_cert_file: Some(authority.bundle()),
        ..FtpConfig::default()
    });
    result.expect("SSL_CERT_FILE counts");
    let (result, _) = from(FtpConfig {
        ssl_cert_file: Some("/nowhere".into()),
        ..FtpConfig::default()
    });
    let failure = result.expect_err("there are none");
    assert!(failure.message.contains("SSL_CERT_FILE: /nowhere"), "{failure}");
    let error = FtpBackend::new(FtpConfig {
        ca_bundle: Some("/nowhere".into()),
        ..FtpConfig::default()
    });
    assert_eq!(error.unwrap_err().field, "ca_bundle");
}
