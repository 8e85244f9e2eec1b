//! TLS, as rustls makes it. `no_tls` has the same names for builds without it.

use rustls::pki_types::ServerName;
use rustls::{CertificateError, InvalidMessage};
pub(super) use rustls::{ClientConnection, Error};

use super::attempt::Fault;
pub(super) use super::roots::TlsSetup;
use crate::problem::Problem;
use crate::{FailureKind, WebErrorStatus, net};

/// Schemes that are fetched.
pub(super) const SCHEMES: &[&str] = &["http", "https"];

impl TlsSetup {
    /// A connection to a host, before its handshake.
    pub(super) fn client(&self, host: &str) -> Result<ClientConnection, Fault> {
        let config = self.config().map_err(Fault::Roots)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Fault::Net(net::Fault::Name("not a name that a certificate can carry".to_owned())))?;
        ClientConnection::new(config, name).map_err(|error| Fault::Tls(Box::new(error)))
    }
}

/// Classifies what went wrong.
pub(super) fn problem(error: &Error) -> Problem {
    match error {
        Error::InvalidCertificate(error) => certificate_problem(error),
        Error::PeerIncompatible(_) => Problem::permanent(
            WebErrorStatus::CANNOT_CONNECT,
            format!("no common ground for a secure connection: {error}"),
        ),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => Problem::transient(
            WebErrorStatus::CANNOT_CONNECT,
            "the server does not speak TLS on this port; is the URL meant to begin with http:// ?",
        ),
        _ => Problem::transient(
            WebErrorStatus::CONNECTION_ABORTED,
            format!("the secure connection failed: {error}"),
        ),
    }
}

fn certificate_problem(error: &CertificateError) -> Problem {
    use CertificateError as E;
    let refuse = |status, text: &str| Problem::permanent(status, format!("the server's certificate {text}"));
    match error {
        E::NotValidForName | E::NotValidForNameContext { .. } => refuse(
            WebErrorStatus::CERTIFICATE_COMMON_NAME_IS_INCORRECT,
            "is for another host name",
        ),
        E::Expired | E::ExpiredContext { .. } => refuse(
            WebErrorStatus::CERTIFICATE_EXPIRED,
            "has expired, or the clock of this device is wrong",
        ),
        E::NotValidYet | E::NotValidYetContext { .. } => Problem {
            kind: FailureKind::ClockNotSet,
            ..refuse(
                WebErrorStatus::CERTIFICATE_IS_INVALID,
                "is not valid yet; the clock of this device may not be set",
            )
        },
        E::Revoked => refuse(WebErrorStatus::CERTIFICATE_REVOKED, "was revoked"),
        E::UnknownIssuer => refuse(
            WebErrorStatus::CERTIFICATE_IS_INVALID,
            "is from an unknown issuer; give its CA bundle if you trust it",
        ),
        E::BadEncoding | E::BadSignature | E::UnhandledCriticalExtension => refuse(
            WebErrorStatus::CERTIFICATE_CONTAINS_ERRORS,
            &format!("contains errors: {error}"),
        ),
        // Most tools make such a certificate when asked for a self-signed one, so the words of the library need help.
        E::Other(_) if error.to_string().contains("CaUsedAsEndEntity") => refuse(
            WebErrorStatus::CERTIFICATE_IS_INVALID,
            "is itself a CA; make one with basicConstraints=CA:FALSE, or have it issued by a CA",
        ),
        _ => refuse(
            WebErrorStatus::CERTIFICATE_IS_INVALID,
            &format!("is not acceptable: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::tests::{assert_as_in_the_table, kind_and_status};
    use super::*;

    #[test]
    fn every_fault_of_tls_is_treated_as_the_table_of_errors_says() {
        use CertificateError as E;
        let certificates = [
            E::NotValidForName,
            E::Expired,
            E::NotValidYet,
            E::Revoked,
            E::UnknownIssuer,
            E::BadEncoding,
            E::InvalidPurpose,
        ];
        let others = [
            Error::PeerIncompatible(rustls::PeerIncompatible::NoCipherSuitesInCommon),
            Error::InvalidMessage(InvalidMessage::InvalidContentType),
            Error::DecryptError,
        ];
        for error in certificates.map(Error::InvalidCertificate).into_iter().chain(others) {
            assert_as_in_the_table(Fault::Tls(Box::new(error)));
        }
    }

    #[test]
    fn each_certificate_error_has_its_status() {
        use CertificateError as E;
        let rows = [
            (
                E::NotValidForName,
                FailureKind::Permanent,
                WebErrorStatus::CERTIFICATE_COMMON_NAME_IS_INCORRECT,
            ),
            (E::Expired, FailureKind::Permanent, WebErrorStatus::CERTIFICATE_EXPIRED),
            (
                E::NotValidYet,
                FailureKind::ClockNotSet,
                WebErrorStatus::CERTIFICATE_IS_INVALID,
            ),
            (E::Revoked, FailureKind::Permanent, WebErrorStatus::CERTIFICATE_REVOKED),
            (
                E::UnknownIssuer,
                FailureKind::Permanent,
                WebErrorStatus::CERTIFICATE_IS_INVALID,
            ),
            (
                E::BadEncoding,
                FailureKind::Permanent,
                WebErrorStatus::CERTIFICATE_CONTAINS_ERRORS,
            ),
            (
                E::BadSignature,
                FailureKind::Permanent,
                WebErrorStatus::CERTIFICATE_CONTAINS_ERRORS,
            ),
            (
                E::InvalidPurpose,
                FailureKind::Permanent,
                WebErrorStatus::CERTIFICATE_IS_INVALID,
            ),
        ];
        for (error, kind, status) in rows {
            let fault = Fault::Tls(Box::new(Error::InvalidCertificate(error)));
            assert_eq!(kind_and_status(fault), (kind, status), "{status}");
        }
    }
}
