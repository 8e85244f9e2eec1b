//! Crashes at one certain moment, each once lost something: the whole engine, stepped on the simulated disk.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backhaul::{Collision, Config, Engine, FixedEnvironment, NewDownload, TransferId, TransferStatus, Window};
use backhaul_backends::{MemoryBackend, Resource, Validators};
use backhaul_journal::FileSystem;
use backhaul_journal::simulation::{Call, Fault, SimDisk};

const URL: &str = "mem://host/file";
const DATA: &str = "/data";
const FILE: &str = "/data/file";
/// Too short for claims.
const SHORT: usize = 700;

/// A device that goes through several starts and boots.
struct Device {
    disk: SimDisk,
    server: Arc<MemoryBackend>,
    starts: u64,
    boots: u32,
}

impl Device {
    fn new(len: usize, resumable: bool) -> Self {
        let disk = SimDisk::new();
        disk.put_directory(Path::new(DATA));
        disk.set_file_system(FileSystem::Other);
        let server = Arc::new(MemoryBackend::new());
        let resource = Resource::new(vec![7; len], "a");
        server.put(URL, Resource { resumable, ..resource });
        Self {
            disk,
            server,
            starts: 0,
            boots: 0,
        }
    }

    fn start(&mut self) -> (Engine, Arc<FixedEnvironment>) {
        self.starts += 1;
        let outside = FixedEnvironment::new(self.starts << 32);
        (0..self.boots).for_each(|_| outside.reboot());
        let config = Config {
            buffer_bytes: 512,
            window: Window {
                claim_bytes: 2048,
                unclaimed_bytes_max: 8192,
                short_path_bytes_max: 1024,
                ..Window::default()
            },
            ..Config::default()
        };
        let environment = outside.on(self.disk.storage());
        let engine = Engine::open(
            Path::new("/state"),
            config,
            environment,
            vec![Arc::clone(&self.server) as _],
        );
        (engine.unwrap(), outside)
    }

    /// Steps until nothing is left to do at once. The disk that the process has at the first call that `here` picks, or at
    /// the end, is the disk from then on, as after `kill -9` at that moment.
    fn step_and_kill(&mut self, engine: &Engine, mut here: impl FnMut(Call, &Path) -> Kill + Send + 'static) {
        let image = Arc::new(Mutex::new(None));
        let (seen, to) = (self.disk.clone(), Arc::clone(&image));
        self.disk.fail_with(move |call, path| match here(call, path) {
            Kill::Here => {
                to.lock().unwrap().get_or_insert_with(|| seen.kill());
                None
            }
            Kill::Fail(kind) => Some(Fault::Error(kind.into())),
            Kill::GoOn => None,
        });
        while engine.step() {}
        self.disk.fail_no_more();
        let image = image.lock().unwrap().take();
        self.disk = image.unwrap_or_else(|| self.disk.kill());
    }

    fn cut_power(&mut self) {
        self.disk = self.disk.lose_unsynced();
        self.boots += 1;
    }

    fn names(&self) -> Vec<String> {
        self.disk.names(Path::new(DATA))
    }
}

enum Kill {
    Here,
    Fail(io::ErrorKind),
    GoOn,
}

fn is_data(path: &Path) -> bool {
    path.starts_with(DATA)
}

fn add(engine: &Engine, collision: Collision) -> TransferId {
    let download = NewDownload {
        url: URL.into(),
        destination: FILE.into(),
        app: "test".into(),
        collision,
        ..NewDownload::default()
    };
    engine.create(&[download]).unwrap()[0]
}

/// Steps while a quarter of an hour passes.
fn finish(engine: &Engine, outside: &FixedEnvironment) {
    for _ in 0..30 {
        while engine.step() {}
        outside.advance(Duration::from_secs(30));
    }
}

