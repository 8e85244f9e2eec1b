//! An engine whose memory is limited: its queue stands in a file without a name, and whatever happens to that file, the
//! journal has it all.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use backhaul::{Config, Engine, Error, FixedEnvironment, NewDownload, TransferId, TransferStatus};
use backhaul_backends::{MemoryBackend, Resource};
use backhaul_journal::simulation::{Call, SimDisk};

const STATE: &str = "/state";
const DATA: &str = "/data";
/// The least limit. Of its share for the queue a few hundred operations stay in memory.
const LIMIT: u64 = 6 << 20;
/// Several times as many.
const QUEUED: usize = 2_000;

struct Lab {
    disk: SimDisk,
    server: Arc<MemoryBackend>,
    outside: Arc<FixedEnvironment>,
    config: Config,
}

impl Lab {
    fn new() -> Self {
        let disk = SimDisk::new();
        disk.put_directory(Path::new(DATA));
        let server = Arc::new(MemoryBackend::new());
        for number in 0..QUEUED {
            server.put(&url(number), Resource::new(content(number), "\"1\""));
        }
        Self {
            disk,
            server,
            outside: FixedEnvironment::new(1),
            config: Config {
                memory_limit: Some(LIMIT),
                ..Config::default()
            },
        }
    }

    fn open(&self) -> Result<Engine, Error> {
        let environment = self.outside.on(self.disk.storage());
        let backends = vec![Arc::clone(&self.server) as _];
        Engine::open(Path::new(STATE), self.config.clone(), environment, backends)
    }

    /// Queues so many, each with a sealed header, as lists.
    fn queue(engine: &Engine) -> Vec<TransferId> {
        let downloads: Vec<NewDownload> = (0..QUEUED).map(download).collect();
        downloads
            .chunks(500)
            .flat_map(|list| engine.create(list).unwrap())
            .collect()
    }

    fn is_published(&self, number: usize) -> bool {
        let file = self
            .disk
            .storage()
            .open(&destination(number), backhaul_journal::Access::Read);
        let mut bytes = vec![0; 64];
        let count = file.map_or(0, |file| file.read_at(&mut bytes, 0).unwrap());
        bytes[..count] == *content(number)
    }
}

fn url(number: usize) -> String {
    format!("mem://host-{}/{number}", number % 7)
}

fn content(number: usize) -> Vec<u8> {
    format!("what number {number} is").into_bytes()
}

fn destination(number: usize) -> PathBuf {
    Path::new(DATA).join(format!("file-{number}"))
}

fn download(number: usize) -> NewDownload {
    NewDownload {
        url: url(number),
        destination: destination(number),
        app: format!("app-{}", number % 3),
        headers: vec![format!("X-Padding: {:0200}", number)],
        ..NewDownload::default()
    }
}

/// Steps until nothing is left, letting time pass where the engine waits for it.
fn finish(lab: &Lab, engine: &Engine) {
    for _ in 0..100 {
        while engine.step() {}
        if engine.is_idle() {
            return;
        }
        lab.outside.advance(Duration::from_secs(30));
    }
}

fn is_scratch(path: &Path) -> bool {
    path == Path::new(STATE).join("scratch")
}

#[test]
fn a_queue_in_a_file_is_worked_off_as_one_in_memory_and_the_file_has_no_name() {
    let lab = Lab::new();
    let written = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&written);
    lab.disk.fail_with(move |call, path| -> Option<std::io::Error> {
        counted.fetch_add(u64::from(call == Call::Write && is_scratch(path)), Ordering::Relaxed);
        None
    });
    let engine = lab.open().unwrap();
    let ids = Lab::queue(&engine);
    assert!(written.load(Ordering::Relaxed) >= QUEUED as u64 / 2);
    let names = lab.disk.storage().list(Path::new(STATE)).unwrap();
    assert!(!names.iter().any(|name| name == "scratch"), "{names:?}");
    // One half before a restart, the other half after it.
    for _ in 0..QUEUED {
        assert!(engine.step());
    }
    engine.close().unwrap();
    let engine = lab.open().unwrap();
    finish(&lab, &engine);
    for (number, id) in ids.into_iter().enumerate() {
        let status = engine.view(id).map(|view| view.status);
        assert!(
            !matches!(status, Ok(status) if status != TransferStatus::Completed),
            "{number}: {status:?}"
        );
        assert!(lab.is_published(number), "{number}");
    }
}

