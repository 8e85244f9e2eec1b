//! HTTPS: which certificates are accepted, and what counts as an end.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use backhaul_backends::{
    Backend, Failure, FailureKind, HttpBackend, HttpConfig, Interrupt, Limits, Request, WebErrorStatus,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

use crate::server::{Kept, Server, Step, fetch, post, request, response, take};

/// A certificate authority with its bundle in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    fn bundle(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A server's certificate, valid from one year to another.
    fn issue(&self, names: &[&str], years: (i32, i32)) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            certificate.der().clone(),
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
    }
}

const LOCAL: &[&str] = &["localhost", "127.0.0.1"];
const VALID: (i32, i32) = (2000, 2100);
const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// How a server ends a connection.
#[derive(Clone, Copy, PartialEq)]
enum Goodbye {
    CloseNotify,
    None,
}

/// Serves connections one after the other; on each it answers every request with the same response until the client
/// leaves, or once where `goodbye` is said.
fn serve(
    (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>),
    versions: &[&'static SupportedProtocolVersion],
    response: Vec<u8>,
    goodbye: Option<Goodbye>,
) -> (SocketAddr, mpsc::Receiver<usize>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap();
    let config = Arc::new(
        config
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, served) = mpsc::channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            while take(&mut stream).is_some() {
                let _ = sender.send(number);
                stream.write_all(&response).unwrap();
                if goodbye == Some(Goodbye::CloseNotify) {
                    stream.conn.send_close_notify();
                }
                stream.flush().unwrap();
                if goodbye.is_some() {
                    break;
                }
            }
        }
    });
    (address, served)
}

fn trusting(bundle: &Path) -> HttpBackend {
    HttpBackend::new(HttpConfig {
        ca_bundle: Some(bundle.to_owned()),
        ..HttpConfig::default()
    })
    .unwrap()
}

/// A certificate authority that others may trust.
pub(crate) struct Trusted(Authority);

impl Trusted {
    pub(crate) fn backend(&self) -> HttpBackend {
        trusting(&self.0.bundle())
    }
}

/// One server with this response for every request.
pub(crate) fn one_server(response: Vec<u8>) -> (Trusted, SocketAddr) {
    let authority = Authority::new("a CA");
    let (address, _) = serve(authority.issue(LOCAL, VALID), BOTH, response, None);
    (Trusted(authority), address)
}

fn try_get(backend: &HttpBackend, url: &str) -> (Result<(), Failure>, Kept) {
    let mut kept = Kept::default();
    (backend.download(&request(url), &mut kept, &Interrupt::new()), kept)
}

#[test]
fn a_certificate_of_the_given_authority_is_accepted_by_name_and_by_address() {
    let authority = Authority::new("ours");
    for versions in [BOTH, &BOTH[1..]] {
        let (address, _) = serve(
            authority.issue(LOCAL, VALID),
            versions,
            response("200 OK", "", b"hello"),
            None,
        );
        for host in ["localhost", "127.0.0.1"] {
            let (result, kept) = try_get(
                &trusting(&authority.bundle()),
                &format!("https://{host}:{}/", address.port()),
            );
            result.unwrap();
            assert_eq!(kept.bytes, b"hello");
        }
    }
}

#[test]
fn a_large_body_comes_whole_and_the_connection_serves_the_next_request() {
    let authority = Authority::new("ours");
    let body: Vec<u8> = (0..3_000_000_u32)
        .map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1])
        .collect();
    let (address, served) = serve(authority.issue(LOCAL, VALID), BOTH, response("200 OK", "", &body), None);
    let backend = trusting(&authority.bundle());
    for _ in 0..3 {
        let (result, kept) = try_get(&backend, &format!("https://{address}/"));
        result.unwrap();
        assert!(kept.bytes == body);
    }
    assert_eq!(
        served.iter().take(3).collect::<Vec<_>>(),
        [0, 0, 0],
        "one connection serves all three"
    );
}

#[test]
fn a_server_that_says_more_than_its_response_is_asked_over_a_fresh_connection() {
    let authority = Authority::new("ours");
    let backend = trusting(&authority.bundle());
    // In the record of the response, and in one of its own behind a response that fills the first.
    let head_bytes = response("200 OK", "", &[b'x'; 10_000]).len() - 10_000;
    for body_bytes in [5, 16 * 1024 - head_bytes] {
        let body = vec![b'x'; body_bytes];
        let more = [response("200 OK", "", &body), response("200 OK", "", b"forged")].concat();
        for (said, expected) in [(response("200 OK", "", &body), [0, 0]), (more, [0, 1])] {
            let (address, served) = serve(authority.issue(LOCAL, VALID), BOTH, said, None);
            for _ in 0..2 {
                let (result, kept) = try_get(&backend, &format!("https://{address}/"));
                result.unwrap();
                assert!(kept.bytes == body, "{body_bytes}");
            }
            assert_eq!(served.iter().take(2).collect::<Vec<_>>(), expected, "{body_bytes}");
        }
    }
}