#[test]
fn a_kill_after_a_rename_without_room_completes_nothing_without_its_file() {
    let mut device = Device::new(SHORT, true);
    let (engine, _) = device.start();
    let id = add(&engine, Collision::Fail);
    let mut is_full = false;
    device.step_and_kill(&engine, move |call, path| match call {
        Call::Rename if is_data(path) => {
            is_full = true;
            Kill::Fail(io::ErrorKind::StorageFull)
        }
        // Looking for room, and making some.
        Call::Stat | Call::Remove => Kill::GoOn,
        _ if is_full => Kill::Here,
        _ => Kill::GoOn,
    });
    let (engine, outside) = device.start();
    finish(&engine, &outside);
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Completed);
    assert_eq!(device.names(), ["file"]);
}

#[test]
fn what_was_complete_on_a_volume_that_is_not_mounted_now_is_published_once_it_is() {
    let mut device = Device::new(SHORT, true);
    let (engine, _) = device.start();
    let id = add(&engine, Collision::Fail);
    device.step_and_kill(&engine, |call, path| match call {
        Call::Rename if is_data(path) => Kill::Here,
        _ => Kill::GoOn,
    });
    let (engine, outside) = device.start();
    device
        .disk
        .fail_with(|_, path| is_data(path).then(|| io::Error::from(io::ErrorKind::NotFound)));
    while engine.step() {}
    outside.advance(Duration::from_secs(30));
    while engine.step() {}
    let status = engine.view(id).unwrap().status;
    assert!(!status.is_ended(), "{status} without its file");
    device.disk.fail_no_more();
    finish(&engine, &outside);
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Completed);
    assert_eq!(device.names(), ["file"]);
    assert_eq!(device.server.attempts().len(), 1);
}

#[test]
fn a_rename_that_finds_no_room_is_waited_for_and_costs_no_further_attempt() {
    let mut device = Device::new(5000, false);
    let (engine, outside) = device.start();
    let id = add(&engine, Collision::Fail);
    device.disk.fail_with(|call, path| {
        (call == Call::Rename && is_data(path)).then(|| io::Error::from(io::ErrorKind::StorageFull))
    });
    finish(&engine, &outside);
    assert_eq!(device.server.attempts().len(), 1);
    device.disk.fail_no_more();
    finish(&engine, &outside);
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Completed);
    assert_eq!(device.server.attempts().len(), 1);
}

#[test]
fn what_a_full_disk_stopped_is_kept_where_something_proves_it_unless_the_server_said_that_it_cannot_continue() {
    for (tells_resumable, resumable, tag, keeps) in [
        (true, true, "\"a\"", true),
        (false, true, "\"a\"", true),
        (false, true, "W/\"a\"", false),
        (true, false, "\"a\"", false),
    ] {
        let mut device = Device::new(20_000, resumable);
        let resource = Resource::new(vec![7; 20_000], "");
        let resource = Resource {
            resumable,
            tells_resumable,
            validators: Validators {
                etag: Some(tag.into()),
                ..resource.validators
            },
            ..resource
        };
        device.server.put(URL, resource);
        let (engine, outside) = device.start();
        let id = add(&engine, Collision::Fail);
        let mut writes = 0;
        device.disk.fail_with(move |call, path| {
            let is_write = call == Call::Write && is_data(path);
            writes += usize::from(is_write);
            (is_write && writes > 20).then(|| io::Error::from(io::ErrorKind::StorageFull))
        });
        while engine.step() {}
        assert_eq!(engine.view(id).unwrap().status, TransferStatus::PausedDiskFull);
        assert_eq!(
            device.names().len(),
            usize::from(keeps),
            "{tells_resumable} {resumable} {tag}"
        );
        device.disk.fail_no_more();
        finish(&engine, &outside);
        let view = engine.view(id).unwrap();
        assert_eq!(
            (view.status, view.restarts, view.bytes_wasted == 0),
            (TransferStatus::Completed, u32::from(!keeps), keeps),
            "{tells_resumable} {resumable} {tag}"
        );
    }
}

