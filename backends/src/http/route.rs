//! The way that a request takes: straight to the server, or through a proxy.

use super::target::Target;
use crate::problem::{Problem, proxy_login_problem};
use crate::{Proxies, Proxy, ProxyProtocol, net};

/// A way through a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) proxy: Proxy,
    /// What stands before the path in the target of the request, where the proxy itself is asked for the resource. Otherwise
    /// it opens a tunnel.
    front: Option<String>,
}

impl Route {
    /// `None` where the way is direct. An HTTP proxy is asked for plain http in absolute form: many open tunnels to the port
    /// of https only.
    ///
    /// Source: RFC 9112, section 3.2.2.
    pub(super) fn of(proxies: &Proxies, target: &Target) -> Option<Self> {
        let (scheme, host, port) = target.server();
        let proxy = proxies.of(scheme, host, port)?.clone();
        let is_relayed = proxy.protocol() == ProxyProtocol::Http && scheme == "http";
        Some(Self {
            proxy,
            front: is_relayed.then(|| target.front().to_owned()),
        })
    }

    /// Whether the proxy answers in place of the server.
    pub(super) fn is_relayed(&self) -> bool {
        self.front.is_some()
    }

    /// The beginning of a request, as a proxy is asked that answers in place of the server: with a target in absolute form,
    /// and with the credential of the proxy, which no other proxy and no server is told. `None` where no request begins so.
    pub(super) fn front_of_request(&self, beginning: &[u8]) -> Option<Vec<u8>> {
        let front = self.front.as_ref()?;
        let method = beginning.iter().position(|byte| *byte == b' ')? + 1;
        let line = beginning.windows(2).position(|pair| pair == b"\r\n")? + 2;
        if method >= line || beginning[method] != b'/' {
            return None;
        }
        let mut request = [&beginning[..method], front.as_bytes(), &beginning[method..line]].concat();
        if let Some(value) = net::authorization(&self.proxy) {
            request.extend_from_slice(format!("Proxy-Authorization: {value}\r\n").as_bytes());
        }
        request.extend_from_slice(&beginning[line..]);
        Some(request)
    }

    /// What an answer says of the proxy itself, where it speaks for it.
    pub(super) fn problem(&self, status: u16) -> Option<Problem> {
        let problem = (self.is_relayed() && status == 407).then(|| proxy_login_problem(status))?;
        Some(Problem {
            text: format!("the proxy {}: {}", self.proxy, problem.text),
            ..problem
        })
    }

    /// What an answer in the name of the server says; some proxies say so what they mean of themselves.
    pub(super) fn note(&self, problem: Problem) -> Problem {
        if !self.is_relayed() || problem.code != Some(401) {
            return problem;
        }
        Problem {
            text: format!("{}, unless the proxy {} did in its place", problem.text, self.proxy),
            ..problem
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn route(proxy: &str, url: &str) -> Route {
        let proxies = Proxies::all(Proxy::parse(proxy).unwrap());
        Route::of(&proxies, &Target::parse(url).unwrap().0).unwrap()
    }

    #[test]
    fn a_request_that_a_proxy_answers_names_the_server_and_carries_the_credential_of_the_proxy() {
        let asked = b"GET /a?b HTTP/1.1\r\nHost: example.com\r\n\r\n";
        for (proxy, url, expected) in [
            (
                "http://proxy:1",
                "http://example.com/a?b",
                "GET http://example.com/a?b HTTP/1.1\r\nHost: example.com\r\n\r\n",
            ),
            (
                "http://user:hush@proxy:1",
                "http://x:y@[::1]:8080/a?b",
                "GET http://[::1]:8080/a?b HTTP/1.1\r\nProxy-Authorization: Basic dXNlcjpodXNo\r\nHost: example.com\r\n\r\n",
            ),
        ] {
            let request = route(proxy, url).front_of_request(asked).unwrap();
            assert_eq!(String::from_utf8(request).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_beginning_of_a_request_is_not_sent_to_a_proxy() {
        let route = route("http://proxy:1", "http://example.com/");
        for beginning in ["", "GET /", "GET\r\n", "\r\n /", "GET x HTTP/1.1\r\n", "GET /x"] {
            assert_eq!(route.front_of_request(beginning.as_bytes()), None, "{beginning:?}");
        }
    }

    #[test]
    fn a_401_may_be_that_of_the_proxy_and_no_other_status_may() {
        let route = route("http://proxy:1", "http://example.com/");
        let noted = |code| route.note(Problem::http_status(code, None)).text;
        assert!(noted(401).ends_with("unless the proxy http://proxy:1 did in its place"));
        assert!(!noted(403).contains("proxy"));
    }

    #[test]
    fn only_an_http_proxy_for_plain_http_answers_in_place_of_the_server() {
        for (proxy, url, is_relayed) in [
            ("http://proxy:1", "http://example.com/", true),
            ("socks5://proxy:1", "http://example.com/", false),
            #[cfg(feature = "tls")]
            ("http://proxy:1", "https://example.com/", false),
            #[cfg(feature = "tls")]
            ("socks5h://proxy:1", "https://example.com/", false),
        ] {
            let route = route(proxy, url);
            assert_eq!(route.is_relayed(), is_relayed, "{proxy} {url}");
            assert_eq!(route.problem(407).is_some(), is_relayed, "{proxy} {url}");
            assert_eq!(route.problem(401), None);
        }
    }
}
