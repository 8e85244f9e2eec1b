//! What an application may expect of the engine, and how what a crash left is compared with that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use backhaul::{Catalog, Collision, NewDownload, OperationView, Priority, TransferId, TransferStatus, WebErrorStatus};
use backhaul_backends::{MemoryBackend, Resource, Validators};
use backhaul_journal::simulation::SimDisk;

pub(crate) const DATA: &str = "/data";
/// Deep, so that the engine makes directories whose names have to last.
pub(crate) const STATE: &str = "/var/lib/state";
/// Most bytes of one transfer that a crash may cost.
pub(crate) const WINDOW_BYTES: u64 = 4096;
/// Bytes between two claims.
pub(crate) const CLAIM_BYTES: u64 = WINDOW_BYTES / 2;
/// Files up to this size have no claims.
pub(crate) const SHORT_BYTES: u64 = 1024;
/// What must never be seen outside of the vault.
pub(crate) const SECRET: &str = "hunter2-is-secret";

/// A header by which the server knows that the secret one has to come along.
pub(crate) const NEEDS_KEY: &str = "X-Needs-Key: yes";

/// How a server lets its resource be told from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// By a strong entity tag.
    Strong,
    /// By a strong entity tag, without announcing a length.
    Unannounced,
    /// By nothing.
    Nothing,
    /// By a strong entity tag, and it cannot go on from an offset all the same.
    Whole,
}

/// What one URL serves.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) proof: Proof,
    pub(crate) len: usize,
    /// Counts the changes of the resource.
    pub(crate) version: u32,
    pub(crate) is_withdrawn: bool,
    /// Once it has refused for good, an operation may have failed because of it.
    pub(crate) has_refused: bool,
}

/// What is known of something that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    No,
    /// The answer was lost in a crash.
    Maybe,
    Yes,
}

/// One download that was asked for, and what was promised of it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Where it was accepted, or came out of a recovery.
    pub(crate) id: Option<TransferId>,
    /// Downloads of one call are accepted together or not at all.
    pub(crate) call: u32,
    pub(crate) url: usize,
    /// The version served when it was created.
    pub(crate) since: u32,
    pub(crate) destination: PathBuf,
    pub(crate) collision: Collision,
    /// The version whose digest is expected.
    pub(crate) digest: Option<u32>,
    /// It is to stand still until it is started.
    pub(crate) held: bool,
    pub(crate) is_post: bool,
    pub(crate) canceled: Known,
    pub(crate) removed: Known,
    pub(crate) acknowledged: Known,
    pub(crate) changed: Known,
    /// The end that was seen, once it was durable.
    pub(crate) ended: Option<TransferStatus>,
    /// Where its file was seen to be published, once that was durable.
    pub(crate) published: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) served: Vec<Served>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) calls: u32,
    /// Connections of one transfer.
    pub(crate) connections: usize,
    /// Files that somebody else put there.
    pub(crate) foreign: BTreeMap<PathBuf, Vec<u8>>,
    /// One that he may be about to put there.
    pub(crate) foreign_at_rename: Option<(PathBuf, Vec<u8>)>,
    /// Paths from which somebody took a file away: what is there now is not known.
    pub(crate) taken: BTreeSet<PathBuf>,
    /// A call to the disk has failed, or may fail: what is fetched again because of it is not counted.
    pub(crate) is_faulty: bool,
    /// How often one failed, or may have. One alone makes no operation fail.
    pub(crate) faults: u32,
    /// Bytes of a part file were changed behind the engine's back.
    pub(crate) is_rotten: bool,
}

pub(crate) fn url(index: usize) -> String {
    format!("mem://host/{index}")
}

/// What is sent along with a POST to a URL; longer than a sector.
pub(crate) fn body(url: usize) -> Vec<u8> {
    content(url, u32::MAX, 1_300)
}