#[test]
fn a_part_file_does_not_come_back_after_two_kills_a_cancel_and_a_power_cut() {
    let mut device = Device::new(SHORT, true);
    let (engine, _) = device.start();
    let id = add(&engine, Collision::Fail);
    device.step_and_kill(&engine, |call, path| match call {
        Call::Sync if is_data(path) => Kill::Here,
        _ => Kill::GoOn,
    });
    assert_eq!(device.names().len(), 1, "the part file is there");
    // File systems make names durable by themselves, too.
    device.disk.storage().sync_directory(Path::new(DATA)).unwrap();
    let (engine, _) = device.start();
    let mut is_removed = false;
    device.step_and_kill(&engine, move |call, path| match call {
        Call::Remove if is_data(path) => {
            is_removed = true;
            Kill::GoOn
        }
        Call::Create if is_removed => Kill::Here,
        _ => Kill::GoOn,
    });
    assert_eq!(
        device.names(),
        Vec::<String>::new(),
        "the part file is removed and not made again"
    );
    let (engine, _) = device.start();
    engine.cancel(id).unwrap();
    device.cut_power();
    let (engine, outside) = device.start();
    finish(&engine, &outside);
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Canceled);
    assert_eq!(device.names(), Vec::<String>::new());
}

#[test]
fn unique_takes_another_name_where_the_power_went_at_the_rename_and_the_name_is_taken_since() {
    let mut device = Device::new(SHORT, true);
    let (engine, _) = device.start();
    let id = add(&engine, Collision::Unique);
    device.step_and_kill(&engine, |call, path| match call {
        Call::Rename if is_data(path) => Kill::Here,
        _ => Kill::GoOn,
    });
    device.cut_power();
    device.disk.put(Path::new(FILE), b"somebody else's");
    let (engine, outside) = device.start();
    finish(&engine, &outside);
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Completed);
    assert_eq!(device.names(), ["file", "file (2)"]);
    assert_eq!(device.disk.content(Path::new(FILE)), b"somebody else's");
}

#[test]
fn a_creation_that_a_crash_brings_back_has_its_secrets() {
    let mut device = Device::new(SHORT, true);
    let (engine, _) = device.start();
    let download = NewDownload {
        url: URL.into(),
        destination: FILE.into(),
        app: "test".into(),
        secret_headers: vec!["X-Key: secret".into()],
        ..NewDownload::default()
    };
    device.disk.fail_with(|call, path| {
        let is_it = call == Call::Sync && path.starts_with("/state/journal");
        is_it.then(|| io::Error::other("the disk does not answer"))
    });
    engine.create(&[download]).unwrap_err();
    device.disk.fail_no_more();
    device.disk = device.disk.kill();
    let (engine, outside) = device.start();
    finish(&engine, &outside);
    let views = engine.views();
    assert_eq!(views.len(), 1, "the creation was in the page cache");
    assert_eq!(views[0].status, TransferStatus::Completed, "{views:?}");
}

#[test]
fn a_directory_that_cannot_be_synced_holds_up_nobody_else() {
    let mut device = Device::new(SHORT, true);
    device.disk.put_directory(Path::new("/bad"));
    let (engine, outside) = device.start();
    let bad = NewDownload {
        url: URL.into(),
        destination: "/bad/file".into(),
        app: "bad".into(),
        sha256: Some([0; 32]),
        ..NewDownload::default()
    };
    let bad = engine.create(&[bad]).unwrap()[0];
    let good = add(&engine, Collision::Fail);
    device.disk.fail_with(|call, path| {
        let is_it = call == Call::SyncDirectory && path == Path::new("/bad");
        is_it.then(|| io::Error::other("the disk does not answer"))
    });
    finish(&engine, &outside);
    assert_eq!(engine.view(good).unwrap().status, TransferStatus::Completed);
    assert_eq!(engine.view(bad).unwrap().status, TransferStatus::Error);
    engine.acknowledge(&[bad, good]).unwrap();
}

