//! What goes wrong on the way to a server and on the connection to it.

use std::io;

use super::Problem;
use crate::net::{self, ProxyFault, is_unreachable};
use crate::{FailureKind, WebErrorStatus};

impl From<net::Fault> for Problem {
    fn from(fault: net::Fault) -> Self {
        match fault {
            net::Fault::Interrupted => Self::interrupted(),
            net::Fault::TimedOut => Self::transient(WebErrorStatus::TIMEOUT, "no connection within the time limit"),
            net::Fault::Name(text) => name_problem(&text),
            net::Fault::Connect(address, error) => connect_problem(address, &error),
            net::Fault::Proxy(proxy, fault) => {
                let problem = proxy_problem(fault);
                Self {
                    text: format!("the proxy {proxy}: {}", problem.text),
                    ..problem
                }
            }
        }
    }
}

/// Why a proxy leads nowhere, in words that follow its name.
fn proxy_problem(fault: ProxyFault) -> Problem {
    match fault {
        ProxyFault::Away(fault) => (*fault).into(),
        ProxyFault::Silent => Problem::transient(WebErrorStatus::TIMEOUT, "no answer within the time limit"),
        ProxyFault::Broken(error) => connection_problem(&error),
        ProxyFault::Closed => Problem::transient(
            WebErrorStatus::DISCONNECTED,
            "it closed the connection instead of an answer",
        ),
        ProxyFault::Garbled(what) => Problem::permanent(WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE, what),
        ProxyFault::Status(code) => proxy_status_problem(code),
        ProxyFault::NoCredential => Problem::permanent(
            WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED,
            "it wants a user name and a password, or does not let us in at all",
        ),
        ProxyFault::WrongCredential => Problem::permanent(
            WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED,
            "it does not take this user name and password",
        ),
        ProxyFault::Reply(reply) => socks_problem(reply),
    }
}

/// The answer of an HTTP proxy to CONNECT.
fn proxy_status_problem(code: u16) -> Problem {
    // No server has heard of it, so a 401, as tinyproxy says it of a wrong password, is meant like a 407.
    if matches!(code, 401 | 407) {
        return proxy_login_problem(code);
    }
    let status = WebErrorStatus::from_http(code);
    let name = status
        .name()
        .filter(|_| status.0 == i32::from(code))
        .unwrap_or("a status without a name");
    let text = format!("it answered {code} ({name}) to CONNECT");
    Problem::permanent(status, text).by_status(code, None)
}

/// An HTTP proxy that does not let us in (RFC 9110, section 15.5.8).
pub(crate) fn proxy_login_problem(code: u16) -> Problem {
    let text =
        format!("it answered {code}: it wants a user name and a password, or does not take those that it was given");
    Problem::permanent(WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED, text).with_code(Some(code))
}

/// A SOCKS proxy has tried it, or will not. Its network is not ours: this device is never waited for.
fn socks_problem(reply: u8) -> Problem {
    let text = format!(
        "no connection to the server: {} (SOCKS reply {reply})",
        net::socks_meaning(reply)
    );
    match reply {
        2 => Problem::permanent(WebErrorStatus::FORBIDDEN, text),
        7 | 8 => Problem::permanent(WebErrorStatus::CANNOT_CONNECT, text),
        _ => Problem::transient(WebErrorStatus::CANNOT_CONNECT, text),
    }
}

/// A name that does not exist will hardly exist on the next attempt, while a name server that gives no answer says
/// that the network is away. The standard library tells the two apart only in words, those of the C library.
fn name_problem(text: &str) -> Problem {
    const ANSWERED: &[&str] = &[
        "Name or service not known",
        "No address associated with",
        "Name does not resolve",
        "Name has no usable address",
        "not a name",
    ];
    let problem = Problem::transient(
        WebErrorStatus::HOST_NAME_NOT_RESOLVED,
        format!(
            "the host name could not be resolved: {}",
            text.trim_start_matches("failed to lookup address information: ")
        ),
    );
    if ANSWERED.iter().any(|words| text.contains(words)) {
        return problem;
    }
    Problem {
        kind: FailureKind::Unreachable,
        ..problem
    }
}

fn connect_problem(address: std::net::SocketAddr, error: &io::Error) -> Problem {
    let text = format!("no connection to {address}: {error}");
    if is_unreachable(error) {
        let kind = FailureKind::Unreachable;
        return Problem {
            kind,
            ..Problem::permanent(WebErrorStatus::SERVER_UNREACHABLE, text)
        };
    }
    Problem::transient(WebErrorStatus::CANNOT_CONNECT, text)
}

/// An established connection that broke.
pub(crate) fn connection_problem(error: &io::Error) -> Problem {
    let text = format!("the connection broke: {error}");
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Problem::transient(WebErrorStatus::CONNECTION_RESET, text)
        }
        io::ErrorKind::TimedOut => Problem::transient(WebErrorStatus::TIMEOUT, text),
        _ if is_unreachable(error) => {
            let kind = FailureKind::Unreachable;
            Problem {
                kind,
                ..Problem::permanent(WebErrorStatus::SERVER_UNREACHABLE, text)
            }
        }
        _ => Problem::transient(WebErrorStatus::CONNECTION_ABORTED, text),
    }
}
