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
}

impl ResponseInformation {
    /// `None` where no response was accepted yet.
    pub(super) fn of(view: &OperationView) -> Option<Self> {
        Some(Self {
            actual_uri: view.actual_url.clone()?,
            status_code: view.status_code?,
            content_type: view.content_type.clone(),
            is_resumable: view.resumable.unwrap_or(false),
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

    /// The server can continue from an offset. Stands for `IsResumable`.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.is_resumable
    }
}