#[test]
fn a_removal_whose_sync_failed_is_synced_again_before_its_operation_ends() {
    let mut device = Device::new(SHORT, true);
    device
        .server
        .put("mem://host/other", Resource::new(vec![8; SHORT], "b"));
    let (engine, outside) = device.start();
    for (url, name) in [("mem://host/other", "/data/other"), (URL, FILE)] {
        let download = NewDownload {
            url: url.into(),
            destination: name.into(),
            app: "test".into(),
            sha256: Some([0; 32]),
            ..NewDownload::default()
        };
        engine.create(&[download]).unwrap();
    }
    let (disk, mut syncs) = (device.disk.clone(), 0);
    device.disk.fail_with(move |call, path| {
        if call == Call::Remove && is_data(path) && disk.find(path).is_some() {
            // The name of the part file is durable by now, as it may be at any time.
            disk.storage().sync_directory(Path::new(DATA)).unwrap();
        }
        syncs += u32::from(call == Call::SyncDirectory && is_data(path));
        (call == Call::SyncDirectory && syncs == 2).then(|| io::Error::other("the disk does not answer"))
    });
    finish(&engine, &outside);
    device.disk.fail_no_more();
    assert!(engine.views().iter().all(|view| view.status == TransferStatus::Error));
    device.cut_power();
    assert_eq!(device.names(), Vec::<String>::new());
}

#[test]
fn an_end_that_waits_for_its_part_file_keeps_nobody_else_from_coming_to_an_end() {
    let mut device = Device::new(SHORT, true);
    let (engine, _) = device.start();
    let stuck = NewDownload {
        url: URL.into(),
        destination: "/data/stuck".into(),
        app: "stuck".into(),
        sha256: Some([0; 32]),
        ..NewDownload::default()
    };
    let stuck = engine.create(&[stuck]).unwrap()[0];
    device.disk.fail_with(|call, path| {
        let is_it = call == Call::Remove && path.to_string_lossy().contains("stuck");
        is_it.then(|| io::Error::other("the disk does not answer"))
    });
    while engine.step() {}
    let view = engine.view(stuck).unwrap();
    assert_eq!(
        (view.status, view.reason),
        (TransferStatus::Error, Some(backhaul::Reason::Sweeping))
    );
    let id = add(&engine, Collision::Fail);
    engine.restrict_to(Some([id].into()));
    // Time stands still here, so that it would wait for ever for the next look at the part file.
    engine.run(backhaul::Until::Idle, None, |_| ()).unwrap();
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Completed);
}

#[test]
fn a_part_file_in_a_directory_that_cannot_be_written_to_for_a_moment_is_removed_after_it() {
    for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
        let mut device = Device::new(20_000, true);
        let (engine, outside) = device.start();
        let wrong = NewDownload {
            url: URL.into(),
            destination: FILE.into(),
            sha256: Some([0; 32]),
            ..NewDownload::default()
        };
        let id = engine.create(&[wrong]).unwrap()[0];
        device
            .disk
            .fail_with(move |call, path| (call == Call::Remove && is_data(path)).then(|| io::Error::from(kind)));
        while engine.step() {}
        assert_eq!(device.names().len(), 1, "its part stays for the moment");
        device.disk.fail_no_more();
        finish(&engine, &outside);
        assert!(engine.view(id).unwrap().has_ended());
        assert!(device.names().is_empty(), "{kind}: {:?}", device.names());
    }
}

#[test]
fn a_destination_that_cannot_be_looked_at_is_not_taken_for_free() {
    let mut device = Device::new(SHORT, true);
    device.disk.put(Path::new(FILE), b"somebody else's");
    let (engine, _) = device.start();
    let mut looks = 0;
    device.disk.fail_with(move |call, path| {
        // The first look finds out what stands there, the second one whether it is free.
        let is_look = call == Call::Stat && path == Path::new(FILE);
        looks += u32::from(is_look);
        (is_look && looks > 2).then(|| io::Error::other("the disk does not answer"))
    });
    let download = NewDownload {
        url: URL.into(),
        destination: FILE.into(),
        app: "test".into(),
        ..NewDownload::default()
    };
    let (_, error) = engine.create(&[download]).unwrap_err();
    assert!(error.to_string().contains("cannot be looked at"), "{error}");
    assert!(engine.views().is_empty());
}
