//! Handshakes with proxies that play a script, and what is left of the connection after them.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use super::*;
use crate::problem::Problem;
use crate::{FailureKind, WebErrorStatus};

/// Far longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

/// What a proxy does: takes so many bytes, or a head; sends; or waits until the other side is gone.
enum Step<'a> {
    Take(usize),
    TakeHead,
    Send(&'a [u8]),
    Hold,
}

use Step::{Hold, Send, Take, TakeHead};

/// A proxy that plays a script on one connection and gives what it took.
fn play(scheme: &str, script: Vec<Step<'_>>) -> (Proxy, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::parse(&format!("{scheme}{}", listener.local_addr().unwrap())).unwrap();
    // What a script sends outlives it.
    let script: Vec<_> = script
        .into_iter()
        .map(|step| match step {
            Take(amount) => (amount, false, Vec::new(), false),
            TakeHead => (0, true, Vec::new(), false),
            Send(bytes) => (0, false, bytes.to_vec(), false),
            Hold => (0, false, Vec::new(), true),
        })
        .collect();
    let played = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut taken = Vec::new();
        for (amount, takes_head, bytes, holds) in script {
            let before = taken.len();
            while taken.len() < before + amount || takes_head && !taken[before..].ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    return taken;
                }
                taken.push(byte[0]);
            }
            // Whoever has heard enough goes away in the middle of it.
            let _ = stream.write_all(&bytes);
            while holds && stream.read(&mut [0]).is_ok_and(|amount| amount > 0) {}
        }
        taken
    });
    (proxy, played)
}

fn dial_within(proxy: &Proxy, host: &str, port: u16, limit: Duration) -> Result<TcpStream, Fault> {
    let patience = Patience {
        interrupt: &Interrupt::new(),
        until: Instant::now() + limit,
    };
    dial(Some(proxy), host, port, &patience)
}

fn refused(scheme: &str, script: Vec<Step<'_>>) -> Problem {
    let (proxy, played) = play(scheme, script);
    let fault = dial_within(&proxy, "host.example", 443, LONG).unwrap_err();
    played.join().unwrap();
    let problem = Problem::from(fault);
    assert!(
        problem.text.starts_with(&format!("the proxy {proxy}: ")),
        "{}",
        problem.text
    );
    assert!(!problem.text.contains("hush"), "{}", problem.text);
    problem
}

/// What comes through a connection from here on.
fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_http_proxy_is_asked_for_a_tunnel_and_nothing_is_read_of_what_follows() {
    for (scheme, host, asked, answer) in [
        (
            "http://",
            "host.example",
            "CONNECT host.example:443 HTTP/1.1\r\nHost: host.example:443\r\n\r\n",
            "HTTP/1.1 200 Connection established\r\n\r\n",
        ),
        (
            "http://user:hush@",
            "192.0.2.1",
            "CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\nProxy-Authorization: Basic dXNlcjpodXNo\r\n\r\n",
            "HTTP/1.0 200\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "http://",
            "2001:db8::1",
            "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n",
            "HTTP/1.1 299 \nX: y\n\n",
        ),
    ] {
        let together = format!("{answer}220 hello");
        let (proxy, played) = play(scheme, vec![TakeHead, Send(together.as_bytes())]);
        let stream = dial_within(&proxy, host, 443, LONG).unwrap();
        assert_eq!(rest(stream), "220 hello", "{answer:?}");
        assert_eq!(String::from_utf8(played.join().unwrap()).unwrap(), asked);
    }
}

#[test]
fn the_end_of_a_head_is_found_wherever_the_bytes_are_parted() {
    let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(2050));
    for cut in [1, 7, 1023, 1024, 1025, head.len() - 3, head.len() - 2, head.len() - 1] {
        let (first, second) = head.as_bytes().split_at(cut);
        let (proxy, played) = play("http://", vec![TakeHead, Send(first), Send(second), Send(b"hello")]);
        let stream = dial_within(&proxy, "host.example", 443, LONG).unwrap();
        assert_eq!(rest(stream), "hello", "{cut}");
        played.join().unwrap();
    }
}

