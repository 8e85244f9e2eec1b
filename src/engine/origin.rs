//! What an attempt knows of its source: which one it is, what goes there, and what its answer is measured against.

use backhaul_backends::{Digest, Head, Header, Start, sort_few_by_key};

use super::fault::Fault;
use crate::address::{has_same_origin, scheme_of, shown_url};
use crate::mirrors::LINKED_MAX;
use crate::operation::{Operation, Origin, digests};
use crate::vault::Secrets;
use backhaul_backends::{Failure, FailureKind, WebErrorStatus};

/// Longest URLs of the mirrors that a server named, all together, in bytes (chosen without measurement): they are recorded
/// with every response.
const LINKED_BYTES_MAX: usize = 2048;

/// Longest file there can be: an offset within one is a number with a sign.
pub(super) const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// The source of one attempt.
pub(super) struct Source {
    pub(super) number: u32,
    /// Digests that the content was told to have, strongest first.
    pub(super) told: Vec<Digest>,
    /// Mirrors that a server named for it.
    pub(super) mirrors: Vec<String>,
    /// Where the bytes come from, held ones included.
    pub(super) origin: Origin,
}

impl Source {
    pub(super) fn new(operation: &Operation) -> Self {
        let number = operation.source();
        let response = operation.response.as_ref();
        Self {
            number,
            told: response.map(|response| digests(&response.digests)).unwrap_or_default(),
            mirrors: response.map(|response| response.mirrors.clone()).unwrap_or_default(),
            origin: operation.claim.as_ref().map(|claim| claim.origin).unwrap_or_default(),
        }
    }

    /// The URL to request, hidden values included.
    pub(super) fn url(&self, operation: &Operation, secrets: &Secrets) -> String {
        let hidden = match self.number.checked_sub(1) {
            None => secrets.url.as_deref(),
            Some(mirror) => secrets.mirror(mirror),
        };
        let number = usize::try_from(self.number).unwrap_or(0);
        let shown = operation.sources().get(number).copied().unwrap_or(&operation.spec.url);
        hidden.unwrap_or(shown).to_owned()
    }

    /// The scheme of that URL.
    pub(super) fn scheme<'a>(&self, operation: &'a Operation) -> &'a str {
        let number = usize::try_from(self.number).unwrap_or(0);
        let shown = operation.sources().get(number).copied();
        let url = shown.unwrap_or(&operation.spec.url);
        scheme_of(url)
    }

    /// The bytes that are held came from another source than this one.
    pub(super) fn is_foreign(&self) -> bool {
        self.origin.source != self.number
    }

    /// Takes in what an accepted response says of the content. A mirror neither takes back what was told before nor names
    /// mirrors: it was not asked to be believed.
    ///
    /// # Errors
    /// [`Fault::Source`] where a mirror has something else, or the content would be longer than any file; nothing has changed
    /// then.
    pub(super) fn accept(&mut self, head: &Head) -> Result<(), Fault> {
        if let Some(total) = head.validators.total_bytes.filter(|total| *total > FILE_BYTES_MAX) {
            // Room for it would be waited for without end.
            let place = shown_url(&head.actual_url);
            return Err(Fault::Source(Failure {
                kind: FailureKind::Permanent,
                status: WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE,
                code: None,
                message: format!(
                    "{place} announces {total} bytes, and no file has more than {FILE_BYTES_MAX}; fetch it from a place \
                     that knows how long it is"
                ),
            }));
        }
        let continues = matches!(head.start, Start::Continue { .. });
        let news = &head.validators.digests;
        if self.number > 0 || continues {
            let same = |digest: &&Digest| news.iter().find(|other| other.algorithm() == digest.algorithm());
            let other = self.told.iter().find(|told| same(told).is_some_and(|new| new != *told));
            if let Some(told) = other {
                return Err(Fault::Source(Failure {
                    kind: FailureKind::Permanent,
                    status: WebErrorStatus::DIGEST_MISMATCH,
                    code: None,
                    message: format!(
                        "{} says that it has other bytes than {told}",
                        shown_url(&head.actual_url)
                    ),
                }));
            }
            let told = &self.told;
            let more = news
                .iter()
                .filter(|new| !told.iter().any(|told| told.algorithm() == new.algorithm()));
            let more: Vec<Digest> = more.cloned().collect();
            self.told.extend(more);
        } else {
            self.told.clone_from(news);
        }
        sort_few_by_key(&mut self.told, |digest| std::cmp::Reverse(digest.algorithm()));
        // One of each, whatever a backend says: they are stored.
        self.told.dedup_by_key(|digest| digest.algorithm());
        if self.number == 0 && (!continues || self.mirrors.is_empty()) {
            self.mirrors = usable(&head.mirrors);
        }
        self.origin = Origin {
            source: self.number,
            mixed: continues && (self.origin.mixed || self.is_foreign()),
        };
        Ok(())
    }
}

/// Mirrors that can be kept: they are stored, so nothing in them may have to be hidden.
fn usable(named: &[String]) -> Vec<String> {
    let mut left = LINKED_BYTES_MAX;
    let kept = named.iter().filter(|url| {
        let is_kept = url.len() <= left && shown_url(url) == **url;
        left -= if is_kept { url.len() } else { 0 };
        is_kept
    });
    kept.take(LINKED_MAX).cloned().collect()
}

/// The request headers for a URL: what is secret, and what names a host, goes only to the origin that it was given for.
pub(super) fn headers_for(url: &str, operation: &Operation, secrets: &Secrets) -> Vec<Header> {
    let spec = &operation.spec;
    if spec.headers.is_empty() && secrets.headers.is_empty() {
        return Vec::new();
    }
    let at_home = is_at_home(url, operation);
    let plain = spec.headers.iter().map(|header| (header, false));
    let sealed = secrets.headers.iter().map(|header| (header, true));
    plain
        .chain(sealed)
        .filter(|(header, secret)| at_home || !(*secret || header.name.eq_ignore_ascii_case("host")))
        .map(|(header, secret)| Header {
            name: header.name.clone(),
            value: header.value.clone(),
            secret,
        })
        .collect()
}

/// The URL has the origin that credentials were given for.
pub(super) fn is_at_home(url: &str, operation: &Operation) -> bool {
    has_same_origin(url, &operation.spec.url)
}