/// Each version of each resource differs from all others in almost every byte.
pub(crate) fn content(url: usize, version: u32, len: usize) -> Vec<u8> {
    let mut state = (url as u64) << 32 | u64::from(version) << 1 | 1;
    (0..len)
        .map(|_| {
            // Xorshift (Marsaglia, 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

impl Served {
    pub(crate) fn resource(&self, url: usize) -> Resource {
        let content = content(url, self.version, self.len);
        let total_bytes = Some(content.len() as u64);
        let resource = Resource::new(content, &self.version.to_string());
        match self.proof {
            Proof::Strong => resource,
            Proof::Unannounced => Resource {
                validators: Validators {
                    total_bytes: None,
                    ..resource.validators
                },
                ..resource
            },
            Proof::Nothing => Resource {
                validators: Validators {
                    total_bytes,
                    ..Validators::default()
                },
                ..resource
            },
            Proof::Whole => Resource {
                resumable: false,
                ..resource
            },
        }
    }
}

impl Model {
    pub(crate) fn new(served: Vec<Served>) -> Self {
        Self {
            served,
            asked: Vec::new(),
            calls: 0,
            connections: 1,
            foreign: BTreeMap::new(),
            foreign_at_rename: None,
            taken: BTreeSet::new(),
            is_faulty: false,
            faults: 0,
            is_rotten: false,
        }
    }

    /// Whether the file was put there that was about to be.
    pub(crate) fn settle_foreign(&mut self, disk: &SimDisk) {
        if let Some((path, bytes)) = self.foreign_at_rename.take()
            && disk.find(&path).as_ref() == Some(&bytes)
        {
            self.foreign.insert(path, bytes);
        }
    }

    /// A server that serves what is served now, and nothing but that.
    pub(crate) fn server(&self) -> MemoryBackend {
        let server = MemoryBackend::new();
        let there = self
            .served
            .iter()
            .enumerate()
            .filter(|(_, served)| !served.is_withdrawn);
        there.for_each(|(index, served)| server.put(&url(index), served.resource(index)));
        server
    }

    /// The download as it is asked for.
    pub(crate) fn request(&self, asked: &Asked, is_secret: bool, hold: bool) -> NewDownload {
        let digest = |version| {
            let bytes = content(asked.url, version, self.served[asked.url].len);
            let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
            <[u8; 32]>::try_from(digest.as_ref()).unwrap()
        };
        let headers = |text: String| if is_secret { vec![text] } else { Vec::new() };
        NewDownload {
            url: url(asked.url),
            destination: asked.destination.clone(),
            app: "test".into(),
            collision: asked.collision,
            sha256: asked.digest.map(digest),
            headers: headers(NEEDS_KEY.into()),
            secret_headers: headers(format!("X-Key: {SECRET}")),
            hold,
            ..NewDownload::default()
        }
    }

    /// The position of the download that a row of a listing is about.
    fn find(&self, view: &OperationView) -> usize {
        let by_id = self.asked.iter().position(|asked| asked.id == Some(view.id));
        let is_it = |asked: &Asked| asked.id.is_none() && url(asked.url) == view.url && asked.collision_allows(view);
        let found = by_id.or_else(|| self.asked.iter().position(is_it));
        found.unwrap_or_else(|| panic!("nobody asked for {view:?}"))
    }

    /// Compares what a crash left with what was promised, before anybody opens it. `before` is the disk as it was then.
    pub(crate) fn judge(&self, before: &SimDisk, image: &SimDisk, catalog: &Catalog) {
        let mut rows: BTreeMap<usize, &OperationView> = BTreeMap::new();
        for view in &catalog.operations {
            let twice = rows.insert(self.find(view), view);
            assert!(twice.is_none(), "one download is there twice: {twice:?}, {view:?}");
        }
        for (index, asked) in self.asked.iter().enumerate() {
            let row = rows.get(&index).copied();
            asked.judge(row);
            let together = |other: &Asked| other.call == asked.call && other.id.is_none();
            let whole = self.asked.iter().enumerate().filter(|(_, other)| together(other));
            let there = whole.map(|(other, _)| rows.contains_key(&other) == row.is_some());
            assert!(
                asked.id.is_some() || there.min() == Some(true),
                "a list was accepted in part: {:?}",
                rows.values()
            );
            if let Some(view) = row {
                self.judge_claim(asked, view, image);
            }
        }
        assert_eq!(catalog.unacknowledged_lost, 0);
        self.judge_loss(before, catalog);
    }

    /// The bytes that an operation claims are there, and are those of one version.
    fn judge_claim(&self, asked: &Asked, view: &OperationView, image: &SimDisk) {
        let done: u64 = view.ranges.iter().map(|(first, end)| end - first).sum();
        let is_over = view.status.is_ended();
        if is_over || self.is_rotten {
            return;
        }
        assert_eq!(done, view.bytes_done, "{view:?}");
        if done == 0 {
            return;
        }
        // Where its file is on its way to its name, that name is not shown yet.
        let is_publishing = is_publishing(view);
        let (mut names, served) = (image.names(Path::new(DATA)).into_iter(), &self.served[asked.url]);
        let is_there = names.any(|name| {
            let may_be = is_publishing || name.contains(&format!("-{}-{}.", view.id, view.restarts));
            let bytes = may_be.then(|| image.content(&Path::new(DATA).join(name)));
            let is_version = |version| {
                let content = content(asked.url, version, served.len);
                let at = |offset: &u64| usize::try_from(*offset).unwrap();
                let mut ranges = view.ranges.iter().map(|(first, end)| at(first)..at(end));
                ranges.all(|range| bytes.as_ref().and_then(|bytes| bytes.get(range.clone())) == content.get(range))
            };
            may_be && (asked.since..=served.version).any(is_version)
        });
        let is_taken = is_publishing && self.taken.contains(&view.destination);
        assert!(
            is_there || is_taken,
            "the bytes that {view:?} claims are gone, or not those of one version"
        );
    }

    /// No more than a window of what had been received is to be fetched again.
    fn judge_loss(&self, before: &SimDisk, catalog: &Catalog) {
        for name in before.names(Path::new(DATA)).iter().filter(|name| is_part(name)) {
            let bytes = before.content(&Path::new(DATA).join(name));
            // Gaps read as zeros, and a few bytes of the content are zeros, too.
            let is_there = |byte: &&u8| self.connections == 1 || **byte != 0;
            let received = bytes.iter().filter(is_there).count() as u64;
            let of_it = |view: &&OperationView| {
                // A part of a generation that was given up since is no loss.
                name.contains(&format!("-{}-{}.", view.id, view.restarts)) && !view.status.is_ended()
            };
            if let Some(view) = catalog.operations.iter().find(of_it) {
                assert!(
                    view.bytes_done + WINDOW_BYTES >= received || self.is_faulty || self.is_rotten,
                    "{received} bytes had been received, and {view:?} is left"
                );
            }
        }
    }

    /// Takes what a recovery found for certain.
    pub(crate) fn settle(&mut self, views: &[OperationView]) {
        let found: Vec<(usize, TransferId)> = views.iter().map(|view| (self.find(view), view.id)).collect();
        for ((index, id), view) in found.iter().zip(views) {
            self.asked[*index].id = Some(*id);
            self.asked[*index].note_end(view);
        }
        let mut index = 0;
        self.asked.retain_mut(|asked| {
            let is_there = found.iter().any(|(found, _)| *found == index);
            index += 1;
            // A removal that was lost in a crash has happened or not; now it is known.
            match (is_there, asked.removed) {
                (true, Known::Maybe) => asked.removed = Known::No,
                (false, Known::Maybe) => asked.removed = Known::Yes,
                _ => {}
            }
            asked.id.is_some()
        });
    }

    /// Looks at what is left once everything has ended.
    pub(crate) fn judge_end(&self, disk: &SimDisk, views: &[OperationView]) {
        let mut published: BTreeMap<&Path, Vec<&Asked>> = BTreeMap::new();
        for view in views {
            let asked = &self.asked[self.find(view)];
            self.judge_outcome(asked, view);
            if view.status == TransferStatus::Completed {
                published.entry(&view.destination).or_default().push(asked);
                self.judge_name(asked, view);
            }
        }
        // The files of operations that were removed from the listing stay.
        for asked in self.asked.iter().filter(|asked| asked.removed != Known::No) {
            if let Some(path) = &asked.published {
                published.entry(path).or_default().push(asked);
            }
        }
        for (path, candidates) in &published {
            let bytes = disk.find(path);
            let is_right = bytes.as_ref().is_some_and(|bytes| self.is_one_of(bytes, candidates));
            let what = bytes.map(|bytes| bytes.len());
            assert!(
                is_right || self.taken.contains(*path),
                "what was published as '{}' ({what:?} bytes) is no version of {candidates:?}",
                path.display()
            );
        }
        for (path, bytes) in self.foreign.iter().filter(|(path, _)| !self.taken.contains(*path)) {
            let replacing = published.get(&**path).into_iter().flatten();
            let is_replaced = replacing.clone().any(|asked| asked.collision == Collision::Replace);
            let is_untouched = disk.find(path).as_ref() == Some(bytes);
            assert!(
                is_untouched || is_replaced,
                "'{}', which is somebody else's, was changed",
                path.display()
            );
        }
        self.judge_debris(disk, &published, views);
    }

    fn is_one_of(&self, bytes: &[u8], candidates: &[&Asked]) -> bool {
        candidates.iter().any(|asked| {
            let served = &self.served[asked.url];
            let versions = asked
                .digest
                .map_or(asked.since..=served.version, |version| version..=version);
            versions
                .into_iter()
                .any(|version| bytes == content(asked.url, version, served.len))
        })
    }

    /// The name asked for is taken where it is free.
    fn judge_name(&self, asked: &Asked, view: &OperationView) {
        let others = self.asked.iter().filter(|other| other.destination == asked.destination);
        let may_be_taken = self.foreign.contains_key(&asked.destination)
            || self.taken.contains(&asked.destination)
            || others.count() > 1;
        assert!(
            view.destination == asked.destination || may_be_taken,
            "another name was taken although that asked for was free: {view:?}"
        );
    }

    fn judge_outcome(&self, asked: &Asked, view: &OperationView) {
        let served = &self.served[asked.url];
        let is_known = asked.ended.is_none_or(|ended| ended == view.status);
        assert!(is_known, "the end of {asked:?} has become another one: {view:?}");
        match view.status {
            TransferStatus::Completed => assert!(
                asked.canceled != Known::Yes || asked.ended.is_some(),
                "a canceled download was completed: {view:?}"
            ),
            TransferStatus::Canceled => assert_ne!(asked.canceled, Known::No, "nobody canceled {view:?}"),
            TransferStatus::Error => {
                let status = view.error.as_ref().map(|error| error.status);
                // Only a name that must not be replaced, and beside which there is no other, can be in the way; or, after
                // a rename, whatever takes the place of the published file.
                let is_in_the_way = self.foreign.contains_key(&asked.destination) && asked.collision == Collision::Fail
                    || self.taken.contains(&asked.destination)
                    || self.is_rotten;
                let is_due = match status {
                    Some(WebErrorStatus::DESTINATION_EXISTS) => is_in_the_way,
                    Some(WebErrorStatus::DIGEST_MISMATCH) => asked
                        .digest
                        .is_some_and(|version| asked.since != version || served.version != version),
                    Some(WebErrorStatus::NOT_FOUND | WebErrorStatus::FORBIDDEN) => served.has_refused,
                    _ => false,
                };
                assert!(is_due || self.faults > 1, "no reason for an error: {view:?}");
            }
            _ => panic!("it has not ended: {view:?}"),
        }
        assert!(
            view.restarts == 0 || view.bytes_wasted > 0 || served.len == 0,
            "bytes were given up and not counted: {view:?}"
        );
        let may_begin_again = served.version != asked.since
            || matches!(served.proof, Proof::Nothing | Proof::Whole)
            || asked.is_post
            // Without a claim, the name of the part file may go with the power.
            || served.len as u64 <= CLAIM_BYTES
            // Whoever took the file away before a new boot found it published leaves nothing that tells of it.
            || self.taken.contains(&asked.destination)
            || self.is_faulty
            || self.is_rotten;
        assert!(
            view.restarts == 0 || may_begin_again,
            "it began again from zero although the held bytes could be proved: {view:?}"
        );
    }

    /// Nothing is left but what was published and what others put there.
    fn judge_debris(&self, disk: &SimDisk, published: &BTreeMap<&Path, Vec<&Asked>>, views: &[OperationView]) {
        let everything = disk.everything();
        let mut sealed = BTreeSet::new();
        for (path, bytes) in &everything {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.starts_with(DATA) {
                let is_known = published.contains_key(&**path) || self.foreign.contains_key(path) || self.taken.contains(path)
                    // A file that was damaged right after it got its name may be somebody else's by then; it stays, and
                    // its operation says so.
                    || self.is_rotten && views.iter().any(|view| view.destination == *path);
                assert!(is_known, "left behind: '{}', of {views:?}", path.display());
            } else if path.extension().is_some_and(|extension| extension == "body") {
                // One whose removal failed goes with the next start.
                assert!(self.is_faulty, "the body of a request that has ended is left: {name}");
            } else if let Some(id) = name.strip_suffix(".sealed") {
                let (id, revision) = id.split_once('.').unwrap_or((id, "0"));
                let is_kept = views.iter().any(|view| view.id.to_string() == id);
                assert!(is_kept, "secrets of a removed operation are left: {name}");
                assert!(
                    sealed.insert(id.to_owned()),
                    "secrets of two revisions are left: {revision} of {id}"
                );
            }
            let secret = SECRET.as_bytes();
            let is_shown = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!is_shown, "'{}' shows a secret", path.display());
        }
    }
}

pub(crate) fn is_part(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "part")
}

/// No attempt is under way: the file is on its way to its name, with an engine or without.
pub(crate) fn is_publishing(view: &OperationView) -> bool {
    view.status == TransferStatus::Running && view.reason.is_some()
}

pub(crate) fn has_ended(view: &OperationView) -> bool {
    view.status.is_ended() && view.reason.is_none()
}

impl Asked {
    /// Whether a row with this destination may be this download's: `unique` may have taken another name.
    fn collision_allows(&self, view: &OperationView) -> bool {
        self.destination == view.destination
            || self.collision == Collision::Unique && view.status == TransferStatus::Completed
    }

    /// Takes an end that is durable for certain.
    pub(crate) fn note_end(&mut self, view: &OperationView) {
        if !has_ended(view) {
            return;
        }
        self.ended.get_or_insert(view.status);
        if view.status == TransferStatus::Completed {
            self.published.get_or_insert_with(|| view.destination.clone());
        }
    }

    /// Compares a row of a listing with what was promised.
    fn judge(&self, row: Option<&OperationView>) {
        let Some(view) = row else {
            let may_be_gone = self.id.is_none() || self.removed != Known::No;
            assert!(may_be_gone, "an accepted download is lost: {self:?}");
            return;
        };
        assert_ne!(self.removed, Known::Yes, "a removed download is back: {view:?}");
        match self.acknowledged {
            Known::Yes => assert!(view.acknowledged, "an acknowledgement is lost: {view:?}"),
            Known::No => assert!(!view.acknowledged, "nobody acknowledged {view:?}"),
            Known::Maybe => {}
        }
        match self.changed {
            Known::Yes => assert_eq!(view.priority, Priority::High, "a change is lost: {view:?}"),
            Known::No => assert_eq!(view.priority, Priority::Default, "nobody changed {view:?}"),
            Known::Maybe => {}
        }
        if self.held && self.canceled == Known::No {
            let seen = (view.status, view.attempts);
            assert_eq!(seen, (TransferStatus::Idle, 0), "nobody started {view:?}");
        }
        if let Some(ended) = self.ended {
            assert_eq!((ended, None), (view.status, view.reason), "an end is lost: {self:?}");
        }
        if self.canceled == Known::Yes {
            assert!(view.status.is_ended(), "a cancel is lost: {view:?}");
        }
    }
}
