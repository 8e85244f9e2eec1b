//! A damaged journal on a device that nobody attends: the engine goes on with what is intact, keeps the damaged journal,
//! and trusts nothing on the disk that it has not looked at again.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod crashing;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backhaul::{
    Collision, Config, Engine, Environment, Error, FixedEnvironment, NewDownload, OperationView, Storage, TransferId,
    TransferStatus, WebErrorStatus, read_catalog,
};
use backhaul_backends::{Act, MemoryBackend, Resource};
use backhaul_journal::Disk;

use crashing::CrashingDisk;

/// Length of a file that takes several claims.
const LEN: usize = 150_000;
/// Where an attempt is cut; what came before it is claimed.
const CUT: u64 = 140_000;

/// A state directory, a directory for files, a server, and an outside that stands still.
struct Lab {
    _home: tempfile::TempDir,
    state: PathBuf,
    data: PathBuf,
    server: Arc<MemoryBackend>,
    outside: Arc<FixedEnvironment>,
    config: Config,
    held: AtomicU32,
}

impl Lab {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (state, data) = (home.path().join("state"), home.path().join("data"));
        fs::create_dir(&data).unwrap();
        let mut config = Config {
            is_short_lived: true,
            buffer_bytes: 16 << 10,
            ..Config::default()
        };
        config.window.claim_bytes = 32 << 10;
        config.window.unclaimed_bytes_max = 64 << 10;
        config.window.short_path_bytes_max = 16 << 10;
        Self {
            _home: home,
            state,
            data,
            server: Arc::new(MemoryBackend::new()),
            outside: FixedEnvironment::new(1),
            config,
            held: AtomicU32::new(0),
        }
    }

    fn environment(&self) -> Environment {
        self.outside.on(Arc::new(Disk))
    }

    fn open_on(&self, storage: Arc<dyn Storage>, salvage: bool) -> Result<Engine, Error> {
        let config = Config {
            salvage,
            ..self.config.clone()
        };
        let backends = vec![Arc::clone(&self.server) as _];
        Engine::open(&self.state, config, self.outside.on(storage), backends)
    }

    fn open(&self) -> Engine {
        self.open_on(Arc::new(Disk), false).unwrap()
    }

    fn salvage(&self) -> Engine {
        self.open_on(Arc::new(Disk), true).unwrap()
    }

    /// One life of an engine, with a segment of its own.
    fn live<T>(&self, act: impl FnOnce(&Engine) -> T) -> T {
        let engine = self.open();
        let answer = act(&engine);
        engine.close().unwrap();
        answer
    }

    fn path(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    fn put(&self, name: &str, bytes: &[u8], etag: &str) {
        self.server.put(&url(name), Resource::new(bytes.to_vec(), etag));
    }

    fn add(&self, engine: &Engine, name: &str, collision: Collision) -> TransferId {
        let download = NewDownload {
            url: url(name),
            destination: self.path(name),
            collision,
            app: "test".into(),
            ..NewDownload::default()
        };
        engine.create(&[download]).unwrap()[0]
    }

    fn cut(&self, name: &str, at: u64) {
        self.server.script(&url(name), Act::CutAt(at));
    }

    /// A life in which something else is recorded, so that damage before it is damage and no torn tail.
    fn live_on(&self) {
        self.live(|engine| {
            let name = format!("held{}", self.held.fetch_add(1, Ordering::Relaxed));
            let download = NewDownload {
                url: url(&name),
                destination: self.path(&name),
                app: "test".into(),
                hold: true,
                ..NewDownload::default()
            };
            engine.create(&[download]).unwrap();
        });
    }

    fn finish(&self, engine: &Engine) {
        for _ in 0..100 {
            while engine.step() {}
            self.outside.advance(Duration::from_secs(30));
        }
    }

    fn files(&self) -> Vec<String> {
        names_in(&self.data)
    }

    /// Offsets that attempts for a file asked for.
    fn asked(&self, name: &str) -> Vec<u64> {
        let attempts = self.server.attempts();
        let of_it = attempts.iter().filter(|attempt| attempt.url == url(name));
        of_it.map(|attempt| attempt.offset_bytes).collect()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let journal = self.state.join("journal");
        let names = names_in(&journal).into_iter().filter(|name| has_extension(name, "seg"));
        names.map(|name| journal.join(name)).collect()
    }

    /// Loses all that the engine recorded in one of its lives.
    fn lose_life(&self, number: usize) {
        fs::remove_file(&self.segments()[number]).unwrap();
    }

    fn lists_as_damaged(&self) -> usize {
        let catalog = read_catalog(&self.state, &self.environment()).unwrap();
        catalog.damaged_journals.len()
    }
}

