//! Errors as the API names them.

use std::fmt;
use std::str::FromStr;

/// Why a transfer failed, as an open set of numbers: those of `Windows.Web.WebErrorStatus` keep their values, HTTP
/// statuses stand for themselves, and 1000 and above are ours.
///
#[doc = include_str!("../ERRORS.md")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebErrorStatus(pub i32);

/// Names by number, in ascending order.
const NAMES: &[(i32, &str)] = &[
    (0, "Unknown"),
    (1, "CertificateCommonNameIsIncorrect"),
    (2, "CertificateExpired"),
    (3, "CertificateContainsErrors"),
    (4, "CertificateRevoked"),
    (5, "CertificateIsInvalid"),
    (6, "ServerUnreachable"),
    (7, "Timeout"),
    (8, "ErrorHttpInvalidServerResponse"),
    (9, "ConnectionAborted"),
    (10, "ConnectionReset"),
    (11, "Disconnected"),
    (12, "HttpToHttpsOnRedirection"),
    (13, "HttpsToHttpOnRedirection"),
    (14, "CannotConnect"),
    (15, "HostNameNotResolved"),
    (16, "OperationCanceled"),
    (17, "RedirectFailed"),
    (18, "UnexpectedStatusCode"),
    (19, "UnexpectedRedirection"),
    (20, "UnexpectedClientError"),
    (21, "UnexpectedServerError"),
    (22, "InsufficientRangeSupport"),
    (23, "MissingContentLengthSupport"),
    (300, "MultipleChoices"),
    (301, "MovedPermanently"),
    (302, "Found"),
    (303, "SeeOther"),
    (304, "NotModified"),
    (305, "UseProxy"),
    (307, "TemporaryRedirect"),
    (308, "PermanentRedirect"),
    (400, "BadRequest"),
    (401, "Unauthorized"),
    (402, "PaymentRequired"),
    (403, "Forbidden"),
    (404, "NotFound"),
    (405, "MethodNotAllowed"),
    (406, "NotAcceptable"),
    (407, "ProxyAuthenticationRequired"),
    (408, "RequestTimeout"),
    (409, "Conflict"),
    (410, "Gone"),
    (411, "LengthRequired"),
    (412, "PreconditionFailed"),
    (413, "RequestEntityTooLarge"),
    (414, "RequestUriTooLong"),
    (415, "UnsupportedMediaType"),
    (416, "RequestedRangeNotSatisfiable"),
    (417, "ExpectationFailed"),
    (421, "MisdirectedRequest"),
    (425, "TooEarly"),
    (429, "TooManyRequests"),
    (451, "UnavailableForLegalReasons"),
    (500, "InternalServerError"),
    (501, "NotImplemented"),
    (502, "BadGateway"),
    (503, "ServiceUnavailable"),
    (504, "GatewayTimeout"),
    (505, "HttpVersionNotSupported"),
    (507, "InsufficientStorage"),
    (511, "NetworkAuthenticationRequired"),
    (1000, "DiskFull"),
    (1001, "FileAccess"),
    (1002, "DestinationExists"),
    (1003, "DigestMismatch"),
    (1004, "LengthMismatch"),
    (1005, "LocalDataDamaged"),
    (1006, "UnsupportedScheme"),
    (1007, "CredentialUnavailable"),
    (1008, "UnexpectedContentType"),
];

