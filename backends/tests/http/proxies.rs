//! The way through a proxy: what it is asked, what the server is told, and which connection serves whom.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;

use backhaul_backends::{
    Backend, Credential, Failure, FailureKind, HttpBackend, Interrupt, Proxies, Proxy, Request, WebErrorStatus,
};

use crate::server::{Kept, Server, Step, answer, backend, header, request, response};

fn through(proxy: &str) -> Arc<Proxies> {
    Arc::new(Proxies::all(Proxy::parse(proxy).unwrap()))
}

fn get(backend: &HttpBackend, request: &Request) -> (Result<(), Failure>, Kept) {
    let mut kept = Kept::default();
    let result = backend.download(request, &mut kept, &Interrupt::new());
    (result, kept)
}

/// An HTTP proxy that opens every tunnel to one server, and tells what it was asked.
#[cfg(feature = "tls")]
fn tunnel(to: SocketAddr) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, asked) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let sender = sender.clone();
            thread::spawn(move || {
                let Some(head) = crate::server::take(&mut stream) else {
                    return;
                };
                let _ = sender.send(head);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                let mut server = TcpStream::connect(to).unwrap();
                let (mut from, mut into) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut from, &mut into));
                let _ = std::io::copy(&mut server, &mut stream);
            });
        }
    });
    (address, asked)
}

#[test]
fn plain_http_asks_the_proxy_in_absolute_form_over_one_connection() {
    let two = vec![
        Step::Take,
        Step::Send(response("200 OK", "", b"first")),
        Step::Take,
        Step::Send(response("200 OK", "", b"second")),
    ];
    let proxy = Server::new(vec![two]);
    let backend = backend();
    let asked = Request {
        proxies: through(&format!("http://user:hush@{}", proxy.address)),
        headers: vec![header("X-Own", "1", false)],
        credential: Some(Credential {
            user: "ann".into(),
            password: "pass".into(),
        }),
        ..request("http://host.invalid:8080/a?b=c")
    };
    for content in [&b"first"[..], b"second"] {
        let (result, kept) = get(&backend, &asked);
        result.unwrap();
        assert_eq!(kept.bytes, content);
        assert_eq!(kept.head().actual_url, "http://host.invalid:8080/a?***");
        let head = proxy.request();
        assert!(
            head.starts_with("get http://host.invalid:8080/a?b=c http/1.1\r\n"),
            "{head}"
        );
        for line in [
            "proxy-authorization: basic dxnlcjpodxno\r\n",
            "authorization: basic yw5uonbhc3m=\r\n",
            "host: host.invalid:8080\r\n",
            "x-own: 1\r\n",
        ] {
            assert_eq!(head.matches(&format!("\r\n{line}")).count(), 1, "{head}");
        }
    }
}

#[test]
fn a_proxy_of_plain_http_that_wants_a_password_is_named() {
    let proxy = Server::once(response("407 No", "Proxy-Authenticate: Basic realm=x\r\n", b"a page"));
    let asked = Request {
        proxies: through(&format!("http://user:hush@{}", proxy.address)),
        ..request("http://host.invalid/a")
    };
    let (result, kept) = get(&backend(), &asked);
    let failure = result.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert_eq!(failure.status, WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED);
    assert_eq!(failure.code, Some(407));
    assert!(
        failure.message.contains(&format!("the proxy http://{}", proxy.address)),
        "{failure}"
    );
    assert!(!failure.message.contains("hush"), "{failure}");
    assert!(kept.heads.is_empty());
}

#[test]
fn a_server_that_answers_for_a_proxy_is_not_taken_for_one() {
    let server = Server::once(response("407 No", "", b""));
    let failure = get(&backend(), &request(&server.url("/a"))).0.unwrap_err();
    assert!(failure.message.contains("the server answered 407"), "{failure}");
}

