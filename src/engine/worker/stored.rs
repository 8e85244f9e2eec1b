//! What is kept of a response, and what a later request is told of it.

use backhaul_backends::{Head, Held, Validators};

use super::super::origin::Source;
use crate::operation::{Beside, Response, StoredHeaders, StoredValidators, stored_digests};

/// Longest entity tag, date, media type and URL that are kept of a response, in bytes (chosen without measurement; tags of
/// common servers have less than 100).
const TAG_BYTES_MAX: usize = 512;
const DATE_BYTES_MAX: usize = 64;
const TYPE_BYTES_MAX: usize = 255;
const ACTUAL_URL_BYTES_MAX: usize = 1024;

/// What is kept of a response. What a server says at more length than anybody needs counts as not said: it is recorded
/// with every claim, and a record has its limit.
pub(super) fn stored_response(head: &Head, source: &Source, is_provable: bool) -> Response {
    let Validators {
        etag,
        last_modified,
        date,
        total_bytes,
        digests: _,
    } = head.validators.clone();
    let short = |text: Option<String>, bytes_max: usize| text.filter(|text| text.len() <= bytes_max);
    // A redirect often leads to a signed URL.
    let mut actual_url = crate::address::shown_url(&head.actual_url);
    if actual_url.len() > ACTUAL_URL_BYTES_MAX {
        // URLs are ASCII.
        actual_url = format!("{}...", actual_url.get(..ACTUAL_URL_BYTES_MAX - 3).unwrap_or_default());
    }
    let validators = StoredValidators {
        etag: short(etag, TAG_BYTES_MAX),
        last_modified: short(last_modified, DATE_BYTES_MAX),
        date: short(date, DATE_BYTES_MAX),
        total_bytes,
    };
    let content_type = short(head.content_type.clone(), TYPE_BYTES_MAX);
    let beside = Beside {
        validators: &validators,
        content_type: content_type.as_deref(),
    };
    Response {
        headers: StoredHeaders::new(&head.headers, beside),
        validators,
        actual_url,
        status_code: head.status_code,
        resumable: head.resumable.unwrap_or(is_provable),
        content_type,
        digests: stored_digests(&source.told),
        mirrors: source.mirrors.clone(),
        origin: source.origin,
    }
}

pub(super) fn unstored(stored: &StoredValidators) -> Validators {
    let StoredValidators {
        etag,
        last_modified,
        date,
        total_bytes,
    } = stored.clone();
    Validators {
        etag,
        last_modified,
        date,
        total_bytes,
        digests: Vec::new(),
    }
}

/// What a later request is told of who gave what is held, and as what.
pub(super) fn given_by(response: Option<&Response>) -> Held {
    Held {
        content_type: response.and_then(|response| response.content_type.clone()),
        server: response.map(|response| response.server().to_owned()),
        ..Held::default()
    }
}