#[test]
fn the_environment_names_roots_too() {
    let authority = Authority::new("ours");
    let (address, _) = serve(
        authority.issue(LOCAL, VALID),
        BOTH,
        response("200 OK", "", b"hello"),
        None,
    );
    let file = HttpConfig {
        ssl_cert_file: Some(authority.bundle()),
        ..HttpConfig::default()
    };
    let directory = HttpConfig {
        ssl_cert_dir: Some(authority.directory.path().to_owned()),
        ..HttpConfig::default()
    };
    for config in [file, directory] {
        try_get(&HttpBackend::new(config).unwrap(), &format!("https://{address}/"))
            .0
            .unwrap();
    }
}

#[test]
fn a_bad_certificate_is_refused_and_says_why() {
    let authority = Authority::new("ours");
    let other = Authority::new("stranger");
    let rows = [
        (
            LOCAL,
            VALID,
            &other,
            FailureKind::Permanent,
            WebErrorStatus::CERTIFICATE_IS_INVALID,
            "unknown issuer",
        ),
        (
            &["example.com"],
            VALID,
            &authority,
            FailureKind::Permanent,
            WebErrorStatus::CERTIFICATE_COMMON_NAME_IS_INCORRECT,
            "another host name",
        ),
        (
            LOCAL,
            (2000, 2001),
            &authority,
            FailureKind::Permanent,
            WebErrorStatus::CERTIFICATE_EXPIRED,
            "expired",
        ),
        (
            LOCAL,
            (2099, 2100),
            &authority,
            FailureKind::ClockNotSet,
            WebErrorStatus::CERTIFICATE_IS_INVALID,
            "not valid yet",
        ),
    ];
    for (names, years, issuer, kind, status, words) in rows {
        let (address, served) = serve(issuer.issue(names, years), BOTH, response("200 OK", "", b"hello"), None);
        let (result, kept) = try_get(
            &trusting(&authority.bundle()),
            &format!("https://{address}/secret?sig=1"),
        );
        let failure = result.unwrap_err();
        assert_eq!((failure.kind, failure.status), (kind, status), "{failure}");
        assert!(
            failure.message.contains(words) && !failure.message.contains("sig"),
            "{failure}"
        );
        assert!(
            kept.heads.is_empty() && served.try_recv().is_err(),
            "nothing is sent before the certificate is checked"
        );
    }
}

#[test]
fn a_certificate_that_is_its_own_authority_is_refused_with_a_way_out() {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("self.pem");
    fs::write(&bundle, certificate.pem()).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let (address, _) = serve(
        (certificate.der().clone(), key),
        BOTH,
        response("200 OK", "", b"hello"),
        None,
    );
    let failure = try_get(&trusting(&bundle), &format!("https://{address}/"))
        .0
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert!(failure.message.contains("basicConstraints=CA:FALSE"), "{failure}");
}

#[test]
fn without_a_length_only_close_notify_is_an_end() {
    let authority = Authority::new("ours");
    let body = b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec();
    let backend = trusting(&authority.bundle());
    let (address, _) = serve(
        authority.issue(LOCAL, VALID),
        BOTH,
        body.clone(),
        Some(Goodbye::CloseNotify),
    );
    let (result, kept) = try_get(&backend, &format!("https://{address}/"));
    result.unwrap();
    assert_eq!(kept.bytes, b"hello");
    let (address, _) = serve(authority.issue(LOCAL, VALID), BOTH, body, Some(Goodbye::None));
    let (result, kept) = try_get(&backend, &format!("https://{address}/"));
    let failure = result.unwrap_err();
    assert_eq!(kept.bytes, b"hello");
    assert!(matches!(failure.kind, FailureKind::Transient { .. }));
    assert_eq!(failure.status, WebErrorStatus::DISCONNECTED, "{failure}");
}

#[test]
fn a_whole_body_with_a_length_needs_no_close_notify_and_a_short_one_is_cut() {
    let authority = Authority::new("ours");
    let backend = trusting(&authority.bundle());
    for (length, whole) in [(5, true), (6, false)] {
        let body = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nhello").into_bytes();
        let (address, _) = serve(authority.issue(LOCAL, VALID), BOTH, body, Some(Goodbye::None));
        let (result, kept) = try_get(&backend, &format!("https://{address}/"));
        assert_eq!(kept.bytes, b"hello");
        assert_eq!(result.is_ok(), whole);
    }
}

