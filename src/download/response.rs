//! What a server answered.

use crate::engine::OperationView;

/// The last response that a download was fetched from.
///
/// Stands for `ResponseInformation`. It differs in that it is a copy, which never changes; a download that goes on after a
/// pause may have another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseInformation {
    actual_uri: String,
    status_code: u16,
    content_type: Option<String>,
    is_resumable: bool,
    headers: Vec<(String, String)>,
    are_headers_cut: bool,
}

impl ResponseInformation {
    /// `None` where no response was accepted yet.
    pub(super) fn of(view: &OperationView) -> Option<Self> {
        Some(Self {
            actual_uri: view.actual_url.clone()?,
            status_code: view.status_code?,
            content_type: view.content_type.clone(),
            is_resumable: view.resumable.unwrap_or(false),
            headers: view.response_headers.clone(),
            are_headers_cut: view.response_headers_cut,
        })
    }

    /// The URL that answered, after redirects; secrets in it read `***`. Stands for `ActualUri`.
    #[must_use]
    pub fn actual_uri(&self) -> &str {
        &self.actual_uri
    }

    /// The HTTP status. Stands for `StatusCode`.
    #[must_use]
    pub fn status_code(&self) -> u16 {
        self.status_code
    }

    /// The media type, where the server named one.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The value of a header field, whatever the case of its name; the first where there are several.
    ///
    /// Stands for a look into `Headers`. It differs in that there the case of the name has to be that of the server.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Names and values of the header fields as they were sent, in their order; without those that may carry a secret, and
    /// 1.5 KiB at most. Stands for `Headers`.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// Some header fields did not fit, and were left out.
    #[must_use]
    pub fn are_headers_cut(&self) -> bool {
        self.are_headers_cut
    }

    /// The server can continue from an offset. Stands for `IsResumable`.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.is_resumable
    }
}