fn url(name: &str) -> String {
    format!("mem://host/{name}")
}

fn has_extension(name: &str, wanted: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == wanted)
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Every file of a directory with its bytes.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = names_in(directory).into_iter();
    names
        .map(|name| (name.clone(), fs::read(directory.join(name)).unwrap()))
        .collect()
}

fn content(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0] ^ seed)
        .collect()
}

fn expect_completed(view: &OperationView, path: &Path, bytes: &[u8]) {
    assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
    assert!(!view.unverified, "{view:?}");
    assert!(
        fs::read(path).unwrap() == bytes,
        "the published file is not the resource"
    );
}

fn is_refused_as_corrupt(answer: Result<Engine, Error>) -> bool {
    matches!(answer, Err(Error::Journal(error)) if matches!(*error, backhaul_journal::Error::Corrupt(_)))
}

// ---- every kind of damage, over every kind of operation ----

/// Operations in every state, each brought there in lives of their own.
struct World {
    lab: Lab,
    bytes: BTreeMap<&'static str, Vec<u8>>,
    ids: BTreeMap<&'static str, TransferId>,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new();
        let names = ["done", "half", "paused", "publishing", "queued"];
        let bytes: BTreeMap<_, _> = (0..)
            .zip(names)
            .map(|(seed, name)| (name, content(LEN, seed)))
            .collect();
        for (name, bytes) in &bytes {
            lab.put(name, bytes, name);
        }
        let mut ids = BTreeMap::new();
        for name in ["done", "half", "paused"] {
            let id = lab.live(|engine| lab.add(engine, name, Collision::Fail));
            ids.insert(name, id);
        }
        for name in ["half", "paused"] {
            lab.cut(name, CUT);
        }
        lab.live(|engine| while engine.step() {});
        lab.live(|engine| engine.pause(ids["paused"]).unwrap());
        ids.insert("publishing", World::published_and_not_ended(&lab));
        let id = lab.live(|engine| lab.add(engine, "queued", Collision::Fail));
        ids.insert("queued", id);
        Self { lab, bytes, ids }
    }

    /// A file that has its name, and whose end was not recorded.
    fn published_and_not_ended(lab: &Lab) -> TransferId {
        let id = lab.live(|engine| lab.add(engine, "publishing", Collision::Fail));
        let engine = lab
            .open_on(Arc::new(CrashingDisk::after_a_publication()), false)
            .unwrap();
        engine.restrict_to(Some([id].into()));
        while engine.step() {}
        drop(engine);
        assert!(lab.path("publishing").exists());
        let catalog = read_catalog(&lab.state, &lab.environment()).unwrap();
        assert!(
            catalog
                .operations
                .iter()
                .any(|view| view.id == id && !view.status.is_ended())
        );
        id
    }
}

/// What is done to one segment.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(usize),
    ZeroSector(usize),
    Delete,
}

impl Damage {
    fn apply(self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        match self {
            Self::Flip(offset) => {
                // A frame without a body is hit in its header.
                let offset = if offset < bytes.len() { offset } else { offset - 20 };
                bytes[offset] ^= 0x40;
            }
            Self::ZeroSector(sector) => {
                let end = bytes.len().min((sector + 1) * 512);
                bytes[sector * 512..end].fill(0);
            }
            Self::Delete => return fs::remove_file(path).unwrap(),
        }
        fs::write(path, bytes).unwrap();
    }
}