#[test]
fn an_answer_to_connect_that_is_no_success_says_what_the_proxy_said() {
    use FailureKind::{Permanent, Transient};
    let again = Transient { retry_after: None };
    for (code, kind, status) in [
        (302, Permanent, WebErrorStatus::FOUND),
        (400, Permanent, WebErrorStatus::BAD_REQUEST),
        (401, Permanent, WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED),
        (403, Permanent, WebErrorStatus::FORBIDDEN),
        (407, Permanent, WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED),
        (502, again, WebErrorStatus::BAD_GATEWAY),
        (503, again, WebErrorStatus::SERVICE_UNAVAILABLE),
        (504, again, WebErrorStatus::GATEWAY_TIMEOUT),
    ] {
        let answer = format!("HTTP/1.1 {code} No\r\nContent-Length: 4\r\n\r\npage");
        let problem = refused("http://user:hush@", vec![TakeHead, Send(answer.as_bytes())]);
        assert_eq!((problem.kind, problem.status), (kind, status), "{code}");
        assert_eq!(problem.code, Some(code));
        assert!(problem.text.contains(&code.to_string()), "{}", problem.text);
    }
}

#[test]
fn a_proxy_that_breaks_http_is_not_believed_and_an_endless_head_ends() {
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(64 * 1024));
    for answer in [
        "\0\0\0\0",
        "SSH-2.0-x\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 99 No\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 +20 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching\r\n\r\n",
        "\r\n\r\n",
        &endless,
    ] {
        let problem = refused("http://", vec![TakeHead, Send(answer.as_bytes()), Hold]);
        assert_eq!(problem.kind, FailureKind::Permanent, "{answer:.20}");
        assert_eq!(
            problem.status,
            WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE,
            "{answer:.20}"
        );
    }
}

#[test]
fn a_proxy_that_goes_away_in_the_handshake_is_asked_again() {
    for (scheme, script) in [
        ("http://", vec![TakeHead]),
        ("http://", vec![TakeHead, Send(b"HTTP/1.1 200 OK\r\n")]),
        ("socks5h://", vec![Take(3)]),
        ("socks5h://", vec![Take(3), Send(&[5])]),
        (
            "socks5h://",
            vec![Take(3), Send(&[5, 0]), Take(19), Send(&[5, 0, 0, 3, 200])],
        ),
    ] {
        let problem = refused(scheme, script);
        assert_eq!(problem.kind, FailureKind::Transient { retry_after: None });
        assert_eq!(problem.status, WebErrorStatus::DISCONNECTED, "{}", problem.text);
    }
}

/// What a SOCKS proxy is sent without a user name, after the greeting.
fn socks_asked(place: &[u8]) -> Vec<u8> {
    [&[5, 1, 0, 5, 1, 0], place, &443_u16.to_be_bytes()].concat()
}

#[test]
fn a_socks_proxy_connects_to_addresses_and_names_and_nothing_is_read_of_what_follows() {
    let name = [&[3, 12][..], b"host.example"].concat();
    let ipv6 = [&[4, 0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1]].concat();
    let named = [&[5, 0, 0, 3, 2][..], b"ab", &[0, 1]].concat();
    for (scheme, host, place, reply) in [
        (
            "socks5h://",
            "host.example",
            &name[..],
            &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
        ),
        ("socks5h://", "192.0.2.1", &[1, 192, 0, 2, 1], &named),
        (
            "socks5h://",
            "2001:db8::1",
            &ipv6,
            &[&[5, 0, 0, 4][..], &[0; 18]].concat(),
        ),
        (
            "socks5://",
            "192.0.2.1",
            &[1, 192, 0, 2, 1],
            &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        ),
    ] {
        let asked = socks_asked(place);
        let script = vec![
            Take(3),
            Send(&[5, 0]),
            Take(asked.len() - 3),
            Send(reply),
            Send(b"220 hello"),
        ];
        let (proxy, played) = play(scheme, script);
        let stream = dial_within(&proxy, host, 443, LONG).unwrap();
        assert_eq!(rest(stream), "220 hello");
        assert_eq!(played.join().unwrap(), asked, "{scheme}{host}");
    }
}

