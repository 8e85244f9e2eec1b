//! What only a second thread can break: the moments at which one thread of the engine could outrun the other are held
//! open by the disk, and what a power cut at any later moment leaves is judged.
//!
//! `BACKHAUL_LEAVE_OUT` names a step of the engine that this program does without, and so must fail; it starts itself
//! again for each of them.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::thread;
use std::time::Duration;

use backhaul::{
    Config, Engine, FixedEnvironment, NewDownload, TransferId, TransferStatus, Until, Window, read_catalog,
};
use backhaul_backends::{
    Act, Backend, Capabilities, Failure, Head, HeaderFields, Interrupt, MemoryBackend, Request, Resource, Sink, Start,
    Validators,
};
use backhaul_journal::simulation::{Call, Fault, SimDisk};
use backhaul_journal::{FileSystem, steps};

const STATE: &str = "/state";
const URL: &str = "mem://host/file";
const CLAIM_BYTES: usize = 2048;
/// Longest wait for another thread, which a test that works never needs.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// How long a thread that must not do something is given to do it all the same.
const TEMPTATION: Duration = Duration::from_millis(500);

/// Something that one thread says and another one waits for.
#[derive(Default)]
struct Signal(Mutex<bool>, Condvar);

impl Signal {
    fn give(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    /// Whether it came in time.
    fn comes_within(&self, most: Duration) -> bool {
        let given = self.0.lock().unwrap();
        let (given, _) = self.1.wait_timeout_while(given, most, |given| !*given).unwrap();
        *given
    }

    fn wait(&self, what: &str) {
        assert!(self.comes_within(WAIT_MAX), "waited in vain until {what}");
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len)
        .map(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0])
        .collect()
}

fn leave_out_what_is_asked_for() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(step) = std::env::var("BACKHAUL_LEAVE_OUT") {
            steps::leave_out_everywhere(step.leak());
        }
    });
}

fn disk() -> SimDisk {
    leave_out_what_is_asked_for();
    let disk = SimDisk::new();
    disk.put_directory(Path::new("/data"));
    disk.set_file_system(FileSystem::Other);
    disk
}

fn open(disk: &SimDisk, backend: Arc<dyn Backend>) -> Engine {
    let config = Config {
        buffer_bytes: 512,
        window: Window {
            claim_bytes: CLAIM_BYTES as u64,
            unclaimed_bytes_max: 4 * CLAIM_BYTES as u64,
            short_path_bytes_max: 1024,
            ..Window::default()
        },
        ..Config::default()
    };
    Engine::open(
        Path::new(STATE),
        config,
        FixedEnvironment::new(7).on(disk.storage()),
        vec![backend],
    )
    .unwrap()
}

fn add(engine: &Engine) -> TransferId {
    let download = NewDownload {
        url: URL.into(),
        destination: "/data/file".into(),
        app: "test".into(),
        ..NewDownload::default()
    };
    engine.create(&[download]).unwrap()[0]
}

/// What a power cut that loses all unsynced work leaves: a claim must have its bytes.
fn judge(image: &SimDisk, content: &[u8]) -> u64 {
    let catalog = read_catalog(Path::new(STATE), &FixedEnvironment::new(8).on(image.storage())).unwrap();
    let mut claimed = 0;
    for view in catalog
        .operations
        .iter()
        .filter(|view| !view.status.is_ended() && view.bytes_done > 0)
    {
        let names = image.names(Path::new("/data"));
        let parts: Vec<_> = names
            .iter()
            .map(|name| image.content(&Path::new("/data").join(name)))
            .collect();
        let done = usize::try_from(view.bytes_done).unwrap();
        let is_there = parts.iter().any(|part| part.get(..done) == content.get(..done));
        assert!(is_there, "{done} bytes are claimed; the disk has {names:?}");
        claimed = claimed.max(view.bytes_done);
    }
    claimed
}

/// Sends bytes that are due to be claimed, and more of them while the sync of the claim goes on.
struct Overtaking {
    sync_has_begun: Arc<Signal>,
    more_is_written: Arc<Signal>,
    content: Vec<u8>,
}

impl Backend for Overtaking {
    fn schemes(&self) -> Vec<&str> {
        vec!["mem"]
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            resume: true,
            ranges: true,
            methods: true,
            headers: true,
            proxies: false,
            ..Capabilities::default()
        }
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, _: &Interrupt) -> Result<(), Failure> {
        let head = Head {
            status_code: 200,
            start: Start::Beginning,
            validators: Validators {
                etag: Some("\"a\"".into()),
                total_bytes: Some(self.content.len() as u64),
                ..Validators::default()
            },
            actual_url: request.url.clone(),
            resumable: Some(true),
            provable: true,
            on_trust: false,
            content_type: None,
            modified: None,
            mirrors: Vec::new(),
            headers: HeaderFields::default(),
        };
        let (first, second) = self.content.split_at(CLAIM_BYTES);
        sink.begin(&head).unwrap();
        sink.write(first).unwrap();
        self.sync_has_begun.wait("the claimer syncs the first bytes");
        sink.write(second).unwrap();
        self.more_is_written.give();
        Ok(())
    }
}

