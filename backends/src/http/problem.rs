//! Turns what went wrong in HTTP and TLS into a classified problem.

use std::time::Duration;

use super::attempt::{Fault, Phase};
use super::tls;
use crate::problem::{Problem, connection_problem};
use crate::{FailureKind, WebErrorStatus, outgoing};

impl Problem {
    /// An HTTP status that is not a success.
    ///
    /// Source: RFC 9110, section 15, for what each status says about trying again; section 10.2.3 for Retry-After.
    pub(super) fn http_status(code: u16, retry_after: Option<Duration>) -> Self {
        let status = WebErrorStatus::from_http(code);
        let name = status
            .name()
            .filter(|_| status.0 == i32::from(code))
            .unwrap_or("a status without a name");
        let text = format!("the server answered {code} ({name})");
        Self::permanent(status, text).by_status(code, retry_after)
    }

    /// A redirect that names no place, or none that is a URL.
    ///
    /// Source: RFC 9110, sections 15.4 and 10.2.2.
    pub(super) fn no_location(code: u16) -> Self {
        let text = format!("the server answered {code} without a Location that can be followed: a URL, in ASCII");
        Self::permanent(WebErrorStatus::REDIRECT_FAILED, text).with_code(Some(code))
    }

    /// The same, where it came from the place that a redirect led to, in the middle of a transfer.
    pub(super) fn at_redirected(self) -> Self {
        match self.code {
            Some(401 | 403 | 404 | 410) if self.kind == FailureKind::Permanent => Self {
                kind: FailureKind::StaleTarget,
                ..self
            },
            _ => self,
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Interrupted => Self::interrupted(),
            Fault::Net(fault) => fault.into(),
            Fault::TimedOut(phase) => Self::transient(WebErrorStatus::TIMEOUT, timeout_text(phase)),
            Fault::Roots(text) => Self::permanent(WebErrorStatus::UNEXPECTED_CLIENT_ERROR, text),
            Fault::Tls(error) => tls::problem(&error),
            Fault::Cut => Self::transient(
                WebErrorStatus::DISCONNECTED,
                "the server cut the secure connection short",
            ),
            Fault::Connection(error) => connection_problem(&error),
            Fault::Body(error) => {
                let (kind, status, text) = outgoing::failure(&error);
                Self {
                    kind,
                    ..Self::permanent(status, text)
                }
            }
            Fault::EndlessFraming => Self::permanent(
                WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE,
                "the server sends chunk sizes or trailer fields without end, and no content; fetch it from another server",
            ),
            Fault::Refused => Self::transient(
                WebErrorStatus::DISCONNECTED,
                "the server answered before it had the whole request, and then not in full",
            ),
            Fault::Unheard(taken) => Self::transient(
                WebErrorStatus::TIMEOUT,
                format!(
                    "no more of the request body was taken within the time limit, after {taken} bytes, while an answer \
                     was waiting: it is read once all of the body is sent, so that a server which answers while it still \
                     reads can be sent little more than the network holds; send less at once"
                ),
            ),
        }
    }
}

