//! Going on with what is there already: which stored operation a request for a download means.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::UNIX_EPOCH;

use backhaul_backends::{Digest, DigestAlgorithm};
use backhaul_journal::{FileKind, Stat};

use super::Engine;
use super::create::CheckedDownload;
use super::part::file_has;
use crate::error::Error;
use crate::listing::hash;
use crate::operation::{Collision, CostPolicy, Operation, Priority, Spec, TransferId, millis};
use crate::vault::SealedName;

impl Engine {
    /// For each download the stored operation for the same URL and destination: a live one, or one that completed without
    /// anybody having been told, while its file still stands there. The latter is what a crash between the end of a
    /// transfer and the report of it leaves.
    #[must_use]
    pub fn find_same(&self, checked: &[CheckedDownload]) -> Vec<Option<TransferId>> {
        let done = self.done(false);
        checked.iter().map(|one| self.same(&done, one)).collect()
    }

    /// Those that completed without anybody having been told, by the hash of their destination; of several that have one,
    /// the last to end. `of_list`: those that somebody was told of, too, as far as the history has them: of a list each is told
    /// as it ends, and whoever gives the list again means all of it.
    pub(crate) fn done(&self, of_list: bool) -> HashMap<u64, TransferId> {
        let state = self.core.state();
        let told = of_list.then(|| state.table.acknowledged_completed());
        let completed = told.into_iter().flatten().chain(state.table.unacknowledged_completed());
        completed
            .map(|operation| (hash(operation.spec.destination.as_path()), operation.id))
            .collect()
    }

    /// What [`Engine::find_same`] says of one, where these are `done`.
    pub(crate) fn same(&self, done: &HashMap<u64, TransferId>, one: &CheckedDownload) -> Option<TransferId> {
        let destination = one.spec.destination.as_path();
        let live = {
            let state = self.core.state();
            state.table.live_for_destination(destination).map(Cow::into_owned)
        };
        if let Some(live) = live {
            return self.is_same(&live, one).then_some(live.id);
        }
        if done.is_empty() || one.spec.collision != Collision::Fail {
            return None;
        }
        let done = done.get(&hash(destination))?;
        let done = self.find(*done).ok()?;
        let is_same = done.spec.destination == destination && self.is_same(&done, one);
        (is_same && self.has_what_is_asked(&done, one) && self.is_in_place(&done, one)).then_some(done.id)
    }