/// A SOCKS proxy that gives one reply after the other, each on a connection of its own, and what each was asked for.
fn replying(replies: Vec<u8>) -> (Proxy, JoinHandle<Vec<SocketAddr>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::parse(&format!("socks5://{}", listener.local_addr().unwrap())).unwrap();
    let played = thread::spawn(move || {
        let reply = |reply: u8| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 3]).unwrap();
            stream.write_all(&[5, 0]).unwrap();
            let (mut head, mut port) = ([0; 4], [0; 2]);
            stream.read_exact(&mut head).unwrap();
            let address: IpAddr = if head[3] == 1 {
                let mut octets = [0; 4];
                stream.read_exact(&mut octets).unwrap();
                octets.into()
            } else {
                let mut octets = [0; 16];
                stream.read_exact(&mut octets).unwrap();
                octets.into()
            };
            stream.read_exact(&mut port).unwrap();
            let answer = [&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0][..], b"hello"].concat();
            stream.write_all(&answer).unwrap();
            SocketAddr::new(address, u16::from_be_bytes(port))
        };
        replies.into_iter().map(reply).collect()
    });
    (proxy, played)
}

#[test]
fn a_proxy_is_asked_for_each_address_of_a_server_unless_it_will_not_connect_at_all() {
    let server: Vec<SocketAddr> = (1..=6).map(|last| ([192, 0, 2, last], 443).into()).collect();
    for (replies, is_reached) in [
        (vec![0], true),
        (vec![5, 0], true),
        (vec![1, 3, 4, 0], true),
        (vec![4, 4, 4, 4], false),
        (vec![2], false),
        (vec![4, 7], false),
    ] {
        let asked = &server[..replies.len()];
        let (proxy, played) = replying(replies);
        let patience = Patience {
            interrupt: &Interrupt::new(),
            until: Instant::now() + LONG,
        };
        let dialled = dial_each(&proxy, &server, &patience);
        assert_eq!(dialled.map(rest).ok(), is_reached.then(|| "hello".to_owned()));
        assert_eq!(played.join().unwrap(), asked);
    }
}

#[test]
fn a_name_is_looked_up_on_this_side_for_socks5() {
    let (proxy, played) = replying(vec![0]);
    let first = ("localhost", 443).to_socket_addrs().unwrap().next().unwrap();
    assert_eq!(rest(dial_within(&proxy, "localhost", 443, LONG).unwrap()), "hello");
    assert_eq!(played.join().unwrap(), [first]);
}

#[test]
fn a_socks_proxy_is_told_user_name_and_password_only_where_it_asks() {
    let login = [&[1, 4][..], b"user", &[4], b"hush"].concat();
    let place = [&[5, 1, 0, 3, 12][..], b"host.example", &[1, 187]].concat();
    let done = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let asks = vec![
        Take(4),
        Send(&[5, 2]),
        Take(login.len()),
        Send(&[1, 0]),
        Take(place.len()),
        Send(done),
    ];
    let asks_not = vec![Take(4), Send(&[5, 0]), Take(place.len()), Send(done)];
    for (script, expected) in [
        (asks, [&[5, 2, 0, 2][..], &login, &place].concat()),
        (asks_not, [&[5, 2, 0, 2][..], &place].concat()),
    ] {
        let (proxy, played) = play("socks5h://user:hush@", script);
        dial_within(&proxy, "host.example", 443, LONG).unwrap();
        assert_eq!(played.join().unwrap(), expected);
    }
}

