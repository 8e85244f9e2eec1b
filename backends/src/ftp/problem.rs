//! Turns replies of a server and errors of libcurl into classified problems. Pure.

use std::ffi::c_long;

use super::replies::Reply;
use crate::problem::Problem;
use crate::{FailureKind, WebErrorStatus};

/// Numbers of errors that libcurl's crate has no names for.
///
/// Source: libcurl-errors(3).
const ACCEPT_FAILED: u32 = 10;
const ACCEPT_TIMEOUT: u32 = 12;
const TOO_LARGE: u32 = 100;

/// How a transfer of libcurl ended badly.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended<'a> {
    /// `CURLcode`.
    pub(super) code: u32,
    /// What libcurl says beside it; empty in a build without texts.
    pub(super) text: &'a str,
    /// What the check of the certificate gave, as OpenSSL numbers it.
    pub(super) verify_result: c_long,
    /// The last command that was sent, without its arguments; empty before the first.
    pub(super) command: &'a str,
    /// The reply that ended it, where one did.
    pub(super) refusal: Option<&'a Reply>,
    /// User name and password: must not be shown.
    pub(super) secrets: &'a [&'a str],
}

impl Problem {
    pub(super) fn of_libcurl(ended: &Ended<'_>) -> Self {
        if let Some(reply) = ended.refusal
            && is_about_a_reply(ended.code, reply.code)
        {
            return refused(ended.command, reply, ended.secrets);
        }
        let again = |status, text: &str| Self::transient(status, text);
        let never = |status, text: &str| Self::permanent(status, text);
        match ended.code {
            curl_sys::CURLE_PEER_FAILED_VERIFICATION | curl_sys::CURLE_SSL_ISSUER_ERROR => {
                certificate(ended.verify_result, ended.text)
            }
            curl_sys::CURLE_SSL_CONNECT_ERROR | curl_sys::CURLE_SSL_CIPHER => again(
                WebErrorStatus::CANNOT_CONNECT,
                "the secure connection failed: the server may not speak TLS on this port, or nothing that this side accepts",
            ),
            curl_sys::CURLE_SSL_CACERT_BADFILE => never(
                WebErrorStatus::UNEXPECTED_CLIENT_ERROR,
                "the CA certificates cannot be used; correct the CA bundle",
            ),
            curl_sys::CURLE_USE_SSL_FAILED => never(
                WebErrorStatus::CANNOT_CONNECT,
                "the server does not protect the connection; use ftp:// if it need not be protected",
            ),
            curl_sys::CURLE_COULDNT_CONNECT | ACCEPT_FAILED | curl_sys::CURLE_FTP_PORT_FAILED => {
                again(WebErrorStatus::CANNOT_CONNECT, "no data connection could be made")
            }
            curl_sys::CURLE_OPERATION_TIMEDOUT | ACCEPT_TIMEOUT => {
                again(WebErrorStatus::TIMEOUT, "no answer within the time limit")
            }
            curl_sys::CURLE_PARTIAL_FILE
            | curl_sys::CURLE_RECV_ERROR
            | curl_sys::CURLE_SEND_ERROR
            | curl_sys::CURLE_GOT_NOTHING
            | curl_sys::CURLE_FTP_COULDNT_RETR_FILE => again(
                WebErrorStatus::DISCONNECTED,
                "the server closed the connection early, without saying that the transfer is complete",
            ),
            curl_sys::CURLE_FTP_WEIRD_SERVER_REPLY
            | curl_sys::CURLE_FTP_WEIRD_PASS_REPLY
            | curl_sys::CURLE_FTP_WEIRD_PASV_REPLY
            | curl_sys::CURLE_FTP_WEIRD_227_FORMAT
            | curl_sys::CURLE_FTP_CANT_GET_HOST
            | TOO_LARGE => Self::bad_reply("a reply that cannot be understood"),
            curl_sys::CURLE_URL_MALFORMAT | curl_sys::CURLE_UNSUPPORTED_PROTOCOL => never(
                WebErrorStatus::UNEXPECTED_CLIENT_ERROR,
                "libcurl does not take this URL",
            ),
            code => {
                let text = format!("the transfer failed: error {code} of libcurl ({})", ended.text);
                again(WebErrorStatus::CONNECTION_ABORTED, &text)
            }
        }
    }

    /// The server breaks the protocol.
    pub(super) fn bad_reply(text: &str) -> Self {
        let status = WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE;
        Self::permanent(status, format!("the server sent {text}"))
    }

    /// What was said of the file at the beginning is not said at the end. The next attempt asks again.
    pub(super) fn unconfirmed() -> Self {
        let text =
            "the server does not say again what it said of the file before, so that it may have changed meanwhile";
        Self::transient(WebErrorStatus::CONNECTION_ABORTED, text)
    }

