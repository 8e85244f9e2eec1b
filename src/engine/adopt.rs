//! Going on with what is there already: which stored operation a request for a download means.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Engine;
use super::create::CheckedDownload;
use crate::error::Error;
use crate::operation::{Collision, Operation, Priority, TransferId};

impl Engine {
    /// For each download the stored operation for the same URL and destination: a live one, or one that completed without
    /// anybody having been told, while its file still stands there. The latter is what a crash between the end of a
    /// transfer and the report of it leaves.
    #[must_use]
    pub fn find_same(&self, checked: &[CheckedDownload]) -> Vec<Option<TransferId>> {
        let unreported: Vec<Operation> = self.core.state().table.unacknowledged_completed().cloned().collect();
        let by_destination: HashMap<&Path, &Operation> = unreported
            .iter()
            .map(|operation| (operation.spec.destination.as_path(), operation))
            .collect();
        let same = |one: &CheckedDownload| {
            let destination = one.spec.destination.as_path();
            let live = self.core.state().table.live_for_destination(destination).cloned();
            if let Some(live) = live {
                return self.is_same(&live, one).then_some(live.id);
            }
            let done = by_destination
                .get(destination)
                .filter(|done| self.is_same(done, one) && self.is_in_place(done))?;
            (one.spec.collision != Collision::Replace).then_some(done.id)
        };
        checked.iter().map(same).collect()
    }

    /// What a checked download wants otherwise than the operation that is there already. What was not asked for counts
    /// as the same.
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    pub fn differences(&self, id: TransferId, checked: &CheckedDownload) -> Result<Vec<&'static str>, Error> {
        let operation = self.find(id)?;
        let (stored, asked) = (&operation.spec, &checked.spec);
        let secrets_differ = || self.core.vault.open(id).ok().as_ref() != Some(&checked.secrets);
        let pairs = [
            ("sha256", asked.sha256.is_some() && stored.sha256 != asked.sha256),
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
            ("header", !asked.headers.is_empty() && stored.headers != asked.headers),
            ("secret-header", asked.has_secrets && secrets_differ()),
        ];
        Ok(pairs
            .into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(name, _)| name)
            .collect())
    }

    /// The same app asks for the same URL, hidden values included.
    fn is_same(&self, operation: &Operation, checked: &CheckedDownload) -> bool {
        operation.spec.app == checked.spec.app
            && operation.spec.url == checked.spec.url
            && self.has_same_url(operation, checked)
    }

    /// Of two URLs that are shown alike, whether they are.
    pub(super) fn has_same_url(&self, operation: &Operation, checked: &CheckedDownload) -> bool {
        if !operation.spec.has_secrets {
            return checked.secrets.url.is_none();
        }
        // Secrets that cannot be opened cannot be told apart either; the stored operation counts as the same.
        self.core
            .vault
            .open(operation.id)
            .map_or(true, |stored| stored.url == checked.secrets.url)
    }

    fn is_in_place(&self, operation: &Operation) -> bool {
        let name = operation.published_name.as_deref();
        let path = name.map_or_else(
            || operation.spec.destination.clone(),
            |name| operation.spec.directory().join(OsStr::from_bytes(name)),
        );
        let stat = self.core.environment.storage.stat(&path);
        stat.is_ok_and(|stat| Some(stat.len_bytes) == operation.published_bytes)
    }
}
