//! The power goes at every moment of a salvage, with every kind of choice as to what the disk keeps: the damaged journal is
//! there unchanged, or the finished salvage is, and everything completes.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backhaul::{Config, Engine, Error, FixedEnvironment, NewDownload, TransferId, TransferStatus};
use backhaul_backends::{Act, MemoryBackend, Resource};
use backhaul_journal::Access;
use backhaul_journal::simulation::{Choices, SimDisk};

const STATE: &str = "/state";
const LEN: usize = 150_000;
const CUT: u64 = 140_000;
/// Power cuts tried at each moment, beside the one that loses all that was not synced.
const SEEDS: u64 = 24;

struct World {
    outside: Arc<FixedEnvironment>,
    server: Arc<MemoryBackend>,
    config: Config,
}

impl World {
    fn new() -> Self {
        let server = Arc::new(MemoryBackend::new());
        for name in ["half", "queued"] {
            server.put(&url(name), Resource::new(content(), name));
        }
        let mut config = Config {
            is_short_lived: true,
            buffer_bytes: 16 << 10,
            ..Config::default()
        };
        config.window.claim_bytes = 32 << 10;
        config.window.unclaimed_bytes_max = 64 << 10;
        config.window.short_path_bytes_max = 16 << 10;
        Self {
            outside: FixedEnvironment::new(1),
            server,
            config,
        }
    }

    fn open(&self, disk: &SimDisk, salvage: bool) -> Result<Engine, Error> {
        let config = Config {
            salvage,
            ..self.config.clone()
        };
        let environment = self.outside.on(disk.storage());
        Engine::open(
            Path::new(STATE),
            config,
            environment,
            vec![Arc::clone(&self.server) as _],
        )
    }

    fn add(engine: &Engine, name: &str, hold: bool) -> TransferId {
        let download = NewDownload {
            url: url(name),
            destination: path(name),
            app: "test".into(),
            hold,
            ..NewDownload::default()
        };
        engine.create(&[download]).unwrap()[0]
    }

    /// A disk with a half-done download, a queued one, and a journal of which a part is gone.
    fn damaged(&self) -> (SimDisk, [TransferId; 2]) {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        self.server.script(&url("half"), Act::CutAt(CUT));
        let engine = self.open(&disk, false).unwrap();
        let half = Self::add(&engine, "half", false);
        while engine.step() {}
        engine.close().unwrap();
        let engine = self.open(&disk, false).unwrap();
        Self::add(&engine, "held", true);
        engine.close().unwrap();
        let engine = self.open(&disk, false).unwrap();
        let queued = Self::add(&engine, "queued", false);
        engine.close().unwrap();
        // An engine for one command leaves the mark of its end to the system, which has written it by the time of the damage.
        let storage = disk.storage();
        for name in disk.names(Path::new("/state/journal")) {
            let file = storage.open(&Path::new("/state/journal").join(name), Access::ReadWrite);
            file.and_then(|file| file.sync_all()).unwrap();
        }
        let disk = disk.kill();
        disk.edit(Path::new("/state/journal/0000000000000002.seg"), |bytes| {
            bytes[100] ^= 1;
        });
        (disk, [half, queued])
    }

    /// Finishes the work, and expects nothing but whole files and the unchanged evidence.
    fn finish(&self, disk: &SimDisk, ids: [TransferId; 2], evidence: &Files, what: &str) {
        let engine = self.open(disk, true).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(
            files(disk, "/state/journal.corrupt-1") == *evidence,
            "{what}: the evidence"
        );
        let asked = self.server.attempts().len();
        for _ in 0..20 {
            while engine.step() {}
            self.outside.advance(Duration::from_secs(30));
        }
        for id in ids {
            assert_eq!(engine.view(id).unwrap().status, TransferStatus::Completed, "{what}");
        }
        let found = files(disk, "/data");
        let whole = ["half", "queued"].map(|name| (path(name), content()));
        assert!(found == Files::from(whole), "{what}: {:?}", found.keys());
        let attempts = self.server.attempts().split_off(asked);
        let mut offsets: Vec<u64> = attempts.iter().map(|attempt| attempt.offset_bytes).collect();
        offsets.sort_unstable();
        assert_eq!(offsets, [0, CUT], "{what}: only the rest is fetched");
    }
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn url(name: &str) -> String {
    format!("mem://host/{name}")
}

fn path(name: &str) -> PathBuf {
    Path::new("/data").join(name)
}

fn content() -> Vec<u8> {
    (0..LEN)
        .map(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0])
        .collect()
}

/// The files of a directory, by their paths in there where it is the state's.
fn files(disk: &SimDisk, directory: &str) -> Files {
    let all = disk.everything().into_iter();
    let inside = all.filter(|(path, _)| path.starts_with(directory));
    inside
        .map(|(path, bytes)| match path.strip_prefix(directory) {
            Ok(rest) if directory.starts_with(STATE) => (rest.to_path_buf(), bytes),
            _ => (path, bytes),
        })
        .collect()
}

fn is_refused_as_corrupt(answer: &Result<Engine, Error>) -> bool {
    matches!(answer, Err(Error::Journal(error)) if matches!(**error, backhaul_journal::Error::Corrupt(_)))
}

#[test]
fn a_power_cut_at_any_moment_of_a_salvage_leaves_the_damaged_journal_or_the_finished_salvage() {
    let world = World::new();
    let (damaged, ids) = world.damaged();
    let evidence = files(&damaged, "/state/journal");
    let disk = damaged.kill();
    disk.keep_moments();
    drop(world.open(&disk, true).unwrap());
    let moments = disk.moments();
    let (mut before, mut after) = (0, 0);
    for (number, moment) in moments.iter().enumerate() {
        for seed in 0..=SEEDS {
            let what = format!("moment {number}, seed {seed}");
            let cut = |disk: &SimDisk, seed: u64| match seed {
                0 => disk.lose_unsynced(),
                seed => disk.cut_power(&mut Choices::seeded(seed)),
            };
            let left = cut(moment, seed);
            let opened = world.open(&left, false);
            if is_refused_as_corrupt(&opened) {
                before += 1;
                assert!(files(&left, "/state/journal") == evidence, "{what}");
            } else {
                after += 1;
                let engine = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(ids.iter().all(|id| engine.view(*id).is_ok()), "{what}");
            }
            // Once more, in the middle of what makes it good.
            let again = cut(moment, seed);
            again.stop_after(seed * 2);
            drop(world.open(&again, true));
            world.finish(&cut(&again, seed + 1), ids, &evidence, &what);
        }
    }
    assert!(before > 100 && after > 50, "{before} before, {after} after");
}

#[test]
fn a_disk_that_fills_up_in_a_salvage_refuses_it_and_has_lost_nothing() {
    let world = World::new();
    let (damaged, ids) = world.damaged();
    let evidence = files(&damaged, "/state/journal");
    let mut refused = 0;
    for room in (0..).step_by(64) {
        let disk = damaged.kill();
        disk.set_capacity(disk.used() + room);
        match world.open(&disk, true).map(|_| ()) {
            Ok(()) => break,
            Err(Error::NotSalvaged { .. }) => {
                refused += 1;
                assert!(files(&disk, "/state/journal") == evidence);
                assert!(
                    files(&disk, "/state/journal.salvage").is_empty(),
                    "the room is given back"
                );
            }
            // The copy has its place already; opening it needs room as well.
            Err(other) => assert!(files(&disk, "/state/journal.corrupt-1") == evidence, "{other}"),
        }
        world.finish(&disk.kill(), ids, &evidence, &format!("room for {room} bytes"));
    }
    assert!(refused > 2, "{refused}");
}