    /// What a checked download wants otherwise than the operation that is there already. What was not asked for counts
    /// as the same.
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    pub fn differences(&self, id: TransferId, checked: &CheckedDownload) -> Result<Vec<&'static str>, Error> {
        let operation = self.find(id)?;
        let (stored, asked) = (&operation.spec, &checked.spec);
        let hidden = || self.core.vault.open(SealedName::of(&operation)).ok();
        // What is hidden of the proxy is compared with the proxy.
        let secrets_differ =
            || hidden().map(|stored| stored.with_proxy(None)) != Some(checked.secrets.clone().with_proxy(None));
        let login = checked.secrets.proxy_credential();
        let login_differs = || login != hidden().and_then(|stored| stored.proxy_credential());
        let digest = missing_digest(stored, asked);
        let pairs = [
            ("sha256", digest.as_ref().is_some_and(|(field, _)| *field == "sha256")),
            ("digest", digest.as_ref().is_some_and(|(field, _)| *field == "digest")),
            ("body", sends_other_body(stored, asked)),
            ("mirror", !asked.mirrors.is_empty() && stored.mirrors != asked.mirrors),
            (
                "size",
                asked.expected_bytes.is_some() && stored.expected_bytes != asked.expected_bytes,
            ),
            (
                "collision",
                asked.collision != Collision::default() && stored.collision != asked.collision,
            ),
            (
                "priority",
                asked.priority != Priority::default() && stored.priority != asked.priority,
            ),
            (
                "cost-policy",
                asked.cost_policy != CostPolicy::default() && stored.cost_policy != asked.cost_policy,
            ),
            (
                "proxy",
                asked.proxy.is_some() && stored.proxy != asked.proxy || login.is_some() && login_differs(),
            ),
            ("header", !asked.headers.is_empty() && stored.headers != asked.headers),
            ("secret-header", asked.has_secrets && secrets_differ()),
            (
                "type",
                asked.expected_type.is_some() && stored.expected_type != asked.expected_type,
            ),
            (
                "recoverable",
                !asked.recoverable.is_empty() && stored.recoverable != asked.recoverable,
            ),
        ];
        Ok(pairs
            .into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(name, _)| name)
            .collect())
    }

    /// Refuses to go on with an operation that is not held to the digest, length or type that is asked for, as its success
    /// would be taken for a check that nobody made, and with one that sends another body.
    ///
    /// # Errors
    /// [`Error::Expectation`], naming the field.
    pub fn check_expectations(&self, id: TransferId, checked: &CheckedDownload) -> Result<(), Error> {
        let operation = self.find(id)?;
        let (stored, asked) = (&operation.spec, &checked.spec);
        let size = asked
            .expected_bytes
            .filter(|_| stored.expected_bytes != asked.expected_bytes);
        let differing = missing_digest(stored, asked)
            .or(size.map(|size| ("size", size.to_string())))
            .or_else(|| {
                let kind = asked.expected_type.clone();
                kind.filter(|_| stored.expected_type != asked.expected_type)
                    .map(|kind| ("type", kind))
            });
        let differing = differing.or_else(|| {
            let body = asked.body.as_ref().filter(|_| sends_other_body(stored, asked));
            body.map(|body| ("body", body.shown()))
        });
        let status = operation.status();
        differing.map_or(Ok(()), |(field, value)| {
            Err(Error::Expectation {
                field: field.into(),
                value,
                id,
                status,
            })
        })
    }

    /// The same app asks for the same URL, hidden values included.
    fn is_same(&self, operation: &Operation, checked: &CheckedDownload) -> bool {
        operation.spec.app == checked.spec.app
            && operation.spec.url == checked.spec.url
            && operation.spec.method == checked.spec.method
            && self.has_url(operation, checked.secrets.url.as_deref())
    }

    /// Of two URLs that are shown alike, whether they are. `secret_url` is the whole one, where that is not shown.
    pub(super) fn has_url(&self, operation: &Operation, secret_url: Option<&str>) -> bool {
        if !operation.spec.has_secrets {
            return secret_url.is_none();
        }
        // Secrets that cannot be opened cannot be told apart either; the stored operation counts as the same.
        self.core
            .vault
            .open(SealedName::of(operation))
            .map_or(true, |stored| stored.url.as_deref() == secret_url)
    }

    /// Nothing was asked for that the stored operation was not held to.
    fn has_what_is_asked(&self, operation: &Operation, checked: &CheckedDownload) -> bool {
        self.differences(operation.id, checked)
            .is_ok_and(|differences| differences.is_empty())
    }

    /// The published file stands there with its length and, where a digest is asked for, with that digest: anybody may
    /// have written to it since.
    fn is_in_place(&self, operation: &Operation, checked: &CheckedDownload) -> bool {
        let storage = &self.core.environment.storage;
        let name = operation.published_name.as_deref();
        let path = name.map_or_else(
            || operation.spec.destination.clone(),
            |name| operation.spec.directory().join(OsStr::from_bytes(name)),
        );
        let is_it = |stat: &Stat| {
            // Whoever was told may have put another one there since, which may have got the same inode, or written to it.
            let modified = stat.modified.duration_since(UNIX_EPOCH).map_or(0, millis);
            let is_as_it_came = operation.ended_at_ms.is_some_and(|ended_at_ms| modified <= ended_at_ms);
            let is_same_file = operation.published_inode == Some(stat.inode) && is_as_it_came;
            let is_same_file = operation.acknowledged_at_ms.is_none() || is_same_file;
            stat.kind == FileKind::File && Some(stat.len_bytes) == operation.published_bytes && is_same_file
        };
        let Some(stat) = storage.stat(&path).ok().filter(is_it) else {
            return false;
        };
        let expected = checked.spec.expected_digests();
        expected.is_empty() || file_has(storage, &path, stat.len_bytes, &expected).unwrap_or(false)
    }
}

/// What is to be sent along is not what the stored operation sends.
fn sends_other_body(stored: &Spec, asked: &Spec) -> bool {
    let asked = asked.body.as_ref();
    asked.is_some_and(|asked| !stored.body.as_ref().is_some_and(|stored| stored.is_like(asked)))
}

/// The first digest that is asked for and that the stored operation is not held to: its option, and the digest.
fn missing_digest(stored: &Spec, asked: &Spec) -> Option<(&'static str, String)> {
    let held_to = stored.expected_digests();
    let missing = asked.expected_digests().into_iter();
    let mut missing = missing.filter(|digest| !held_to.contains(digest));
    missing.next().map(|digest| (option_of(&digest), digest.to_string()))
}

fn option_of(digest: &Digest) -> &'static str {
    match digest.algorithm() {
        DigestAlgorithm::Sha256 => "sha256",
        _ => "digest",
    }
}