fn timeout_text(phase: Phase) -> &'static str {
    match phase {
        Phase::Connect => "no connection within the time limit",
        Phase::Response => "no response within the time limit",
        Phase::Body => "the server fell silent in the middle of the response",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io;

    use super::*;
    use crate::net::{self, ProxyFault};
    use crate::web_error_status::table;

    pub(in crate::http) fn kind_and_status(fault: Fault) -> (FailureKind, WebErrorStatus) {
        let problem = Problem::from(fault);
        (problem.kind, problem.status)
    }

    const AGAIN: FailureKind = FailureKind::Transient { retry_after: None };

    /// The word of the table of errors for what is made of a problem.
    fn word(kind: FailureKind) -> &'static str {
        match kind {
            FailureKind::Transient { .. } => "retried",
            FailureKind::Unreachable | FailureKind::ClockNotSet => "waits",
            FailureKind::Permanent => "fails",
            other => panic!("{other:?} is not made here"),
        }
    }

    /// What is made of a fault is treated as the table of errors says.
    pub(in crate::http) fn assert_as_in_the_table(fault: Fault) {
        let (kind, status) = kind_and_status(fault);
        let then = table::then(status);
        assert!(
            then.split(" or ").any(|one| one == word(kind)),
            "{status}: {kind:?}, {then}"
        );
    }

    #[test]
    fn every_http_status_is_retried_or_fails_as_the_table_of_errors_says() {
        for code in 300..1000 {
            let problem = Problem::http_status(code, None);
            assert_eq!(problem.code, Some(code));
            assert_eq!(word(problem.kind), table::then(problem.status), "{code}");
        }
    }

    #[test]
    fn every_fault_of_the_network_is_treated_as_the_table_of_errors_says() {
        let address = ([127, 0, 0, 1], 1).into();
        let connect = |kind: io::ErrorKind| Fault::Net(net::Fault::Connect(address, kind.into()));
        let proxy = |fault| Fault::Net(net::Fault::Proxy("http://proxy:1".into(), fault));
        let connection = |kind: io::ErrorKind| Fault::Connection(kind.into());
        let faults = [
            Fault::Net(net::Fault::Name("Name or service not known".into())),
            Fault::Net(net::Fault::Name("Temporary failure in name resolution".into())),
            connect(io::ErrorKind::NetworkUnreachable),
            connect(io::ErrorKind::ConnectionRefused),
            proxy(ProxyFault::Away(Box::new(net::Fault::TimedOut))),
            proxy(ProxyFault::Silent),
            proxy(ProxyFault::Broken(io::ErrorKind::ConnectionReset.into())),
            proxy(ProxyFault::Closed),
            proxy(ProxyFault::Garbled("no HTTP")),
            proxy(ProxyFault::NoCredential),
            proxy(ProxyFault::WrongCredential),
            Fault::TimedOut(Phase::Connect),
            Fault::TimedOut(Phase::Response),
            Fault::TimedOut(Phase::Body),
            Fault::Unheard(1),
            Fault::Roots("no roots".into()),
            Fault::Cut,
            Fault::EndlessFraming,
            connection(io::ErrorKind::ConnectionReset),
            connection(io::ErrorKind::TimedOut),
            connection(io::ErrorKind::HostUnreachable),
            connection(io::ErrorKind::Other),
        ];
        let said = (300..1000).map(|code| proxy(ProxyFault::Status(code)));
        let replies = (1..=255).map(|reply| proxy(ProxyFault::Reply(reply)));
        for fault in faults.into_iter().chain(said).chain(replies) {
            assert_as_in_the_table(fault);
        }
    }

    #[test]
    fn a_place_that_a_redirect_led_to_may_be_asked_for_anew_where_it_refuses() {
        for code in [401, 403, 404, 410] {
            let problem = Problem::http_status(code, None).at_redirected();
            assert_eq!(problem.kind, FailureKind::StaleTarget, "{code}");
        }
        for code in [400, 402, 451, 503] {
            let problem = Problem::http_status(code, None);
            assert_eq!(problem.clone().at_redirected(), problem);
        }
    }

    #[test]
    fn a_name_server_without_an_answer_is_no_network_and_a_name_without_an_address_is_one_attempt() {
        let rows = [
            ("Temporary failure in name resolution", FailureKind::Unreachable),
            ("Try again", FailureKind::Unreachable),
            ("words that nobody knows", FailureKind::Unreachable),
            ("Name or service not known", AGAIN),
            ("No address associated with hostname", AGAIN),
            ("Name does not resolve", AGAIN),
        ];
        for (text, kind) in rows {
            let fault = Fault::Net(net::Fault::Name(format!(
                "failed to lookup address information: {text}"
            )));
            assert_eq!(
                kind_and_status(fault),
                (kind, WebErrorStatus::HOST_NAME_NOT_RESOLVED),
                "{text}"
            );
        }
    }

    #[test]
    fn errors_of_the_network_are_told_apart_from_answers_of_the_server() {
        use io::ErrorKind as E;
        let address = ([127, 0, 0, 1], 1).into();
        let connect = |kind: E| kind_and_status(Fault::Net(net::Fault::Connect(address, kind.into())));
        for kind in [E::NetworkUnreachable, E::HostUnreachable, E::NetworkDown] {
            assert_eq!(
                connect(kind),
                (FailureKind::Unreachable, WebErrorStatus::SERVER_UNREACHABLE),
                "{kind}"
            );
        }
        assert_eq!(connect(E::ConnectionRefused), (AGAIN, WebErrorStatus::CANNOT_CONNECT));
        let broken = |kind: E| kind_and_status(Fault::Connection(kind.into()));
        assert_eq!(broken(E::ConnectionReset), (AGAIN, WebErrorStatus::CONNECTION_RESET));
        assert_eq!(broken(E::BrokenPipe), (AGAIN, WebErrorStatus::CONNECTION_RESET));
        assert_eq!(broken(E::TimedOut), (AGAIN, WebErrorStatus::TIMEOUT));
        assert_eq!(
            broken(E::HostUnreachable),
            (FailureKind::Unreachable, WebErrorStatus::SERVER_UNREACHABLE)
        );
        assert_eq!(broken(E::Other), (AGAIN, WebErrorStatus::CONNECTION_ABORTED));
    }
}