impl WebErrorStatus {
    /// Unclassified.
    pub const UNKNOWN: Self = Self(0);
    /// The certificate's name does not match the host.
    pub const CERTIFICATE_COMMON_NAME_IS_INCORRECT: Self = Self(1);
    /// The certificate is out of date.
    pub const CERTIFICATE_EXPIRED: Self = Self(2);
    /// The certificate is malformed.
    pub const CERTIFICATE_CONTAINS_ERRORS: Self = Self(3);
    /// The certificate was revoked.
    pub const CERTIFICATE_REVOKED: Self = Self(4);
    /// The certificate is invalid in another way.
    pub const CERTIFICATE_IS_INVALID: Self = Self(5);
    /// The server does not answer.
    pub const SERVER_UNREACHABLE: Self = Self(6);
    /// A time limit passed.
    pub const TIMEOUT: Self = Self(7);
    /// The response cannot be understood.
    pub const ERROR_HTTP_INVALID_SERVER_RESPONSE: Self = Self(8);
    /// The connection was aborted.
    pub const CONNECTION_ABORTED: Self = Self(9);
    /// The peer reset the connection.
    pub const CONNECTION_RESET: Self = Self(10);
    /// The connection ended early.
    pub const DISCONNECTED: Self = Self(11);
    /// A redirect led to a secure URL.
    pub const HTTP_TO_HTTPS_ON_REDIRECTION: Self = Self(12);
    /// A redirect led from a secure URL to a plain one.
    pub const HTTPS_TO_HTTP_ON_REDIRECTION: Self = Self(13);
    /// No connection to the destination.
    pub const CANNOT_CONNECT: Self = Self(14);
    /// The name could not be resolved.
    pub const HOST_NAME_NOT_RESOLVED: Self = Self(15);
    /// The operation was canceled.
    pub const OPERATION_CANCELED: Self = Self(16);
    /// A redirect could not be followed.
    pub const REDIRECT_FAILED: Self = Self(17);
    /// A failure status outside the listed ones.
    pub const UNEXPECTED_STATUS_CODE: Self = Self(18);
    /// A redirect that was not expected.
    pub const UNEXPECTED_REDIRECTION: Self = Self(19);
    /// An error on this side, unclassified.
    pub const UNEXPECTED_CLIENT_ERROR: Self = Self(20);
    /// An error on the server's side, unclassified.
    pub const UNEXPECTED_SERVER_ERROR: Self = Self(21);
    /// Random access needs ranges that the server lacks.
    pub const INSUFFICIENT_RANGE_SUPPORT: Self = Self(22);
    /// Random access needs a length that the server did not say.
    pub const MISSING_CONTENT_LENGTH_SUPPORT: Self = Self(23);
    /// HTTP status 300.
    pub const MULTIPLE_CHOICES: Self = Self(300);
    /// HTTP status 301.
    pub const MOVED_PERMANENTLY: Self = Self(301);
    /// HTTP status 302.
    pub const FOUND: Self = Self(302);
    /// HTTP status 303.
    pub const SEE_OTHER: Self = Self(303);
    /// HTTP status 304.
    pub const NOT_MODIFIED: Self = Self(304);
    /// HTTP status 305.
    pub const USE_PROXY: Self = Self(305);
    /// HTTP status 307.
    pub const TEMPORARY_REDIRECT: Self = Self(307);
    /// HTTP status 308.
    pub const PERMANENT_REDIRECT: Self = Self(308);
    /// HTTP status 400.
    pub const BAD_REQUEST: Self = Self(400);
    /// HTTP status 401.
    pub const UNAUTHORIZED: Self = Self(401);
    /// HTTP status 402.
    pub const PAYMENT_REQUIRED: Self = Self(402);
    /// HTTP status 403.
    pub const FORBIDDEN: Self = Self(403);
    /// HTTP status 404.
    pub const NOT_FOUND: Self = Self(404);
    /// HTTP status 405.
    pub const METHOD_NOT_ALLOWED: Self = Self(405);
    /// HTTP status 406.
    pub const NOT_ACCEPTABLE: Self = Self(406);
    /// HTTP status 407.
    pub const PROXY_AUTHENTICATION_REQUIRED: Self = Self(407);
    /// HTTP status 408.
    pub const REQUEST_TIMEOUT: Self = Self(408);
    /// HTTP status 409.
    pub const CONFLICT: Self = Self(409);
    /// HTTP status 410.
    pub const GONE: Self = Self(410);
    /// HTTP status 411.
    pub const LENGTH_REQUIRED: Self = Self(411);
    /// HTTP status 412.
    pub const PRECONDITION_FAILED: Self = Self(412);
    /// HTTP status 413.
    pub const REQUEST_ENTITY_TOO_LARGE: Self = Self(413);
    /// HTTP status 414.
    pub const REQUEST_URI_TOO_LONG: Self = Self(414);
    /// HTTP status 415.
    pub const UNSUPPORTED_MEDIA_TYPE: Self = Self(415);
    /// HTTP status 416.
    pub const REQUESTED_RANGE_NOT_SATISFIABLE: Self = Self(416);
    /// HTTP status 417.
    pub const EXPECTATION_FAILED: Self = Self(417);
    /// HTTP status 421.
    pub const MISDIRECTED_REQUEST: Self = Self(421);
    /// HTTP status 425.
    pub const TOO_EARLY: Self = Self(425);
    /// HTTP status 429.
    pub const TOO_MANY_REQUESTS: Self = Self(429);
    /// HTTP status 451.
    pub const UNAVAILABLE_FOR_LEGAL_REASONS: Self = Self(451);
    /// HTTP status 500.
    pub const INTERNAL_SERVER_ERROR: Self = Self(500);
    /// HTTP status 501.
    pub const NOT_IMPLEMENTED: Self = Self(501);
    /// HTTP status 502.
    pub const BAD_GATEWAY: Self = Self(502);
    /// HTTP status 503.
    pub const SERVICE_UNAVAILABLE: Self = Self(503);
    /// HTTP status 504.
    pub const GATEWAY_TIMEOUT: Self = Self(504);
    /// HTTP status 505.
    pub const HTTP_VERSION_NOT_SUPPORTED: Self = Self(505);
    /// HTTP status 507.
    pub const INSUFFICIENT_STORAGE: Self = Self(507);
    /// HTTP status 511.
    pub const NETWORK_AUTHENTICATION_REQUIRED: Self = Self(511);
    /// This device has no room.
    pub const DISK_FULL: Self = Self(1000);
    /// A file of this device could not be read or written.
    pub const FILE_ACCESS: Self = Self(1001);
    /// The destination exists and must not be replaced.
    pub const DESTINATION_EXISTS: Self = Self(1002);
    /// The content is not the expected one.
    pub const DIGEST_MISMATCH: Self = Self(1003);
    /// The length is not the expected one.
    pub const LENGTH_MISMATCH: Self = Self(1004);
    /// Stored bytes were damaged or changed by somebody else.
    pub const LOCAL_DATA_DAMAGED: Self = Self(1005);
    /// No backend speaks this protocol.
    pub const UNSUPPORTED_SCHEME: Self = Self(1006);
    /// A sealed secret cannot be opened.
    pub const CREDENTIAL_UNAVAILABLE: Self = Self(1007);
    /// The content is of another media type than the expected one.
    pub const UNEXPECTED_CONTENT_TYPE: Self = Self(1008);