#[cfg(feature = "tls")]
#[test]
fn tls_goes_through_a_tunnel_and_the_proxy_learns_no_password_of_the_server() {
    let (bundle, server) = crate::tls::one_server(response("200 OK", "", b"secure"));
    let (proxy, asked) = tunnel(server);
    let wanted = Request {
        proxies: through(&format!("http://user:hush@{proxy}")),
        credential: Some(Credential {
            user: "ann".into(),
            password: "pass".into(),
        }),
        ..request(&format!("https://localhost:{}/a", server.port()))
    };
    let (result, kept) = get(&bundle.backend(), &wanted);
    result.unwrap();
    assert_eq!(kept.bytes, b"secure");
    let head = asked.recv().unwrap();
    let place = format!("localhost:{}", server.port());
    assert_eq!(
        head,
        format!("connect {place} http/1.1\r\nhost: {place}\r\nproxy-authorization: basic dxnlcjpodxno\r\n\r\n")
    );
    assert!(asked.try_recv().is_err());
}

#[cfg(feature = "tls")]
#[test]
fn a_tunnel_that_is_refused_is_a_failure_of_the_proxy() {
    let proxy = Server::once(response("503 No", "", b""));
    let wanted = Request {
        proxies: through(&proxy.address.to_string()),
        ..request("https://host.invalid/a")
    };
    let failure = get(&backend(), &wanted).0.unwrap_err();
    assert_eq!(failure.status, WebErrorStatus::SERVICE_UNAVAILABLE);
    assert!(
        failure.message.contains(&format!("the proxy http://{}", proxy.address)),
        "{failure}"
    );
}

/// A SOCKS proxy that connects to wherever it is asked by name, and tells that.
fn socks(to: SocketAddr) -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, asked) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.read_exact(&mut [0; 3]).unwrap();
            stream.write_all(&[5, 0]).unwrap();
            let mut head = [0; 5];
            stream.read_exact(&mut head).unwrap();
            let mut name = vec![0; usize::from(head[4]) + 2];
            stream.read_exact(&mut name).unwrap();
            let _ = sender.send(name);
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
            let mut server = TcpStream::connect(to).unwrap();
            let (mut from, mut into) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from, &mut into));
            thread::spawn(move || std::io::copy(&mut server, &mut stream));
        }
    });
    (address, asked)
}

#[test]
fn through_socks_the_server_is_asked_as_if_it_were_near() {
    let server = Server::once(response("200 OK", "", b"content"));
    let (proxy, asked) = socks(server.address);
    let wanted = Request {
        proxies: through(&format!("socks5h://{proxy}")),
        ..request("http://host.invalid/a")
    };
    let (result, kept) = get(&backend(), &wanted);
    result.unwrap();
    assert_eq!(kept.bytes, b"content");
    assert_eq!(asked.recv().unwrap(), b"host.invalid\0\x50");
    let head = server.request();
    assert!(
        head.starts_with("get /a http/1.1\r\n") && !head.contains("proxy"),
        "{head}"
    );
}

#[test]
fn a_connection_serves_only_the_way_that_it_was_opened_for() {
    let always = || {
        let turn = || [Step::Take, Step::Send(response("200 OK", "", b"x"))];
        turn().into_iter().chain(turn()).chain(turn()).collect::<Vec<_>>()
    };
    let server = Server::new(vec![always(), always(), always()]);
    let proxy = Server::new(vec![always(), always(), always()]);
    let backend = backend();
    let url = server.url("/a");
    let direct = request(&url);
    let by = |login: &str| Request {
        proxies: through(&format!("http://{login}{}", proxy.address)),
        ..request(&url)
    };
    let told = |head: &str| {
        let line = head.lines().find(|line| line.starts_with("proxy-authorization"));
        line.map(str::to_owned)
    };
    for (wanted, is_direct) in [
        (&direct, true),
        (&by(""), false),
        (&by("one:hush@"), false),
        (&by("two:hush@"), false),
        (&direct, true),
    ] {
        get(&backend, wanted).0.unwrap();
        if is_direct {
            assert!(server.request().starts_with("get /a "), "the way is direct");
        } else {
            let head = proxy.request();
            assert!(head.starts_with("get http://"), "{head}");
            let login = wanted.proxies.of("http", "x", 80).unwrap().credential().is_some();
            assert_eq!(told(&head).is_some(), login, "{head}");
        }
    }
    assert!(server.no_more_requests() && proxy.no_more_requests());
}