    /// The file was another one at the end than at the beginning. The next attempt finds out what it is now.
    pub(super) fn changed_meanwhile(text: &str) -> Self {
        let text = format!("the file changed while it was fetched: {text}");
        Self::transient(WebErrorStatus::LENGTH_MISMATCH, text)
    }
}

/// Whether libcurl made the error of the last reply. Of others that reply is not the cause, even where it is a refusal:
/// some are allowed for. And an end of the connection after a refusal is what the server said it would be.
fn is_about_a_reply(code: u32, reply: u16) -> bool {
    let is_refusal = reply >= 400;
    match code {
        curl_sys::CURLE_OPERATION_TIMEDOUT | curl_sys::CURLE_RECV_ERROR | curl_sys::CURLE_SEND_ERROR => is_refusal,
        // One may come before the greeting, which is then not waited for.
        curl_sys::CURLE_FTP_WEIRD_SERVER_REPLY => true,
        _ => reply >= 200 && is_made_of_replies(code),
    }
}

fn is_made_of_replies(code: u32) -> bool {
    matches!(
        code,
        curl_sys::CURLE_REMOTE_ACCESS_DENIED
            | ACCEPT_FAILED
            | curl_sys::CURLE_FTP_WEIRD_PASS_REPLY
            | ACCEPT_TIMEOUT
            | curl_sys::CURLE_FTP_WEIRD_PASV_REPLY
            | curl_sys::CURLE_FTP_COULDNT_SET_TYPE
            | curl_sys::CURLE_PARTIAL_FILE
            | curl_sys::CURLE_FTP_COULDNT_RETR_FILE
            | curl_sys::CURLE_QUOTE_ERROR
            | curl_sys::CURLE_FTP_PORT_FAILED
            | curl_sys::CURLE_FTP_COULDNT_USE_REST
            | curl_sys::CURLE_USE_SSL_FAILED
            | curl_sys::CURLE_LOGIN_DENIED
            | curl_sys::CURLE_REMOTE_DISK_FULL
            | curl_sys::CURLE_REMOTE_FILE_NOT_FOUND
    )
}

/// What a negative reply means.
///
/// Source: RFC 959, sections 4.2 and 5.4: 4yz may go away, 5yz will not. What is not found and what is not allowed have one
/// number. RFC 4217, section 4, for the refusals of AUTH and PROT.
fn refused(command: &str, reply: &Reply, secrets: &[&str]) -> Problem {
    use WebErrorStatus as S;
    let shown = reply.shown(secrets);
    let text = |words: &str| format!("the server answered {} ({shown}) to {words}", reply.code);
    let plain = if shown.is_empty() {
        format!("the server answered {}", reply.code)
    } else {
        format!("the server answered {} ({shown})", reply.code)
    };
    let again = |status| Problem::transient(status, plain.clone());
    let never = |status| Problem::permanent(status, plain.clone());
    let problem = match (reply.code, command) {
        (_, "AUTH" | "PBSZ" | "PROT") if reply.code >= 500 => Problem::permanent(
            S::CANNOT_CONNECT,
            text("a request to protect the connection; use ftp:// if it need not be protected"),
        ),
        // 430 and 331 are no success of a login either; 332 wants an account, which no URL has.
        (430 | 530 | 532, _) | (331 | 332, "USER" | "PASS") => never(S::UNAUTHORIZED),
        (425, _) => again(S::CANNOT_CONNECT),
        (426, _) => again(S::CONNECTION_ABORTED),
        // 120 is ready in some minutes, 421 goes away, 450 is busy, 451 a local error, 452 no room there.
        (120, "") | (400..=499, _) => again(S::SERVICE_UNAVAILABLE),
        (550 | 551 | 553, _) => never(S::NOT_FOUND),
        (500 | 501 | 503, _) => never(S::BAD_REQUEST),
        (502 | 504 | 522, _) => never(S::NOT_IMPLEMENTED),
        (500..=599, _) => never(S::UNEXPECTED_CLIENT_ERROR),
        _ => Problem::bad_reply(&format!("{} ({shown}), which is no answer to {command}", reply.code)),
    };
    problem.with_code(Some(reply.code))
}