    /// The name, where the number has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let index = NAMES.binary_search_by_key(&self.0, |(number, _)| *number).ok()?;
        Some(NAMES[index].1)
    }

    /// Whether an operation may be created so that this error stops it instead of ending it: whether its owner can mend
    /// it with another URL, other headers or another credential. Errors of this device, a cancel, and content that was
    /// fetched and is wrong are none of those.
    #[must_use]
    pub fn is_mendable(self) -> bool {
        const NEVER: &[WebErrorStatus] = &[
            WebErrorStatus::OPERATION_CANCELED,
            WebErrorStatus::DISK_FULL,
            WebErrorStatus::FILE_ACCESS,
            WebErrorStatus::DESTINATION_EXISTS,
            WebErrorStatus::DIGEST_MISMATCH,
            WebErrorStatus::LENGTH_MISMATCH,
            WebErrorStatus::LOCAL_DATA_DAMAGED,
        ];
        self.name().is_some() && !NEVER.contains(&self)
    }

    /// Whether a credential is what mends it; else another URL is.
    #[must_use]
    pub fn wants_credential(self) -> bool {
        matches!(
            self,
            Self::UNAUTHORIZED | Self::PROXY_AUTHENTICATION_REQUIRED | Self::CREDENTIAL_UNAVAILABLE
        )
    }

    /// The status for an HTTP response that is not a success. One that has no name here falls into its class; a number
    /// outside of 100 to 599 is no HTTP status, and is named so.
    ///
    /// Source: RFC 9110, section 15.
    #[must_use]
    pub fn from_http(code: u16) -> Self {
        match (Self(i32::from(code)).name(), code) {
            (Some(_), 300..600) => Self(i32::from(code)),
            (None, 300..400) => Self::UNEXPECTED_REDIRECTION,
            (None, 400..500) => Self::UNEXPECTED_CLIENT_ERROR,
            (None, 500..600) => Self::UNEXPECTED_SERVER_ERROR,
            _ => Self::UNEXPECTED_STATUS_CODE,
        }
    }
}