#[test]
fn a_redirect_takes_the_way_of_its_new_place() {
    let server = Server::once(response("200 OK", "", b"inner"));
    let to = server.url("/b");
    let proxy = Server::once(response("302 Found", &format!("Location: {to}\r\n"), b""));
    let all = Proxies::all(Proxy::parse(&format!("user:hush@{}", proxy.address)).unwrap());
    let wanted = Request {
        proxies: Arc::new(all.except("127.0.0.1").unwrap()),
        ..request("http://host.invalid/a")
    };
    let (result, kept) = get(&backend(), &wanted);
    result.unwrap();
    assert_eq!(kept.bytes, b"inner");
    assert!(proxy.request().contains("proxy-authorization"));
    let head = server.request();
    assert!(head.starts_with("get /b ") && !head.contains("proxy"), "{head}");
}

#[test]
fn a_redirect_leads_from_the_near_to_the_far_through_the_proxy() {
    let proxy = Server::once(response("200 OK", "", b"outer"));
    let location = "Location: http://host.invalid/b\r\n";
    let server = Server::once(response("302 Found", location, b""));
    let all = Proxies::all(Proxy::parse(&proxy.address.to_string()).unwrap());
    let wanted = Request {
        proxies: Arc::new(all.except("127.0.0.1").unwrap()),
        ..request(&server.url("/a"))
    };
    let (result, kept) = get(&backend(), &wanted);
    result.unwrap();
    assert_eq!(kept.bytes, b"outer");
    assert!(proxy.request().starts_with("get http://host.invalid/b "));
}

#[test]
fn a_connection_to_a_proxy_that_was_closed_meanwhile_is_made_anew() {
    let (gate, closed) = mpsc::channel();
    let once = |content: &[u8]| vec![Step::Take, Step::Send(response("200 OK", "", content))];
    let mut first = once(b"first");
    first.push(Step::Tell(gate));
    let proxy = Server::new(vec![first, once(b"second")]);
    let backend = backend();
    let wanted = Request {
        proxies: through(&proxy.address.to_string()),
        ..request("http://host.invalid/a")
    };
    assert_eq!(get(&backend, &wanted).1.bytes, b"first");
    closed.recv().unwrap();
    assert_eq!(get(&backend, &wanted).1.bytes, b"second");
    assert!(proxy.request().starts_with("get http://host.invalid/a "));
    assert!(proxy.request().starts_with("get http://host.invalid/a "));
}

#[test]
fn a_body_goes_through_the_proxy_whole() {
    let proxy = Server::new(vec![vec![
        Step::TakeWhole,
        Step::Send(response("200 OK", "", b"taken")),
    ]]);
    let wanted = Request {
        proxies: through(&proxy.address.to_string()),
        ..crate::server::post("http://host.invalid/a", "a body")
    };
    get(&backend(), &wanted).0.unwrap();
    let asked = proxy.request();
    assert!(asked.starts_with("post http://host.invalid/a http/1.1\r\n"), "{asked}");
    assert!(asked.ends_with("\r\n\r\na body"), "{asked}");
}

#[test]
fn an_interrupt_ends_the_wait_for_a_silent_proxy() {
    let mut ways = vec![("socks5h", "http://host.invalid/a")];
    if cfg!(feature = "tls") {
        ways.push(("http", "https://host.invalid/a"));
    }
    for (scheme, url) in ways {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let interrupt = Interrupt::new();
        let in_the_proxy = interrupt.clone();
        let held = Arc::new(Mutex::new(None));
        let holding = Arc::clone(&held);
        let proxy = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 3]).unwrap();
            *holding.lock().unwrap() = Some(stream);
            in_the_proxy.raise();
        });
        let wanted = Request {
            proxies: through(&format!("{scheme}://{address}")),
            ..request(url)
        };
        let mut kept = Kept::default();
        let failure = backend().download(&wanted, &mut kept, &interrupt).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Interrupted, "{failure}");
        proxy.join().unwrap();
    }
}

#[test]
fn a_request_header_for_the_proxy_cannot_be_given() {
    let server = Server::new(vec![answer(response("200 OK", "", b"x"))]);
    let wanted = Request {
        headers: vec![header("Proxy-Authorization", "Basic eA==", true)],
        ..request(&server.url("/a"))
    };
    let failure = get(&backend(), &wanted).0.unwrap_err();
    assert!(failure.message.contains("proxy-authorization"), "{failure}");
    assert!(server.no_more_requests());
}