#[test]
fn a_file_that_takes_no_more_is_done_without() {
    for call in [Call::Create, Call::Remove, Call::Write] {
        let lab = Lab::new();
        lab.disk.fail_with(move |made, path| {
            let fails = made == call && is_scratch(path);
            fails.then(|| std::io::Error::from(std::io::ErrorKind::StorageFull))
        });
        let engine = lab.open().unwrap();
        Lab::queue(&engine);
        finish(&lab, &engine);
        assert!((0..QUEUED).all(|number| lab.is_published(number)), "{call:?}");
    }
}

#[test]
fn operations_that_cannot_be_read_back_stop_the_engine_and_the_next_start_has_them_all() {
    for is_torn in [false, true] {
        let lab = Lab::new();
        let engine = lab.open().unwrap();
        let ids = Lab::queue(&engine);
        let fails = Arc::new(AtomicBool::new(true));
        let failing = Arc::clone(&fails);
        lab.disk.fail_with(move |call, path| {
            let is_meant = call == Call::Read && is_scratch(path) && failing.load(Ordering::Relaxed);
            is_meant.then(|| std::io::Error::other("the disk does not answer"))
        });
        // Some are in memory and go on until one is wanted that is not.
        let mut steps = 0;
        while engine.step() {
            steps += 1;
        }
        assert!(steps < 2 * QUEUED);
        // It answers again: what was missed meanwhile is not known, and so nothing is recorded.
        fails.store(is_torn, Ordering::Relaxed);
        let more = NewDownload {
            url: url(0) + "0",
            destination: Path::new(DATA).join("more"),
            ..NewDownload::default()
        };
        for error in [
            engine.create(&[more]).map(|_| ()).unwrap_err().1,
            engine.pause(ids[QUEUED - 1]).unwrap_err(),
            engine
                .view(ids[QUEUED - 1])
                .map(|_| ())
                .err()
                .unwrap_or(Error::UnknownId(ids[0])),
        ] {
            let text = error.to_string();
            assert!(
                text.contains("scratch file") || matches!(error, Error::UnknownId(_)),
                "{text}"
            );
        }
        drop(engine);
        lab.disk.fail_no_more();
        let engine = lab.open().unwrap();
        for id in &ids {
            assert!(engine.view(*id).is_ok());
        }
        finish(&lab, &engine);
        assert!((0..QUEUED).all(|number| lab.is_published(number)));
    }
}

#[test]
fn a_start_that_cannot_read_its_file_fails_and_sweeps_nothing() {
    let lab = Lab::new();
    let engine = lab.open().unwrap();
    let mut downloads: Vec<NewDownload> = (0..QUEUED).map(download).collect();
    for one in &mut downloads {
        one.hold = true;
    }
    let last = QUEUED - 1;
    downloads[last].secret_headers = vec!["Authorization: secret".into()];
    for list in downloads.chunks(500) {
        engine.create(list).unwrap();
    }
    engine.close().unwrap();
    let sealed = || {
        let names = lab.disk.storage().list(&Path::new(STATE).join("vault")).unwrap();
        names
            .iter()
            .filter(|name| name.to_string_lossy().ends_with(".sealed"))
            .count()
    };
    assert_eq!(sealed(), 1);
    lab.disk.fail_with(|call, path| {
        (call == Call::Read && is_scratch(path)).then(|| std::io::Error::other("the disk does not answer"))
    });
    let error = lab.open().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("scratch file"), "{error}");
    assert_eq!(sealed(), 1);
    lab.disk.fail_no_more();
    assert!(lab.open().is_ok());
    assert_eq!(sealed(), 1);
}

#[test]
fn more_operations_than_the_limit_has_room_for_are_refused_with_their_number() {
    let mut lab = Lab::new();
    lab.config.connections.max = 1;
    let engine = lab.open().unwrap();
    let list: Vec<NewDownload> = (0..60_000).map(download).collect();
    let (_, error) = engine.create(&list).map(|_| ()).unwrap_err();
    let Error::LimitReached { limit, max } = &error else {
        panic!("{error}")
    };
    assert!(
        limit.contains("memory limit") && (30_000..60_000).contains(max),
        "{error}"
    );
    assert!(engine.create(&list[..usize::try_from(*max).unwrap()]).is_ok());
}

#[test]
fn a_limit_that_cannot_be_kept_is_refused_by_its_name() {
    for limit in [0, (6 << 20) - 1, (1 << 40) + 1] {
        let mut lab = Lab::new();
        lab.config.memory_limit = Some(limit);
        let error = lab.open().map(|_| ()).unwrap_err().to_string();
        assert!(
            error.contains("memory-limit") && error.contains(&limit.to_string()),
            "{error}"
        );
    }
}