impl fmt::Display for WebErrorStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "WebErrorStatus({})", self.0),
        }
    }
}

/// A status by its number or its name, in any case; only those that have a name.
impl FromStr for WebErrorStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().map(Self).filter(|status| status.name().is_some());
        let by_name = || NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        number
            .or_else(|| by_name().map(|(number, _)| Self(*number)))
            .ok_or_else(|| "is no error status; write its number or name, like 403 or Forbidden".into())
    }
}

/// The table of errors, for the tests that hold the code against it.
#[cfg(test)]
pub(crate) mod table {
    use super::WebErrorStatus;

    /// One row of `ERRORS.md`.
    #[derive(Debug)]
    pub(crate) struct Row {
        pub(crate) status: WebErrorStatus,
        pub(crate) name: &'static str,
        pub(crate) then: &'static str,
        pub(crate) is_mendable: &'static str,
    }

    /// The rows in their order.
    pub(crate) fn rows() -> Vec<Row> {
        let lines = include_str!("../ERRORS.md").lines();
        let cells = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        let rows = cells.filter_map(|cells| match cells[..] {
            ["", number, name, _, then, is_mendable, ""] => Some(Row {
                status: WebErrorStatus(number.parse().ok()?),
                name: name.trim_matches('`'),
                then,
                is_mendable,
            }),
            _ => None,
        });
        rows.collect()
    }

    /// What the table says of a status.
    #[cfg(any(feature = "http", feature = "ftp"))]
    pub(crate) fn then(status: WebErrorStatus) -> &'static str {
        let row = rows().into_iter().find(|row| row.status == status);
        row.unwrap_or_else(|| panic!("no row for {status}")).then
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_errors_has_every_status_under_its_number_and_name_and_says_whether_it_can_be_mended() {
        let rows = table::rows();
        let numbers: Vec<(i32, &str)> = rows.iter().map(|row| (row.status.0, row.name)).collect();
        assert_eq!(numbers, NAMES);
        for row in rows {
            let is_mendable = if row.status.is_mendable() { "yes" } else { "no" };
            assert_eq!(row.is_mendable, is_mendable, "{row:?}");
            for word in row.then.split(" or ") {
                assert!(["fails", "retried", "waits", "ends"].contains(&word), "{row:?}");
            }
        }
    }

    #[test]
    fn a_status_is_read_by_number_and_by_name_and_nothing_else_is_one() {
        assert_eq!("403".parse(), Ok(WebErrorStatus::FORBIDDEN));
        assert_eq!("notFound".parse(), Ok(WebErrorStatus::NOT_FOUND));
        for (number, name) in NAMES {
            assert_eq!(name.parse(), Ok(WebErrorStatus(*number)));
        }
        for wrong in ["", "418", "-1", "404.0", "Not Found", "99999999999"] {
            assert!(wrong.parse::<WebErrorStatus>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_in_ascending_order_so_that_look_ups_find_them() {
        assert!(NAMES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn an_unlisted_status_falls_into_its_class() {
        assert_eq!(WebErrorStatus::from_http(404), WebErrorStatus::NOT_FOUND);
        assert_eq!(WebErrorStatus::from_http(418), WebErrorStatus::UNEXPECTED_CLIENT_ERROR);
        assert_eq!(WebErrorStatus::from_http(599), WebErrorStatus::UNEXPECTED_SERVER_ERROR);
        assert_eq!(WebErrorStatus::from_http(100), WebErrorStatus::UNEXPECTED_STATUS_CODE);
        // Numbers of ours, and of the transport, are no HTTP statuses.
        assert_eq!(WebErrorStatus::from_http(999), WebErrorStatus::UNEXPECTED_STATUS_CODE);
    }
}