/// One flip in the header of each segment and in each frame, each sector that holds anything, each whole segment.
fn damages(lab: &Lab) -> Vec<(usize, Damage)> {
    let storage: Arc<dyn Storage> = Arc::new(Disk);
    let segments = lab.segments();
    let mut all = Vec::new();
    for (index, path) in segments.iter().enumerate() {
        all.push((index, Damage::Flip(40)));
        let used = fs::read(path).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
        all.extend((0..=used / 512).map(|sector| (index, Damage::ZeroSector(sector))));
        all.push((index, Damage::Delete));
    }
    backhaul_journal::dump(&storage, &lab.state.join("journal"), &mut |entry| {
        let index = segments.iter().position(|path| path.ends_with(entry.file)).unwrap();
        let damage = Damage::Flip(usize::try_from(entry.offset_bytes).unwrap() + 34);
        if !matches!(all.last(), Some((last, Damage::Flip(at))) if *last == index && matches!(damage, Damage::Flip(now) if now == *at)) {
            all.push((index, damage));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    all
}

#[test]
fn whatever_is_damaged_every_operation_that_is_left_completes_and_nothing_else_stays_behind() {
    let all = damages(&World::new().lab);
    let mut salvaged = 0;
    for (index, damage) in &all {
        let World { lab, bytes, ids } = World::new();
        damage.apply(&lab.segments()[*index]);
        let what = format!("{damage:?} in segment {index}");
        let damaged = contents(&lab.state.join("journal"));
        let was_refused = is_refused_as_corrupt(lab.open_on(Arc::new(Disk), false));
        assert!(
            !was_refused || contents(&lab.state.join("journal")) == damaged,
            "{what}"
        );
        let engine = lab.salvage();
        if was_refused {
            salvaged += 1;
            assert!(
                contents(&lab.state.join("journal.corrupt-1")) == damaged,
                "{what}: the evidence"
            );
            let live = |view: &OperationView| !view.status.is_ended();
            let mut views = engine.views().into_iter().filter(live);
            assert!(views.all(|view| view.unverified), "{what}");
        }
        let _ = engine.resume(ids["paused"]);
        lab.finish(&engine);
        let mut expected = Vec::new();
        for (name, id) in &ids {
            if let Ok(view) = engine.view(*id) {
                expect_completed(&view, &lab.path(name), &bytes[name]);
                expected.push(name.to_string());
            } else if lab.path(name).exists() {
                assert!(fs::read(lab.path(name)).unwrap() == bytes[name], "{what}");
                expected.push(name.to_string());
            }
        }
        assert_eq!(lab.files(), expected, "{what}");
    }
    assert!(salvaged > all.len() / 2, "{salvaged} of {}", all.len());
}

// ---- what a life of the engine recorded is lost, one kind after the other ----

#[test]
fn claims_that_survive_are_continued_and_nothing_but_the_rest_is_fetched() {
    let lab = Lab::new();
    let bytes = content(LEN, 0);
    lab.put("half", &bytes, "a");
    lab.cut("half", CUT);
    let id = lab.live(|engine| {
        let id = lab.add(engine, "half", Collision::Fail);
        while engine.step() {}
        id
    });
    lab.live_on();
    lab.live_on();
    lab.lose_life(1);
    let engine = lab.salvage();
    assert_eq!(engine.view(id).unwrap().bytes_done, CUT);
    lab.finish(&engine);
    let view = engine.view(id).unwrap();
    expect_completed(&view, &lab.path("half"), &bytes);
    assert_eq!((lab.asked("half"), view.restarts), (vec![0, CUT], 0));
}

#[test]
fn claimed_bytes_that_the_disk_does_not_hold_any_more_are_fetched_again_after_a_salvage() {
    let lab = Lab::new();
    let bytes = content(LEN, 0);
    lab.put("half", &bytes, "a");
    lab.cut("half", CUT);
    let id = lab.live(|engine| {
        let id = lab.add(engine, "half", Collision::Fail);
        while engine.step() {}
        id
    });
    lab.live_on();
    lab.live_on();
    lab.lose_life(1);
    let part = lab.path(&lab.files()[0]);
    let mut damaged = fs::read(&part).unwrap();
    damaged[1_000] ^= 1;
    fs::write(&part, damaged).unwrap();
    let engine = lab.salvage();
    lab.finish(&engine);
    expect_completed(&engine.view(id).unwrap(), &lab.path("half"), &bytes);
    assert_eq!((lab.asked("half"), lab.files()), (vec![0, 0], vec!["half".to_string()]));
}

#[test]
fn a_copy_that_was_repaired_by_hand_goes_on_from_the_claims_too() {
    let lab = Lab::new();
    let bytes = content(LEN, 0);
    lab.put("half", &bytes, "a");
    lab.cut("half", CUT);
    let id = lab.live(|engine| {
        let id = lab.add(engine, "half", Collision::Fail);
        while engine.step() {}
        id
    });
    lab.live_on();
    lab.live_on();
    lab.lose_life(1);
    let (journal, copy) = (lab.state.join("journal"), lab.state.join("copy"));
    let storage: Arc<dyn Storage> = Arc::new(Disk);
    backhaul_journal::salvage(&storage, &journal, &copy).unwrap();
    fs::rename(&journal, lab.state.join("aside")).unwrap();
    fs::rename(&copy, &journal).unwrap();
    let engine = lab.open();
    assert!(engine.view(id).unwrap().unverified);
    lab.finish(&engine);
    expect_completed(&engine.view(id).unwrap(), &lab.path("half"), &bytes);
    assert_eq!(
        (lab.asked("half"), lab.files()),
        (vec![0, CUT], vec!["half".to_string()])
    );
}

/// A download whose whole transfer is lost, from the first attempt to the end, and the published file.
fn done_and_lost(collision: Collision) -> (Lab, TransferId, Vec<u8>) {
    let lab = Lab::new();
    let bytes = content(LEN, 0);
    lab.put("file", &bytes, "a");
    let id = lab.live(|engine| lab.add(engine, "file", collision));
    lab.live(|engine| lab.finish(engine));
    lab.live_on();
    lab.lose_life(1);
    assert_eq!(lab.files(), ["file"]);
    (lab, id, bytes)
}

#[test]
fn a_file_whose_publication_was_lost_is_found_by_its_content_and_not_touched() {
    for collision in [Collision::Fail, Collision::Replace, Collision::Unique] {
        let (lab, id, bytes) = done_and_lost(collision);
        let before = fs::metadata(lab.path("file")).unwrap();
        let engine = lab.salvage();
        lab.finish(&engine);
        expect_completed(&engine.view(id).unwrap(), &lab.path("file"), &bytes);
        let after = fs::metadata(lab.path("file")).unwrap();
        assert_eq!(
            (before.ino(), before.mtime_nsec()),
            (after.ino(), after.mtime_nsec()),
            "{collision:?}"
        );
        assert_eq!(lab.files(), ["file"], "{collision:?}");
    }
}

#[test]
fn a_file_that_somebody_changed_since_its_lost_publication_stays_as_it_is() {
    for (collision, status, files) in [
        (Collision::Fail, TransferStatus::Error, vec!["file"]),
        (Collision::Replace, TransferStatus::Error, vec!["file"]),
        (Collision::Unique, TransferStatus::Completed, vec!["file", "file (2)"]),
    ] {
        let (lab, id, mut bytes) = done_and_lost(collision);
        bytes[7] ^= 1;
        fs::write(lab.path("file"), &bytes).unwrap();
        let engine = lab.salvage();
        lab.finish(&engine);
        let view = engine.view(id).unwrap();
        assert_eq!(
            (view.status, lab.files()),
            (status, files.iter().map(ToString::to_string).collect())
        );
        if status == TransferStatus::Error {
            assert_eq!(view.error.unwrap().status, WebErrorStatus::DESTINATION_EXISTS);
        }
        assert!(fs::read(lab.path("file")).unwrap() == bytes, "{collision:?}");
    }
}

#[test]
fn a_crash_at_any_call_while_a_lost_publication_is_settled_changes_nothing_of_its_end() {
    let mut calls = 0;
    let mut finished = false;
    while !finished {
        calls += 1;
        let (lab, id, bytes) = done_and_lost(Collision::Replace);
        let before = fs::metadata(lab.path("file")).unwrap().ino();
        drop(lab.salvage());
        let disk = CrashingDisk::after(calls);
        if let Ok(engine) = lab.open_on(Arc::new(disk.clone()), false) {
            lab.finish(&engine);
        }
        finished = !disk.has_crashed();
        let engine = lab.open();
        lab.finish(&engine);
        expect_completed(&engine.view(id).unwrap(), &lab.path("file"), &bytes);
        assert_eq!(fs::metadata(lab.path("file")).unwrap().ino(), before, "call {calls}");
        assert_eq!(lab.files(), ["file"], "call {calls}");
    }
    assert!(calls > 60, "{calls}");
}

#[test]
fn an_old_file_is_replaced_after_a_salvage_where_a_part_file_proves_that_it_is_old() {
    let lab = Lab::new();
    let bytes = content(LEN, 0);
    fs::write(lab.path("file"), "old").unwrap();
    lab.put("file", &bytes, "a");
    lab.cut("file", CUT);
    let id = lab.live(|engine| {
        let id = lab.add(engine, "file", Collision::Replace);
        while engine.step() {}
        id
    });
    lab.live_on();
    lab.live_on();
    lab.lose_life(1);
    let engine = lab.salvage();
    lab.finish(&engine);
    expect_completed(&engine.view(id).unwrap(), &lab.path("file"), &bytes);
}

#[test]
fn a_publication_that_later_records_may_have_given_up_is_not_taken_for_done_where_no_file_is() {
    let lab = Lab::new();
    let bytes = content(LEN, 0);
    lab.put("publishing", &bytes, "a");
    let id = World::published_and_not_ended(&lab);
    lab.live_on();
    lab.live_on();
    lab.lose_life(2);
    fs::remove_file(lab.path("publishing")).unwrap();
    let engine = lab.salvage();
    lab.finish(&engine);
    expect_completed(&engine.view(id).unwrap(), &lab.path("publishing"), &bytes);
}

/// A download of which generation 0 is claimed in the life 0, and generation 1 of another representation in the life 1.
fn restarted() -> (Lab, TransferId, Vec<u8>) {
    let lab = Lab::new();
    let (old, new) = (content(LEN, 0), content(LEN, 1));
    lab.put("file", &old, "old");
    lab.cut("file", 50_000);
    let id = lab.live(|engine| {
        let id = lab.add(engine, "file", Collision::Fail);
        while engine.step() {}
        id
    });
    lab.outside.advance(Duration::from_secs(30));
    lab.put("file", &new, "new");
    lab.cut("file", 70_000);
    lab.live(|engine| while engine.step() {});
    (lab, id, new)
}

#[test]
fn parts_of_generations_that_were_lost_are_removed_and_their_bytes_never_used() {
    let (lab, id, new) = restarted();
    lab.live_on();
    lab.lose_life(1);
    assert!(lab.files()[0].ends_with("-1.part"), "{:?}", lab.files());
    let engine = lab.salvage();
    assert!(lab.files().is_empty(), "{:?}", lab.files());
    lab.finish(&engine);
    expect_completed(&engine.view(id).unwrap(), &lab.path("file"), &new);
    assert_eq!(
        (lab.asked("file"), lab.files()),
        (vec![0, 50_000, 0], vec!["file".to_string()])
    );
}

#[test]
fn a_claim_after_a_lost_restart_counts_for_its_own_generation() {
    let (lab, id, new) = restarted();
    lab.outside.advance(Duration::from_secs(30));
    lab.cut("file", 90_000);
    lab.live(|engine| while engine.step() {});
    lab.live_on();
    lab.lose_life(1);
    let engine = lab.salvage();
    assert_eq!(engine.view(id).unwrap().bytes_done, 90_000);
    lab.finish(&engine);
    expect_completed(&engine.view(id).unwrap(), &lab.path("file"), &new);
    assert_eq!(lab.asked("file"), [0, 50_000, 70_000, 90_000]);
}

#[test]
fn what_an_operation_of_lost_creation_left_is_removed_and_its_later_records_stop_nothing() {
    let lab = Lab::new();
    let bytes = content(LEN, 0);
    lab.put("file", &bytes, "a");
    lab.put("other", &bytes, "a");
    lab.cut("file", CUT);
    let lost = lab.live(|engine| lab.add(engine, "file", Collision::Fail));
    let other = lab.live(|engine| lab.add(engine, "other", Collision::Fail));
    lab.live(|engine| {
        engine.restrict_to(Some([lost].into()));
        while engine.step() {}
    });
    lab.live_on();
    lab.lose_life(0);
    assert_eq!(lab.files().len(), 1);
    let engine = lab.salvage();
    assert!(matches!(engine.view(lost), Err(Error::UnknownId(_))));
    assert!(lab.files().is_empty(), "{:?}", lab.files());
    lab.finish(&engine);
    expect_completed(&engine.view(other).unwrap(), &lab.path("other"), &bytes);
}

#[test]
fn part_files_of_another_state_directory_are_never_swept() {
    let (lab, other) = (Lab::new(), Lab::new());
    lab.put("mine", &content(LEN, 0), "a");
    lab.live(|engine| lab.add(engine, "mine", Collision::Fail));
    other.put("theirs", &content(LEN, 0), "a");
    other.cut("theirs", CUT);
    other.live(|engine| {
        let download = NewDownload {
            url: url("theirs"),
            destination: lab.path("theirs"),
            app: "test".into(),
            ..NewDownload::default()
        };
        engine.create(&[download]).unwrap();
        while engine.step() {}
    });
    lab.live_on();
    lab.live_on();
    lab.lose_life(1);
    let theirs = lab.files();
    let engine = lab.salvage();
    assert_eq!(lab.files(), theirs);
    lab.finish(&engine);
    assert_eq!(lab.files().len(), 2);
}

#[test]
fn a_part_file_that_no_record_speaks_of_stays() {
    let (lab, _, _) = damaged();
    let known = lab.files().remove(0);
    let (start, end) = (known.rfind("-0.part").unwrap() - 32, known.rfind("-0.part").unwrap());
    let unknown = format!("{}{}{}", &known[..start], "0123456789abcdef".repeat(2), &known[end..]);
    fs::write(lab.path(&unknown), "whose").unwrap();
    drop(lab.salvage());
    assert_eq!(lab.files().len(), 2);
    assert_eq!(fs::read(lab.path(&unknown)).unwrap(), b"whose");
}

#[test]
fn what_was_removed_before_records_were_lost_does_not_come_back() {
    let lab = Lab::new();
    lab.put("file", &content(LEN, 0), "a");
    let id = lab.live(|engine| lab.add(engine, "file", Collision::Fail));
    lab.live(|engine| lab.finish(engine));
    lab.live(|engine| engine.remove(id).unwrap());
    lab.live_on();
    lab.lose_life(1);
    let engine = lab.salvage();
    lab.finish(&engine);
    assert!(matches!(engine.view(id), Err(Error::UnknownId(_))));
    assert_eq!(lab.asked("file").len(), 1);
}

// ---- the exchange of the journals ----

/// A half-done download, a queued one, and a lost life.
fn damaged() -> (Lab, [TransferId; 2], Vec<u8>) {
    let lab = Lab::new();
    let bytes = content(LEN, 0);
    lab.put("half", &bytes, "a");
    lab.put("queued", &bytes, "a");
    lab.cut("half", CUT);
    let half = lab.live(|engine| {
        let id = lab.add(engine, "half", Collision::Fail);
        while engine.step() {}
        id
    });
    lab.live_on();
    let queued = lab.live(|engine| lab.add(engine, "queued", Collision::Fail));
    lab.lose_life(1);
    (lab, [half, queued], bytes)
}

#[test]
fn a_kill_at_any_call_to_the_disk_while_salvaging_leaves_the_damaged_journal_or_the_finished_salvage() {
    let (mut calls, mut finished) = (0, false);
    let (mut before, mut after, mut between) = (0, 0, 0);
    while !finished {
        calls += 1;
        let (lab, ids, bytes) = damaged();
        let evidence = contents(&lab.state.join("journal"));
        let disk = CrashingDisk::after(calls);
        drop(lab.open_on(Arc::new(disk.clone()), true));
        finished = !disk.has_crashed();
        let has_journal = lab.state.join("journal").exists();
        let was_kept = lab.state.join("journal.corrupt-1").exists();
        between += usize::from(!has_journal);
        // Who only reads, or opens without salvaging, sees one or the other, and never an empty journal.
        let seen = read_catalog(&lab.state, &lab.environment());
        let opened = lab.open_on(Arc::new(Disk), false);
        if was_kept {
            after += 1;
            assert_eq!(seen.unwrap().operations.len(), 2, "call {calls}");
            assert_eq!(opened.unwrap().views().len(), 2, "call {calls}");
        } else {
            before += 1;
            assert!(is_refused_as_corrupt(opened), "call {calls}");
            assert!(contents(&lab.state.join("journal")) == evidence, "call {calls}");
        }
        let engine = lab.salvage();
        lab.finish(&engine);
        for (id, name) in ids.iter().zip(["half", "queued"]) {
            expect_completed(&engine.view(*id).unwrap(), &lab.path(name), &bytes);
        }
        assert_eq!(lab.asked("half"), [0, CUT], "call {calls}");
        assert!(
            contents(&lab.state.join("journal.corrupt-1")) == evidence,
            "call {calls}"
        );
        assert_eq!((lab.files().len(), lab.lists_as_damaged()), (2, 1), "call {calls}");
        assert!(!lab.state.join("journal.salvage").exists(), "call {calls}");
    }
    assert!(
        before > 20 && between > 0 && after > 10,
        "{before} before, {between} between, {after} after"
    );
}

#[test]
fn a_full_disk_at_any_moment_of_a_salvage_loses_nothing_and_is_named() {
    let (mut room, mut refused) = (0, 0);
    loop {
        room += 1;
        let (lab, ids, bytes) = damaged();
        let evidence = contents(&lab.state.join("journal"));
        // What the lock writes about its holder needs no room that counts.
        let opened = lab.open_on(Arc::new(CrashingDisk::full_after(room)), true);
        match opened.map(|_| ()) {
            Err(Error::NotSalvaged { damage, problem }) => {
                assert!(matches!(*damage, backhaul_journal::Error::Corrupt(_)));
                assert!(problem.contains("space"), "{problem}");
                assert!(contents(&lab.state.join("journal")) == evidence);
                let copy = lab.state.join("journal.salvage");
                assert!(!copy.exists() || names_in(&copy).is_empty(), "the room is given back");
                refused += 1;
            }
            Err(other) => assert!(lab.state.join("journal.corrupt-1").exists(), "{other}"),
            Ok(()) => break,
        }
        let engine = lab.salvage();
        lab.finish(&engine);
        for (id, name) in ids.iter().zip(["half", "queued"]) {
            expect_completed(&engine.view(*id).unwrap(), &lab.path(name), &bytes);
        }
    }
    assert!(refused > 2, "{refused}");
}

#[test]
fn damaged_journals_are_numbered_and_beyond_the_bound_nothing_is_changed() {
    let (lab, ids, _) = damaged();
    let last = lab.state.join("journal.corrupt-8");
    for number in 1..=8 {
        fs::create_dir(lab.state.join(format!("journal.corrupt-{number}"))).unwrap();
    }
    let evidence = contents(&lab.state.join("journal"));
    match lab.open_on(Arc::new(Disk), true).map(|_| ()) {
        Err(Error::NotSalvaged { problem, .. }) => assert!(problem.contains("move them away"), "{problem}"),
        other => panic!("{other:?}"),
    }
    assert!(contents(&lab.state.join("journal")) == evidence);
    fs::remove_dir(lab.state.join("journal.corrupt-3")).unwrap();
    assert!(lab.salvage().view(ids[0]).is_ok());
    assert!(names_in(&last).is_empty() && contents(&lab.state.join("journal.corrupt-9")) == evidence);
}

#[test]
fn a_journal_is_salvaged_again_and_again_and_the_claims_survive() {
    let (lab, [half, _], bytes) = damaged();
    drop(lab.salvage());
    for number in 2..4 {
        lab.live_on();
        lab.live_on();
        let segments = lab.segments();
        fs::remove_file(&segments[segments.len() - 2]).unwrap();
        let engine = lab.salvage();
        assert!(lab.state.join(format!("journal.corrupt-{number}")).exists());
        assert_eq!(engine.view(half).unwrap().bytes_done, CUT);
    }
    let engine = lab.open();
    lab.finish(&engine);
    expect_completed(&engine.view(half).unwrap(), &lab.path("half"), &bytes);
    assert_eq!(lab.asked("half"), [0, CUT]);
}

#[test]
fn a_journal_of_a_later_format_is_never_salvaged() {
    let (lab, _, _) = damaged();
    let segment = lab.segments().pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    fs::write(&segment, bytes).unwrap();
    let before = contents(&lab.state.join("journal"));
    match lab.open_on(Arc::new(Disk), true).map(|_| ()) {
        Err(Error::Journal(error)) => assert!(matches!(*error, backhaul_journal::Error::Unsupported(..)), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(contents(&lab.state.join("journal")) == before);
    assert!(!lab.state.join("journal.corrupt-1").exists());
}

#[test]
fn the_doubt_of_a_salvage_outlives_restarts_and_snapshots_and_ends_with_the_look_at_the_disk() {
    let (lab, [half, queued], _) = damaged();
    drop(lab.salvage());
    // More than a journal keeps without a snapshot.
    lab.live(|engine| {
        for _ in 0..300 {
            let name = format!("{}{}", lab.held.fetch_add(1, Ordering::Relaxed), "x".repeat(4_000));
            let download = NewDownload {
                url: url(&name),
                destination: lab.path(name.trim_end_matches('x')),
                app: "test".into(),
                hold: true,
                ..NewDownload::default()
            };
            engine.create(&[download]).unwrap();
        }
    });
    lab.live_on();
    assert!(
        names_in(&lab.state.join("journal"))
            .iter()
            .any(|name| has_extension(name, "snap"))
    );
    let engine = lab.open();
    for id in [half, queued] {
        assert!(engine.view(id).unwrap().unverified);
    }
    assert!(engine.step());
    assert_eq!(engine.views().iter().filter(|view| view.unverified).count(), 1);
}

#[test]
fn the_copy_is_durable_before_the_first_rename_and_each_rename_before_the_next() {
    let (lab, _, _) = damaged();
    let disk = CrashingDisk::after(u64::MAX);
    drop(lab.open_on(Arc::new(disk.clone()), true).unwrap());
    let done = disk.done();
    let (journal, copy) = (lab.state.join("journal"), lab.state.join("journal.salvage"));
    let at = |call: &str, path: &Path| done.iter().position(|(name, of)| *name == call && of == path).unwrap();
    let (first, second) = (at("rename", &journal), at("rename", &copy));
    for renamed in [first, second] {
        assert_eq!(done[renamed + 1], ("sync_directory", lab.state.clone()));
    }
    assert!(first < second);
    // A name that was changed needs its directory's sync, and bytes that were written that of their file.
    let mut unsynced: Vec<&Path> = Vec::new();
    for (call, path) in &done[..first] {
        match *call {
            "write_at" => unsynced.push(path),
            "create" | "rename" | "remove" => unsynced.push(path.parent().unwrap()),
            "sync_data" | "sync_all" | "sync_directory" => unsynced.retain(|other| other != path),
            _ => {}
        }
    }
    unsynced.retain(|path| path.starts_with(&copy));
    // The mark of an unfinished copy is empty, and goes when all else is durable.
    assert!(unsynced.is_empty(), "{unsynced:?}");
}

#[test]
fn claimed_bytes_are_read_from_the_disk_once_after_a_salvage_and_from_the_cache_else() {
    for damage in [false, true] {
        let (lab, [half, _], bytes) = if damage {
            damaged()
        } else {
            let lab = Lab::new();
            let bytes = content(LEN, 0);
            lab.put("half", &bytes, "a");
            lab.cut("half", CUT);
            let id = lab.live(|engine| {
                let id = lab.add(engine, "half", Collision::Fail);
                while engine.step() {}
                id
            });
            (lab, [id, id], bytes)
        };
        let part = lab.path(&lab.files()[0]);
        let disk = CrashingDisk::after(u64::MAX);
        let engine = lab.open_on(Arc::new(disk.clone()), damage).unwrap();
        lab.cut("half", CUT + 1_000);
        lab.finish(&engine);
        expect_completed(&engine.view(half).unwrap(), &lab.path("half"), &bytes);
        let dropped = |(call, path): &&crashing::Done| *call == "drop_cache" && *path == part;
        assert_eq!(disk.done().iter().filter(dropped).count(), usize::from(damage));
    }
}