#[test]
fn a_redirect_from_https_to_http_is_refused() {
    let authority = Authority::new("ours");
    let plain = Server::once(response("200 OK", "", b"x"));
    let moved = response("302 Found", &format!("Location: {}\r\n", plain.url("/")), b"");
    let (address, _) = serve(authority.issue(LOCAL, VALID), BOTH, moved, None);
    let failure = try_get(&trusting(&authority.bundle()), &format!("https://{address}/"))
        .0
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert_eq!(
        failure.status,
        WebErrorStatus::HTTPS_TO_HTTP_ON_REDIRECTION,
        "{failure}"
    );
    assert!(plain.no_more_requests());
}

#[test]
fn a_redirect_from_http_to_https_is_followed() {
    let authority = Authority::new("ours");
    let secure = response("200 OK", "", b"x");
    let (address, _) = serve(authority.issue(LOCAL, VALID), BOTH, secure, None);
    let moved = response("302 Found", &format!("Location: https://{address}/a\r\n"), b"");
    let plain = Server::once(moved);
    let (result, kept) = try_get(&trusting(&authority.bundle()), &plain.url("/"));
    result.unwrap();
    assert_eq!(kept.bytes, b"x");
    assert_eq!(kept.head().actual_url, format!("https://{address}/a"));
}

#[test]
fn a_bundle_that_cannot_serve_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.pem");
    fs::write(&empty, "nothing\n").unwrap();
    for path in [Path::new("/nowhere/ca.pem"), directory.path(), &empty] {
        let error = HttpBackend::new(HttpConfig {
            ca_bundle: Some(path.to_owned()),
            ..HttpConfig::default()
        })
        .unwrap_err();
        assert_eq!(error.field, "ca_bundle");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let error = HttpBackend::new(HttpConfig {
        user_agent: "a\r\nb".to_owned(),
        ..HttpConfig::default()
    })
    .unwrap_err();
    assert_eq!(error.field, "user_agent");
}

#[test]
fn a_plain_server_behind_an_https_url_is_named_as_such() {
    let authority = Authority::new("ours");
    let server = Server::new(vec![vec![
        Step::Send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        Step::Hold,
    ]]);
    let failure = try_get(&trusting(&authority.bundle()), &format!("https://{}/", server.address))
        .0
        .unwrap_err();
    assert!(failure.message.contains("does not speak TLS"), "{failure}");
}

#[test]
fn an_interrupt_or_the_connect_limit_ends_a_handshake_that_stands_still() {
    let authority = Authority::new("ours");
    let (tell, heard) = mpsc::channel();
    let server = Server::new(vec![vec![Step::Tell(tell), Step::Hold], vec![Step::Hold]]);
    let (backend, url) = (trusting(&authority.bundle()), format!("https://{}/", server.address));
    let interrupt = Interrupt::new();
    let raised = interrupt.clone();
    let thread = thread::spawn(move || {
        heard.recv_timeout(Duration::from_secs(30)).unwrap();
        raised.raise();
    });
    let failure = backend
        .download(&request(&url), &mut Kept::default(), &interrupt)
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Interrupted, "{failure}");
    thread.join().unwrap();
    let limits = Limits {
        connect: Duration::from_millis(100),
        ..Limits::default()
    };
    let failure = backend
        .download(
            &Request {
                limits,
                ..request(&url)
            },
            &mut Kept::default(),
            &Interrupt::new(),
        )
        .unwrap_err();
    assert_eq!(failure.status, WebErrorStatus::TIMEOUT, "{failure}");
}

#[test]
fn an_http_only_run_never_looks_for_roots() {
    let config = HttpConfig {
        ssl_cert_file: Some("/nowhere".into()),
        ..HttpConfig::default()
    };
    let server = Server::once(response("200 OK", "", b"x"));
    let backend = HttpBackend::new(config).unwrap();
    try_get(&backend, &server.url("/")).0.unwrap();
    let failure = try_get(&backend, "https://127.0.0.1:9/").0.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert!(failure.message.contains("SSL_CERT_FILE: /nowhere"), "{failure}");
    assert!(fetch(&request("https://[::1")).0.is_err());
}

#[test]
fn a_server_that_answers_while_it_still_reads_is_named_under_tls_too() {
    let (trusted, address) = one_server(response("200 OK", "", &vec![b'y'; 64_000_000]));
    let limits = Limits {
        response: Duration::from_secs(1),
        ..Limits::default()
    };
    let sending = Request {
        limits,
        ..post(&format!("https://{address}/"), vec![b'x'; 64_000_000])
    };
    let result = trusted
        .backend()
        .download(&sending, &mut Kept::default(), &Interrupt::new());
    let failure = result.unwrap_err();
    assert_eq!(failure.status, WebErrorStatus::TIMEOUT, "{failure}");
    assert!(failure.message.contains("answers while it still reads"), "{failure}");
}