#[test]
fn a_socks_proxy_that_does_not_let_us_in_wants_a_credential() {
    for (scheme, script, words) in [
        ("socks5h://", vec![Take(3), Send(&[5, 0xff])], "wants a user name"),
        ("socks5h://user:hush@", vec![Take(4), Send(&[5, 0xff])], "does not take"),
        (
            "socks5h://user:hush@",
            vec![Take(4), Send(&[5, 2]), Take(11), Send(&[1, 1])],
            "does not take",
        ),
    ] {
        let problem = refused(scheme, script);
        assert_eq!(problem.kind, FailureKind::Permanent);
        assert_eq!(problem.status, WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED);
        assert!(problem.text.contains(words), "{}", problem.text);
    }
}

#[test]
fn every_reply_of_socks_has_its_words_and_its_kind() {
    let mut words = std::collections::BTreeSet::new();
    for reply in 1..=9 {
        let answer = [5, reply];
        let problem = refused("socks5h://", vec![Take(3), Send(&[5, 0]), Take(19), Send(&answer)]);
        let (kind, status) = match reply {
            2 => (FailureKind::Permanent, WebErrorStatus::FORBIDDEN),
            7 | 8 => (FailureKind::Permanent, WebErrorStatus::CANNOT_CONNECT),
            _ => (
                FailureKind::Transient { retry_after: None },
                WebErrorStatus::CANNOT_CONNECT,
            ),
        };
        assert_eq!((problem.kind, problem.status), (kind, status), "{reply}");
        assert!(words.insert(socks_meaning(reply)), "{reply}");
        assert!(problem.text.contains(socks_meaning(reply)), "{}", problem.text);
    }
}

#[test]
fn junk_is_no_socks() {
    for script in [
        vec![Take(3), Send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Hold],
        vec![Take(3), Send(&[4, 0]), Hold],
        vec![Take(3), Send(&[5, 1]), Hold],
        vec![Take(3), Send(&[5, 2]), Hold],
        vec![Take(3), Send(&[5, 0]), Take(19), Send(&[4, 0]), Hold],
        vec![Take(3), Send(&[5, 0]), Take(19), Send(&[5, 0, 0, 9]), Hold],
    ] {
        let problem = refused("socks5h://", script);
        assert_eq!(problem.kind, FailureKind::Permanent);
        assert_eq!(problem.status, WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE);
    }
}

#[test]
fn a_silent_proxy_is_left_when_the_time_is_over_and_at_once_when_interrupted() {
    for scheme in ["http://", "socks5h://"] {
        let (proxy, _played) = play(scheme, vec![Hold]);
        let problem = Problem::from(dial_within(&proxy, "host.example", 443, Duration::from_millis(100)).unwrap_err());
        assert_eq!(problem.status, WebErrorStatus::TIMEOUT);
        assert!(problem.text.contains(&proxy.to_string()), "{}", problem.text);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::parse(&format!("{scheme}{}", listener.local_addr().unwrap())).unwrap();
        let interrupt = Interrupt::new();
        let in_the_proxy = interrupt.clone();
        let played = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 3]).unwrap();
            in_the_proxy.raise();
            stream
        });
        let patience = Patience {
            interrupt: &interrupt,
            until: Instant::now() + LONG,
        };
        let fault = dial(Some(&proxy), "host.example", 443, &patience).unwrap_err();
        assert!(matches!(fault, Fault::Interrupted), "{fault:?}");
        drop(played.join().unwrap());
        assert!(patience.until > Instant::now() + LONG / 2);
    }
}

#[test]
fn a_proxy_that_cannot_be_reached_is_not_taken_for_the_server() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for scheme in ["http", "socks5", "socks5h"] {
        let proxy = Proxy::parse(&format!("{scheme}://{nobody}")).unwrap();
        let problem = Problem::from(dial_within(&proxy, "192.0.2.1", 443, LONG).unwrap_err());
        assert_eq!(problem.kind, FailureKind::Transient { retry_after: None });
        assert_eq!(problem.status, WebErrorStatus::CANNOT_CONNECT);
        assert!(
            problem
                .text
                .starts_with(&format!("the proxy {proxy}: no connection to {nobody}")),
            "{}",
            problem.text
        );
    }
}