/// What OpenSSL says of the server's certificate.
///
/// Source: `X509_STORE_CTX_get_error(3)`, whose numbers are those of `openssl/x509_vfy.h`.
fn certificate(verify_result: c_long, text: &str) -> Problem {
    use WebErrorStatus as S;
    let refuse = |status, text: &str| Problem::permanent(status, format!("the server's certificate {text}"));
    match verify_result {
        // OpenSSL has nothing against it, or was not asked yet: libcurl itself compares the name, and does so first.
        0 | 1 | 62 | 64 => refuse(S::CERTIFICATE_COMMON_NAME_IS_INCORRECT, "is for another host name"),
        9 => Problem {
            kind: FailureKind::ClockNotSet,
            ..refuse(
                S::CERTIFICATE_IS_INVALID,
                "is not valid yet; the clock of this device may not be set",
            )
        },
        10 => refuse(
            S::CERTIFICATE_EXPIRED,
            "has expired, or the clock of this device is wrong",
        ),
        23 => refuse(S::CERTIFICATE_REVOKED, "was revoked"),
        2 | 18..=21 => refuse(
            S::CERTIFICATE_IS_INVALID,
            "is from an unknown issuer; give its CA bundle if you trust it",
        ),
        4..=8 | 13 | 14 => refuse(
            S::CERTIFICATE_CONTAINS_ERRORS,
            &format!("contains errors: number {verify_result} of OpenSSL"),
        ),
        number => refuse(
            S::CERTIFICATE_IS_INVALID,
            &format!("is not acceptable: number {number} of OpenSSL {text}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web_error_status::table;

    const AGAIN: FailureKind = FailureKind::Transient { retry_after: None };
    const NEVER: FailureKind = FailureKind::Permanent;

    fn reply(code: u16) -> Reply {
        Reply {
            code,
            lines: vec!["because of hush".to_owned()],
        }
    }

    fn of_reply(code: u32, command: &str, reply: &Reply) -> Problem {
        Problem::of_libcurl(&Ended {
            code,
            command,
            refusal: Some(reply),
            secrets: &["hush"],
            ..Ended::default()
        })
    }

    fn of_code(code: u32) -> Problem {
        Problem::of_libcurl(&Ended {
            code,
            ..Ended::default()
        })
    }

    fn is_as_the_table_of_errors_says(problem: &Problem) {
        let word = match problem.kind {
            FailureKind::Transient { .. } => "retried",
            FailureKind::ClockNotSet => "waits",
            FailureKind::Permanent => "fails",
            other => panic!("{other:?} is not made here"),
        };
        let then = table::then(problem.status);
        assert!(then.split(" or ").any(|one| one == word), "{problem:?}: {then}");
    }

    #[test]
    fn each_refusal_is_classified() {
        use WebErrorStatus as S;
        let rows = [
            ("USER", 421, AGAIN, S::SERVICE_UNAVAILABLE),
            ("RETR", 425, AGAIN, S::CANNOT_CONNECT),
            ("RETR", 426, AGAIN, S::CONNECTION_ABORTED),
            ("USER", 434, AGAIN, S::SERVICE_UNAVAILABLE),
            ("RETR", 450, AGAIN, S::SERVICE_UNAVAILABLE),
            ("RETR", 451, AGAIN, S::SERVICE_UNAVAILABLE),
            ("RETR", 452, AGAIN, S::SERVICE_UNAVAILABLE),
            ("RETR", 499, AGAIN, S::SERVICE_UNAVAILABLE),
            ("AUTH", 431, AGAIN, S::SERVICE_UNAVAILABLE),
            ("PASS", 430, NEVER, S::UNAUTHORIZED),
            ("PASS", 331, NEVER, S::UNAUTHORIZED),
            ("USER", 332, NEVER, S::UNAUTHORIZED),
            ("PASS", 530, NEVER, S::UNAUTHORIZED),
            ("RETR", 530, NEVER, S::UNAUTHORIZED),
            ("RETR", 532, NEVER, S::UNAUTHORIZED),
            ("CWD", 550, NEVER, S::NOT_FOUND),
            ("RETR", 550, NEVER, S::NOT_FOUND),
            ("RETR", 551, NEVER, S::NOT_FOUND),
            ("RETR", 553, NEVER, S::NOT_FOUND),
            ("RETR", 500, NEVER, S::BAD_REQUEST),
            ("RETR", 501, NEVER, S::BAD_REQUEST),
            ("RETR", 502, NEVER, S::NOT_IMPLEMENTED),
            ("RETR", 503, NEVER, S::BAD_REQUEST),
            ("RETR", 504, NEVER, S::NOT_IMPLEMENTED),
            ("RETR", 522, NEVER, S::NOT_IMPLEMENTED),
            ("RETR", 552, NEVER, S::UNEXPECTED_CLIENT_ERROR),
            ("AUTH", 502, NEVER, S::CANNOT_CONNECT),
            ("AUTH", 530, NEVER, S::CANNOT_CONNECT),
            ("PROT", 536, NEVER, S::CANNOT_CONNECT),
            ("RETR", 200, NEVER, S::ERROR_HTTP_INVALID_SERVER_RESPONSE),
            ("RETR", 999, NEVER, S::ERROR_HTTP_INVALID_SERVER_RESPONSE),
        ];
        for (command, code, kind, status) in rows {
            let problem = of_reply(curl_sys::CURLE_FTP_COULDNT_RETR_FILE, command, &reply(code));
            assert_eq!((problem.kind, problem.status), (kind, status), "{code} to {command}");
            assert_eq!(problem.code, Some(code));
            assert!(problem.text.contains("because of ***"), "{}", problem.text);
            is_as_the_table_of_errors_says(&problem);
        }
        let soon = of_reply(curl_sys::CURLE_FTP_WEIRD_SERVER_REPLY, "", &reply(120));
        assert_eq!((soon.kind, soon.status), (AGAIN, S::SERVICE_UNAVAILABLE));
        assert!(S::UNAUTHORIZED.wants_credential());
    }

    #[test]
    fn each_error_of_libcurl_without_a_refusal_is_classified() {
        use WebErrorStatus as S;
        let rows = [
            (7, AGAIN, S::CANNOT_CONNECT),
            (8, NEVER, S::ERROR_HTTP_INVALID_SERVER_RESPONSE),
            (10, AGAIN, S::CANNOT_CONNECT),
            (12, AGAIN, S::TIMEOUT),
            (13, NEVER, S::ERROR_HTTP_INVALID_SERVER_RESPONSE),
            (14, NEVER, S::ERROR_HTTP_INVALID_SERVER_RESPONSE),
            (18, AGAIN, S::DISCONNECTED),
            (19, AGAIN, S::DISCONNECTED),
            (28, AGAIN, S::TIMEOUT),
            (30, AGAIN, S::CANNOT_CONNECT),
            (35, AGAIN, S::CANNOT_CONNECT),
            (55, AGAIN, S::DISCONNECTED),
            (56, AGAIN, S::DISCONNECTED),
            (64, NEVER, S::CANNOT_CONNECT),
            (77, NEVER, S::UNEXPECTED_CLIENT_ERROR),
            (100, NEVER, S::ERROR_HTTP_INVALID_SERVER_RESPONSE),
            (3, NEVER, S::UNEXPECTED_CLIENT_ERROR),
            (27, AGAIN, S::CONNECTION_ABORTED),
        ];
        for (code, kind, status) in rows {
            let problem = of_code(code);
            assert_eq!(
                (problem.kind, problem.status, problem.code),
                (kind, status, None),
                "{code}"
            );
            is_as_the_table_of_errors_says(&problem);
        }
        let broken = of_reply(curl_sys::CURLE_RECV_ERROR, "SIZE", &reply(213));
        assert_eq!(broken.status, S::DISCONNECTED, "an end after a good reply");
        let told = of_reply(curl_sys::CURLE_RECV_ERROR, "RETR", &reply(421));
        assert_eq!(told.status, S::SERVICE_UNAVAILABLE, "an end after a refusal");
        let allowed_for = of_reply(curl_sys::CURLE_COULDNT_CONNECT, "EPSV", &reply(500));
        assert_eq!(
            allowed_for.status,
            S::CANNOT_CONNECT,
            "EPSV may be refused; the connection is the cause"
        );
    }

    #[test]
    fn each_certificate_error_has_its_status() {
        use WebErrorStatus as S;
        let rows = [
            (0, NEVER, S::CERTIFICATE_COMMON_NAME_IS_INCORRECT),
            (1, NEVER, S::CERTIFICATE_COMMON_NAME_IS_INCORRECT),
            (62, NEVER, S::CERTIFICATE_COMMON_NAME_IS_INCORRECT),
            (9, FailureKind::ClockNotSet, S::CERTIFICATE_IS_INVALID),
            (10, NEVER, S::CERTIFICATE_EXPIRED),
            (23, NEVER, S::CERTIFICATE_REVOKED),
            (18, NEVER, S::CERTIFICATE_IS_INVALID),
            (19, NEVER, S::CERTIFICATE_IS_INVALID),
            (20, NEVER, S::CERTIFICATE_IS_INVALID),
            (21, NEVER, S::CERTIFICATE_IS_INVALID),
            (7, NEVER, S::CERTIFICATE_CONTAINS_ERRORS),
            (26, NEVER, S::CERTIFICATE_IS_INVALID),
        ];
        for (verify_result, kind, status) in rows {
            let problem = Problem::of_libcurl(&Ended {
                code: curl_sys::CURLE_PEER_FAILED_VERIFICATION,
                verify_result,
                ..Ended::default()
            });
            assert_eq!((problem.kind, problem.status), (kind, status), "{verify_result}");
            is_as_the_table_of_errors_says(&problem);
        }
    }
}