#[test]
fn bytes_that_are_written_while_a_sync_goes_on_are_not_claimed_by_it() {
    let (disk, content) = (disk(), content(CLAIM_BYTES + 1500));
    let (sync_has_begun, more_is_written) = (Arc::new(Signal::default()), Arc::new(Signal::default()));
    let images = Arc::new(Mutex::new(Vec::new()));
    let backend = Overtaking {
        sync_has_begun: Arc::clone(&sync_has_begun),
        more_is_written: Arc::clone(&more_is_written),
        content: content.clone(),
    };
    let engine = open(&disk, Arc::new(backend));
    add(&engine);
    let (seen, to) = (disk.clone(), Arc::clone(&images));
    disk.fail_each_with(move |call, path| {
        if call.is_change() {
            to.lock().unwrap().push(seen.lose_unsynced());
        }
        if call == Call::Sync && path.extension().is_some_and(|extension| extension == "part") {
            sync_has_begun.give();
            more_is_written.wait("the second bytes are written");
        }
        None::<Fault>
    });
    engine.run(Until::Idle, None, |_| ()).unwrap();
    disk.fail_no_more();
    let images = images.lock().unwrap();
    let most = images.iter().map(|image| judge(image, &content)).max();
    assert_eq!(most, Some(CLAIM_BYTES as u64), "the claim was seen");
}

#[test]
fn a_part_file_stays_until_the_cancel_of_its_operation_is_durable() {
    let (disk, content) = (disk(), content(3 * CLAIM_BYTES));
    let server = Arc::new(MemoryBackend::new());
    server.put(URL, Resource::new(content.clone(), "a"));
    server.script(URL, Act::CutAt(2 * CLAIM_BYTES as u64 + 10));
    let engine = Arc::new(open(&disk, server));
    let id = add(&engine);
    // The first attempt is cut, and the operation waits with a claim.
    while engine.step() {}
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Waiting);
    let part_goes = Arc::new(Signal::default());
    let image = Arc::new(Mutex::new(None));
    let (seen, to, goes, other) = (
        disk.clone(),
        Arc::clone(&image),
        Arc::clone(&part_goes),
        Arc::clone(&engine),
    );
    let main = thread::current().id();
    disk.fail_each_with(move |call, path| {
        if call == Call::Sync && path.starts_with(STATE) && thread::current().id() == main {
            // The cancel is in the table and not on the disk. Whoever sweeps now has to wait for it.
            other.restrict_to(None);
            goes.comes_within(TEMPTATION);
        }
        if call == Call::SyncDirectory && path == Path::new("/data") {
            to.lock().unwrap().get_or_insert_with(|| seen.kill());
            goes.give();
        }
        None::<Fault>
    });
    thread::scope(|scope| {
        let runner = scope.spawn(|| engine.run(Until::Stopped, None, |_| ()).unwrap());
        engine.cancel(id).unwrap();
        engine.stop();
        runner.join().unwrap();
    });
    disk.fail_no_more();
    let image = image.lock().unwrap().take().expect("the part file was removed");
    // The directory is about to be synced without the part: from here on the removal may be durable at any time.
    image.storage().sync_directory(Path::new("/data")).unwrap();
    judge(&image.lose_unsynced(), &content);
}

/// Threads that create at the same time.
const CREATORS: usize = 8;

#[test]
fn creations_at_the_same_time_share_syncs_and_no_two_have_one_destination() {
    let disk = disk();
    let engine = Arc::new(open(&disk, Arc::new(MemoryBackend::new())));
    let all_are_recorded = Arc::new(Signal::default());
    let (recorded, first) = (Arc::clone(&all_are_recorded), Once::new());
    disk.fail_each_with(move |call, path| {
        if call == Call::Sync && path.starts_with(STATE) {
            // The first one is held up until all others are waiting for the next.
            first.call_once(|| recorded.wait("all creations are recorded"));
        }
        None::<Fault>
    });
    let before = disk.calls(Call::Sync);
    let create = |number: usize| {
        let download = NewDownload {
            url: format!("{URL}/{number}"),
            // Two of them each ask for one destination.
            destination: format!("/data/{}", number / 2).into(),
            app: format!("test {number}"),
            ..NewDownload::default()
        };
        engine.create(&[download])
    };
    let created: Vec<_> = thread::scope(|scope| {
        let creators: Vec<_> = (0..2 * CREATORS)
            .map(|number| scope.spawn(move || create(number)))
            .collect();
        let begin = std::time::Instant::now();
        while engine.views().len() < CREATORS && begin.elapsed() < WAIT_MAX / 2 {
            thread::yield_now();
        }
        let recorded = engine.views().len();
        all_are_recorded.give();
        assert_eq!(recorded, CREATORS, "the others wait for the first one's sync");
        creators.into_iter().map(|creator| creator.join().unwrap()).collect()
    });
    disk.fail_no_more();
    assert_eq!(created.iter().filter(|created| created.is_ok()).count(), CREATORS);
    let syncs = disk.calls(Call::Sync) - before;
    assert!(syncs <= 3, "{syncs} syncs for {CREATORS} creations");
    let catalog = read_catalog(
        Path::new(STATE),
        &FixedEnvironment::new(8).on(disk.lose_unsynced().storage()),
    )
    .unwrap();
    assert_eq!(catalog.operations.len(), CREATORS, "all of them are durable");
}

#[test]
fn each_step_that_is_left_out_is_missed() {
    if std::env::var_os("BACKHAUL_LEAVE_OUT").is_some() {
        return;
    }
    for (step, test) in [
        (
            "watermark before the sync of the data",
            "bytes_that_are_written_while_a_sync_goes_on_are_not_claimed_by_it",
        ),
        (
            "sync of the intent to end",
            "a_part_file_stays_until_the_cancel_of_its_operation_is_durable",
        ),
    ] {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", test]).env("BACKHAUL_LEAVE_OUT", step);
        let status = again.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(101), "nobody missed '{step}'");
    }
}
