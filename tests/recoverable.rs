//! Errors that the owner of an operation can mend, changes of what is asked for, and pages in place of the content: the
//! engine stepped over a scripted backend.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod crashing;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backhaul::{
    Changes, Config, Engine, Environment, Error, FixedEnvironment, NewDownload, OperationView, Priority, Reason,
    TransferId, TransferStatus, Until, WebErrorStatus,
};
use backhaul_backends::{Act, Attempted, Failure, FailureKind, MemoryBackend, Resource, Validators};
use backhaul_journal::Disk;

use crashing::CrashingDisk;

const OLD: &str = "mem://host/file?token=old";
const NEW: &str = "mem://host/file?token=new";
const LEN: usize = 150_000;
const CUT: u64 = 100_000;

/// A state directory, a directory for files, a server, and an outside that stands still.
struct Lab {
    home: tempfile::TempDir,
    server: Arc<MemoryBackend>,
    outside: Arc<FixedEnvironment>,
}

impl Lab {
    /// One whose server serves the same content under both URLs, and refuses the old one for good from the cut on.
    fn with_expiring_url() -> Self {
        let lab = Self::new();
        for url in [OLD, NEW] {
            lab.server.put(url, resource());
        }
        lab.server.script(OLD, Act::CutAt(CUT));
        for _ in 0..10 {
            lab.server.script(OLD, Act::Fail(refusal(403)));
        }
        lab
    }

    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("data")).unwrap();
        Self {
            home,
            server: Arc::new(MemoryBackend::new()),
            outside: FixedEnvironment::new(1),
        }
    }

    fn open(&self) -> Engine {
        self.open_on(self.outside.on(Arc::new(Disk))).unwrap()
    }

    fn open_on(&self, environment: Environment) -> Result<Engine, Error> {
        let mut config = Config {
            buffer_bytes: 16 << 10,
            ..Config::default()
        };
        config.window.claim_bytes = 32 << 10;
        config.window.unclaimed_bytes_max = 64 << 10;
        config.window.short_path_bytes_max = 16 << 10;
        let server = Arc::clone(&self.server) as _;
        Engine::open(&self.home.path().join("state"), config, environment, vec![server])
    }

    fn destination(&self) -> PathBuf {
        self.home.path().join("data/file")
    }

    fn download(&self) -> NewDownload {
        NewDownload {
            url: OLD.into(),
            destination: self.destination(),
            app: "test".into(),
            recoverable: vec![WebErrorStatus::FORBIDDEN, WebErrorStatus::UNAUTHORIZED],
            ..NewDownload::default()
        }
    }

    /// One that stopped in the middle, because its URL was refused.
    fn stopped(&self, engine: &Engine) -> TransferId {
        let id = add(engine, &self.download());
        self.pass(engine, 20);
        assert_eq!(
            engine.view(id).unwrap().status,
            TransferStatus::PausedRecoverableWebErrorStatus
        );
        id
    }

    /// Steps while so many half minutes pass.
    fn pass(&self, engine: &Engine, half_minutes: u32) {
        for _ in 0..half_minutes {
            while engine.step() {}
            self.outside.advance(Duration::from_secs(30));
        }
    }

    fn last_attempt(&self) -> Attempted {
        self.server.attempts().pop().unwrap()
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.home.path().join(directory)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn expect_completed(&self, view: &OperationView) {
        assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        assert!(std::fs::read(self.destination()).unwrap() == content());
        assert_eq!(self.names("data"), ["file"]);
    }
}

fn add(engine: &Engine, download: &NewDownload) -> TransferId {
    engine.create(std::slice::from_ref(download)).unwrap()[0]
}

fn content() -> Vec<u8> {
    (0..LEN)
        .map(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0])
        .collect()
}

fn resource() -> Resource {
    Resource {
        content_type: Some("application/octet-stream".into()),
        ..Resource::new(content(), "a")
    }
}

fn page() -> Resource {
    Resource {
        content_type: Some("text/html; charset=utf-8".into()),
        ..Resource::new(*b"<html>login</html>", "p")
    }
}

fn refusal(code: u16) -> Failure {
    Failure {
        kind: FailureKind::Permanent,
        status: WebErrorStatus::from_http(code),
        code: Some(code),
        message: format!("refused with {code}"),
    }
}

fn url(url: &str) -> Changes {
    Changes {
        url: Some(url.into()),
        ..Changes::default()
    }
}

/// Names and values of request headers, in order.
fn headers(attempted: &Attempted) -> Vec<(&str, &str, bool)> {
    let headers = attempted.headers.iter();
    headers
        .map(|header| (header.name.as_str(), header.value.as_str(), header.secret))
        .collect()
}

// ---- recoverable errors ----

#[test]
fn an_error_that_its_owner_can_mend_keeps_the_bytes_until_a_new_url_goes_on_with_them() {
    let lab = Lab::with_expiring_url();
    let engine = lab.open();
    let id = lab.stopped(&engine);
    let view = engine.view(id).unwrap();
    assert_eq!(view.reason, Some(Reason::NeedsNewUrl));
    assert_eq!((view.bytes_done, view.next_attempt_at_ms), (CUT, None));
    let error = view.error.unwrap();
    assert_eq!((error.status, error.code), (WebErrorStatus::FORBIDDEN, Some(403)));
    assert_eq!(lab.server.attempts().len(), 2, "nothing is tried by itself");
    // The same after a restart.
    drop(engine);
    let engine = lab.open();
    lab.pass(&engine, 20);
    assert_eq!(engine.view(id).unwrap().reason, Some(Reason::NeedsNewUrl));
    engine.set(id, &url(NEW)).unwrap();
    lab.pass(&engine, 20);
    assert_eq!(
        engine.view(id).unwrap().status,
        TransferStatus::PausedRecoverableWebErrorStatus,
        "a change lets nothing go on by itself"
    );
    engine.resume(id).unwrap();
    lab.pass(&engine, 20);
    let view = engine.view(id).unwrap();
    lab.expect_completed(&view);
    assert_eq!((view.restarts, view.bytes_wasted), (0, 0));
    let last = lab.last_attempt();
    assert_eq!((last.url.as_str(), last.offset_bytes), (NEW, CUT));
}

#[test]
fn a_new_url_that_serves_something_else_starts_again_from_zero() {
    let lab = Lab::with_expiring_url();
    lab.server.put(NEW, Resource::new(content(), "another"));
    let engine = lab.open();
    let id = lab.stopped(&engine);
    engine.set(id, &url(NEW)).unwrap();
    engine.resume(id).unwrap();
    lab.pass(&engine, 20);
    let view = engine.view(id).unwrap();
    lab.expect_completed(&view);
    assert_eq!((view.restarts, view.bytes_wasted), (1, CUT));
}

/// A resource that says nothing but when it was last modified, as servers of FTP do; the same second on every server.
fn dated(content: Vec<u8>) -> Resource {
    let validators = Validators {
        total_bytes: Some(content.len() as u64),
        last_modified: Some("Wed, 01 Jan 2020 00:00:00 GMT".into()),
        date: Some("Wed, 01 Jan 2025 00:00:00 GMT".into()),
        ..Validators::default()
    };
    Resource {
        validators,
        ..Resource::new(content, "a")
    }
}

#[test]
fn the_time_of_one_server_proves_nothing_of_what_another_one_has() {
    let mut other = content();
    // Neither what comes again to be compared nor the length tells.
    other[0] ^= 1;
    for (new, now, restarts) in [(NEW, content(), 0), ("mem://elsewhere/file", other, 1)] {
        let lab = Lab::with_expiring_url();
        lab.server.put(OLD, dated(content()));
        lab.server.put(new, dated(now.clone()));
        let engine = lab.open();
        let id = lab.stopped(&engine);
        engine.set(id, &url(new)).unwrap();
        // The same after a restart.
        drop(engine);
        let engine = lab.open();
        engine.resume(id).unwrap();
        lab.pass(&engine, 20);
        let view = engine.view(id).unwrap();
        assert_eq!(view.status, TransferStatus::Completed, "{new}: {view:?}");
        assert!(std::fs::read(lab.destination()).unwrap() == now, "{new} is spliced");
        assert_eq!(view.restarts, restarts, "{new}");
    }
}

#[test]
fn an_error_that_is_not_listed_ends_the_operation_and_the_list_is_empty_by_default() {
    for (recoverable, code) in [(vec![], 403), (vec![WebErrorStatus::UNAUTHORIZED], 403)] {
        let lab = Lab::new();
        lab.server.script(OLD, Act::Fail(refusal(code)));
        let engine = lab.open();
        let id = add(
            &engine,
            &NewDownload {
                recoverable,
                ..lab.download()
            },
        );
        lab.pass(&engine, 5);
        assert_eq!(engine.view(id).unwrap().status, TransferStatus::Error);
    }
}

#[test]
fn an_error_is_listed_also_where_it_only_ends_the_operation_after_all_its_attempts() {
    let lab = Lab::new();
    let busy = Failure {
        kind: FailureKind::Transient { retry_after: None },
        ..refusal(503)
    };
    for _ in 0..20 {
        lab.server.script(OLD, Act::Fail(busy.clone()));
    }
    lab.server.put(OLD, resource());
    let engine = lab.open();
    let download = NewDownload {
        recoverable: vec![WebErrorStatus::SERVICE_UNAVAILABLE],
        ..lab.download()
    };
    let id = add(&engine, &download);
    lab.pass(&engine, 1_000);
    let view = engine.view(id).unwrap();
    assert_eq!(
        (view.status, view.attempts),
        (TransferStatus::PausedRecoverableWebErrorStatus, 20)
    );
    engine.resume(id).unwrap();
    lab.pass(&engine, 5);
    lab.expect_completed(&engine.view(id).unwrap());
}

#[test]
fn run_until_idle_does_not_wait_for_an_owner() {
    let lab = Lab::new();
    lab.server.script(OLD, Act::Fail(refusal(401)));
    let engine = lab.open();
    let id = add(&engine, &lab.download());
    engine.run(Until::Idle, None, |_| ()).unwrap();
    let view = engine.view(id).unwrap();
    assert_eq!(
        (view.status, view.reason),
        (
            TransferStatus::PausedRecoverableWebErrorStatus,
            Some(Reason::NeedsCredential)
        )
    );
    assert_eq!(engine.ended(), (0, 0));
}

#[test]
fn one_that_waits_for_its_owner_can_be_paused_resumed_and_canceled() {
    let lab = Lab::with_expiring_url();
    let engine = lab.open();
    let id = lab.stopped(&engine);
    engine.pause(id).unwrap();
    assert_eq!(engine.view(id).unwrap().reason, Some(Reason::PausedByApplication));
    engine.resume(id).unwrap();
    lab.pass(&engine, 5);
    assert_eq!(lab.server.attempts().len(), 3, "a resume tries again as it is");
    assert_eq!(engine.view(id).unwrap().reason, Some(Reason::NeedsNewUrl));
    engine.cancel(id).unwrap();
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Canceled);
    assert!(lab.names("data").is_empty());
}

#[test]
fn secrets_that_are_gone_can_be_given_anew() {
    let lab = Lab::with_expiring_url();
    let engine = lab.open();
    let download = NewDownload {
        recoverable: vec![WebErrorStatus::CREDENTIAL_UNAVAILABLE],
        hold: true,
        ..lab.download()
    };
    let id = add(&engine, &download);
    std::fs::remove_file(lab.home.path().join(format!("state/vault/{id}.sealed"))).unwrap();
    engine.start(id).unwrap();
    lab.pass(&engine, 5);
    assert_eq!(engine.view(id).unwrap().reason, Some(Reason::NeedsCredential));
    assert!(
        engine.set(id, &url(NEW)).is_err(),
        "what stays of the old ones is not known"
    );
    let anew = Changes {
        clear_headers: true,
        ..url(NEW)
    };
    engine.set(id, &anew).unwrap();
    engine.resume(id).unwrap();
    lab.pass(&engine, 5);
    lab.expect_completed(&engine.view(id).unwrap());
}

#[test]
fn a_list_of_errors_that_nobody_can_mend_is_refused() {
    let lab = Lab::new();
    let engine = lab.open();
    let refused = |recoverable| {
        let download = NewDownload {
            recoverable,
            ..lab.download()
        };
        engine.create(&[download]).unwrap_err().1
    };
    for status in [
        WebErrorStatus::DISK_FULL,
        WebErrorStatus::DIGEST_MISMATCH,
        WebErrorStatus(418),
    ] {
        let error = refused(vec![status]).to_string();
        assert!(error.starts_with("recoverable '"), "{error}");
    }
    assert!(matches!(
        refused(vec![WebErrorStatus::FORBIDDEN; 65]),
        Error::LimitReached { max: 64, .. }
    ));
}

// ---- changes ----

#[test]
fn what_runs_or_has_ended_is_not_changed_and_everything_else_is() {
    let lab = Lab::with_expiring_url();
    let other = "mem://host/hanging";
    lab.server.put(other, resource());
    lab.server.script(other, Act::HangAt(1_000));
    let engine = Arc::new(lab.open());
    let id = add(
        &engine,
        &NewDownload {
            url: other.into(),
            hold: true,
            ..lab.download()
        },
    );
    let high = Changes {
        priority: Some(Priority::High),
        ..Changes::default()
    };
    engine.set(id, &high).unwrap();
    assert_eq!(engine.view(id).unwrap().priority, Priority::High);
    engine.start(id).unwrap();
    engine.set(id, &url(other)).unwrap();
    let runs = Arc::clone(&engine);
    let runner = std::thread::spawn(move || runs.run(Until::Stopped, Some(Duration::from_millis(5)), |_| ()));
    let until = |what: &str, check: &dyn Fn(&OperationView) -> bool| {
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while !check(&engine.view(id).unwrap()) {
            assert!(std::time::Instant::now() < end, "in vain for {what}");
            std::thread::yield_now();
        }
    };
    until("the attempt", &|view| {
        view.status == TransferStatus::Running && view.bytes_done > 0
    });
    let error = engine.set(id, &url(NEW)).unwrap_err();
    assert!(
        matches!(error, Error::NotNow { .. }) && error.to_string().contains("pause it first"),
        "{error}"
    );
    engine.pause(id).unwrap();
    until("the pause", &|view| view.status == TransferStatus::PausedByApplication);
    engine.set(id, &url(NEW)).unwrap();
    engine.resume(id).unwrap();
    until("the end", &|view| view.status == TransferStatus::Completed);
    let error = engine.set(id, &url(OLD)).unwrap_err();
    assert!(error.to_string().contains("completed"), "{error}");
    engine.stop();
    runner.join().unwrap().unwrap();
    assert!(matches!(
        engine.set("0".repeat(32).parse().unwrap(), &high),
        Err(Error::UnknownId(_))
    ));
}

#[test]
fn a_change_is_checked_like_a_creation_and_a_refused_one_changes_nothing() {
    let lab = Lab::new();
    let engine = lab.open();
    let hold = NewDownload {
        hold: true,
        secret_headers: vec!["X-Key: hush".into()],
        ..lab.download()
    };
    let id = add(&engine, &hold);
    let taken = NewDownload {
        url: NEW.into(),
        destination: lab.home.path().join("data/other"),
        ..hold
    };
    let other = add(&engine, &taken);
    let before = (engine.view(id).unwrap(), lab.names("state/vault"));
    let header = |text: &str| Changes {
        headers: vec![text.into()],
        ..Changes::default()
    };
    let many = Changes {
        headers: (0..64).map(|number| format!("X-{number}: 1")).collect(),
        ..Changes::default()
    };
    let rows = [
        (url("nonsense"), "url 'nonsense'"),
        (url("gopher://host/"), "scheme 'gopher'"),
        (header("no colon"), "header '***'"),
        (header("Range: bytes=0-"), "header 'Range'"),
        (many, "the limit of 64"),
        (url(NEW), &format!("operation {other} has it already")),
    ];
    for (changes, words) in rows {
        let error = engine.set(id, &changes).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("hush"), "{error}");
    }
    assert_eq!((engine.view(id).unwrap(), lab.names("state/vault")), before);
    engine.set(id, &url(OLD)).unwrap();
    engine.cancel(other).unwrap();
    engine.set(id, &url(NEW)).unwrap();
}

#[test]
fn headers_are_replaced_by_name_and_secrets_do_not_follow_to_another_origin() {
    let lab = Lab::new();
    for host in ["a", "b"] {
        lab.server.put(&format!("mem://{host}/file"), resource());
        for _ in 0..9 {
            lab.server
                .script(&format!("mem://{host}/file"), Act::Fail(refusal(403)));
        }
    }
    let engine = lab.open();
    let download = NewDownload {
        url: "mem://ann:hush5@a/file".into(),
        headers: vec!["X-Plain: 1".into(), "X-Stays: 2".into()],
        secret_headers: vec!["X-Key: hush1".into(), "X-Other: hush2".into()],
        ..lab.download()
    };
    let id = add(&engine, &download);
    lab.pass(&engine, 2);
    let sent = |changes: Changes| {
        engine.set(id, &changes).unwrap();
        engine.resume(id).unwrap();
        lab.pass(&engine, 2);
        assert_eq!(lab.names("state/vault").len(), 2, "one sealed file, and the key");
        lab.last_attempt()
    };
    let attempt = sent(Changes {
        headers: vec!["x-plain: 3".into()],
        secret_headers: vec!["X-KEY: hush3".into()],
        ..Changes::default()
    });
    let expected = [
        ("X-Stays", "2", false),
        ("x-plain", "3", false),
        ("X-Other", "hush2", true),
        ("X-KEY", "hush3", true),
    ];
    assert_eq!(headers(&attempt), expected);
    assert_eq!(attempt.credential.unwrap().password, "hush5");
    let attempt = sent(url("mem://a/file"));
    assert_eq!(
        (headers(&attempt).len(), attempt.credential.is_some()),
        (4, true),
        "the same origin"
    );
    engine.set(id, &url("mem://eve:hush6@a/file")).unwrap();
    let attempt = sent(url("mem://a/file"));
    assert_eq!(attempt.credential.unwrap().password, "hush6");
    let attempt = sent(Changes {
        secret_headers: vec!["X-New: hush4".into()],
        ..url("mem://b/file")
    });
    let expected = [
        ("X-Stays", "2", false),
        ("x-plain", "3", false),
        ("X-New", "hush4", true),
    ];
    assert_eq!(headers(&attempt), expected);
    assert!(attempt.credential.is_none());
    engine
        .set(
            id,
            &Changes {
                clear_headers: true,
                ..Changes::default()
            },
        )
        .unwrap();
    assert_eq!(lab.names("state/vault"), ["key"], "nothing secret is left");
    let journal = lab.home.path().join("state/journal");
    let bytes: Vec<u8> = std::fs::read_dir(journal)
        .unwrap()
        .flat_map(|entry| std::fs::read(entry.unwrap().path()).unwrap_or_default())
        .collect();
    let stands_there = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(
        stands_there("X-Stays") && !stands_there("hush"),
        "secrets are not in the journal"
    );
}

#[test]
fn a_kill_at_any_call_to_the_disk_while_setting_leaves_the_old_secrets_or_the_new_ones_in_force() {
    let mut calls = 0;
    let mut finished = false;
    let (mut old, mut new) = (0, 0);
    while !finished {
        calls += 1;
        let lab = Lab::with_expiring_url();
        let id = {
            let engine = lab.open();
            lab.stopped(&engine)
        };
        let disk = CrashingDisk::after(calls);
        let was_set = lab
            .open_on(lab.outside.on(Arc::new(disk.clone())))
            .is_ok_and(|engine| engine.set(id, &url(NEW)).is_ok());
        finished = !disk.has_crashed();
        let engine = lab.open();
        let view = engine.view(id).unwrap();
        assert_eq!(view.bytes_done, CUT, "call {calls}");
        engine.resume(id).unwrap();
        lab.pass(&engine, 20);
        let last = lab.last_attempt();
        if last.url == NEW {
            lab.expect_completed(&engine.view(id).unwrap());
            new += 1;
        } else {
            assert_eq!(last.url, OLD, "call {calls}");
            let reason = engine.view(id).unwrap().reason;
            assert_eq!(reason, Some(Reason::NeedsNewUrl), "call {calls}");
            assert!(!was_set, "call {calls}: what was accepted is lost");
            old += 1;
        }
        let sealed = lab.names("state/vault");
        assert_eq!(
            sealed.len(),
            2,
            "call {calls}: one sealed file, and the key: {sealed:?}"
        );
    }
    assert!(
        old > 5 && new > 1,
        "both sides of the record were reached: {old}, {new}"
    );
}

#[test]
fn a_change_after_a_crash_in_the_middle_of_an_attempt_outlives_the_next_start() {
    let (mut calls, mut changed) = (0, 0);
    let mut finished = false;
    while !finished {
        calls += 3;
        let lab = Lab::new();
        lab.server.put(OLD, resource());
        lab.server.put(NEW, resource());
        let disk = CrashingDisk::after(calls);
        let added = lab
            .open_on(lab.outside.on(Arc::new(disk.clone())))
            .ok()
            .and_then(|engine| {
                let id = engine.create(&[lab.download()]).ok()?[0];
                lab.pass(&engine, 1);
                Some(id)
            });
        finished = !disk.has_crashed();
        let Some(id) = added else { continue };
        if lab.open().set(id, &url(NEW)).is_err() {
            continue;
        }
        changed += 1;
        let engine = lab.open();
        lab.pass(&engine, 20);
        lab.expect_completed(&engine.view(id).unwrap());
        assert_eq!(lab.last_attempt().url, NEW, "call {calls}");
    }
    assert!(changed > 5, "{changed}");
}

// ---- pages in place of the content, and links that run out ----

#[test]
fn a_login_page_in_place_of_the_rest_costs_no_held_byte() {
    let lab = Lab::new();
    lab.server.put(OLD, resource());
    lab.server.script(OLD, Act::CutAt(CUT));
    for _ in 0..3 {
        lab.server.script(OLD, Act::Replace(page()));
    }
    lab.server.script(OLD, Act::Replace(resource()));
    let engine = lab.open();
    let id = add(&engine, &lab.download());
    lab.pass(&engine, 1);
    lab.pass(&engine, 20);
    let view = engine.view(id).unwrap();
    lab.expect_completed(&view);
    assert_eq!((view.restarts, view.bytes_wasted, view.attempts), (0, 0, 5));
    assert_eq!(lab.last_attempt().offset_bytes, CUT);
}

#[test]
fn a_page_that_was_the_content_all_along_is_no_login_page() {
    let lab = Lab::new();
    let html = |etag: &str| Resource {
        content_type: Some("text/html".into()),
        ..Resource::new(content(), etag)
    };
    lab.server.put(OLD, html("a"));
    lab.server.script(OLD, Act::CutAt(CUT));
    lab.server.script(OLD, Act::Replace(html("b")));
    let engine = lab.open();
    let id = add(&engine, &lab.download());
    lab.pass(&engine, 20);
    let view = engine.view(id).unwrap();
    lab.expect_completed(&view);
    assert_eq!((view.restarts, view.attempts), (1, 2));
}

#[test]
fn another_type_than_expected_is_never_published_and_only_a_page_is_tried_again() {
    let lab = Lab::new();
    lab.server.put(OLD, page());
    let engine = lab.open();
    let expecting = NewDownload {
        expected_type: Some("Application/*".into()),
        ..lab.download()
    };
    let id = add(&engine, &expecting);
    while engine.step() {}
    let view = engine.view(id).unwrap();
    assert_eq!((view.status, view.restarts), (TransferStatus::Waiting, 0));
    assert_eq!(view.error.unwrap().status, WebErrorStatus::UNEXPECTED_CONTENT_TYPE);
    assert!(lab.names("data").is_empty());
    lab.server.put(OLD, resource());
    lab.pass(&engine, 20);
    lab.expect_completed(&engine.view(id).unwrap());
    let image = Resource {
        content_type: Some("image/png".into()),
        ..resource()
    };
    lab.server.put(NEW, image);
    let other = NewDownload {
        url: NEW.into(),
        destination: lab.home.path().join("data/other"),
        ..expecting
    };
    let id = add(&engine, &other);
    lab.pass(&engine, 20);
    let view = engine.view(id).unwrap();
    assert_eq!((view.status, view.attempts), (TransferStatus::Error, 1));
    assert_eq!(view.error.unwrap().status, WebErrorStatus::UNEXPECTED_CONTENT_TYPE);
    assert_eq!(lab.names("data"), ["file"]);
}

#[test]
fn a_link_that_ran_out_in_the_middle_is_looked_up_once_more_and_again_after_progress() {
    let stale = || {
        Act::Fail(Failure {
            kind: FailureKind::StaleTarget,
            ..refusal(403)
        })
    };
    let lab = Lab::new();
    lab.server.put(OLD, resource());
    let script = [
        Act::CutAt(50_000),
        stale(),
        Act::CutAt(CUT),
        stale(),
        Act::CutAt(CUT),
        stale(),
        stale(),
    ];
    for act in script {
        lab.server.script(OLD, act);
    }
    let engine = lab.open();
    let download = NewDownload {
        recoverable: Vec::new(),
        ..lab.download()
    };
    let id = add(&engine, &download);
    lab.pass(&engine, 200);
    let view = engine.view(id).unwrap();
    assert_eq!((view.status, view.attempts), (TransferStatus::Error, 7), "{view:?}");
    assert_eq!(view.error.unwrap().code, Some(403));
}

// ---- changes beside mirrors ----

const MIRROR: &str = "mem://mirror/file?token=hush";

fn asked(lab: &Lab) -> Vec<String> {
    lab.server.attempts().into_iter().map(|attempt| attempt.url).collect()
}

#[test]
fn what_is_hidden_of_a_mirror_outlives_every_change() {
    let other_headers = Changes {
        headers: vec!["X-A: b".into()],
        secret_headers: vec!["X-Key: c".into()],
        ..Changes::default()
    };
    let cleared = Changes {
        clear_headers: true,
        ..url(NEW)
    };
    let rank = Changes {
        priority: Some(Priority::High),
        ..Changes::default()
    };
    for changes in [other_headers, url(NEW), url("mem://elsewhere/file"), cleared, rank] {
        let lab = Lab::new();
        lab.server.put(MIRROR, resource());
        let engine = lab.open();
        let download = NewDownload {
            mirrors: vec![MIRROR.into()],
            hold: true,
            ..lab.download()
        };
        let id = add(&engine, &download);
        engine.set(id, &changes).unwrap();
        drop(engine);
        let engine = lab.open();
        engine.start(id).unwrap();
        lab.pass(&engine, 5);
        assert_eq!(lab.last_attempt().url, MIRROR, "{changes:?}");
        lab.expect_completed(&engine.view(id).unwrap());
    }
}

#[test]
fn secrets_that_are_gone_are_not_given_anew_where_those_of_a_mirror_are_among_them() {
    let lab = Lab::new();
    let engine = lab.open();
    let download = NewDownload {
        mirrors: vec![MIRROR.into()],
        hold: true,
        ..lab.download()
    };
    let id = add(&engine, &download);
    std::fs::remove_file(lab.home.path().join(format!("state/vault/{id}.sealed"))).unwrap();
    let anew = Changes {
        clear_headers: true,
        ..url(NEW)
    };
    assert!(engine.set(id, &anew).is_err(), "the mirror would be asked with '***'");
}

#[test]
fn a_new_url_is_asked_although_the_one_before_was_refused_in_the_same_round() {
    let lab = Lab::new();
    let engine = lab.open();
    let download = NewDownload {
        mirrors: vec![MIRROR.into()],
        recoverable: vec![WebErrorStatus::NOT_FOUND],
        ..lab.download()
    };
    let id = add(&engine, &download);
    lab.pass(&engine, 5);
    assert_eq!(asked(&lab), [OLD, MIRROR]);
    assert_eq!(engine.view(id).unwrap().reason, Some(Reason::NeedsNewUrl));
    lab.server.put(NEW, resource());
    engine.set(id, &url(NEW)).unwrap();
    engine.resume(id).unwrap();
    lab.pass(&engine, 5);
    assert_eq!(asked(&lab), [OLD, MIRROR, NEW]);
    lab.expect_completed(&engine.view(id).unwrap());
}

#[test]
fn a_resume_asks_every_source_again() {
    let lab = Lab::new();
    let engine = lab.open();
    let download = NewDownload {
        mirrors: vec![MIRROR.into()],
        recoverable: vec![WebErrorStatus::NOT_FOUND],
        ..lab.download()
    };
    let id = add(&engine, &download);
    lab.pass(&engine, 5);
    lab.server.put(OLD, resource());
    engine.resume(id).unwrap();
    lab.pass(&engine, 5);
    lab.expect_completed(&engine.view(id).unwrap());
}

#[test]
fn a_change_while_another_source_is_tried_begins_with_the_new_url() {
    let lab = Lab::new();
    let engine = lab.open();
    lab.server.put(NEW, resource());
    for _ in 0..2 {
        lab.server.script(MIRROR, Act::CutAt(0));
    }
    let download = NewDownload {
        mirrors: vec![MIRROR.into(), "mem://third/file".into()],
        ..lab.download()
    };
    let id = add(&engine, &download);
    while engine.view(id).unwrap().source == "mem://host/file?token=***" && engine.step() {}
    engine.pause(id).unwrap();
    engine.set(id, &url(NEW)).unwrap();
    engine.resume(id).unwrap();
    lab.pass(&engine, 5);
    assert_eq!(lab.last_attempt().url, NEW);
    lab.expect_completed(&engine.view(id).unwrap());
}

#[test]
fn the_header_host_does_not_follow_to_another_origin() {
    for (new, stays) in [("mem://host/other", true), ("mem://elsewhere/file", false)] {
        let lab = Lab::new();
        lab.server.put(new, resource());
        let engine = lab.open();
        let download = NewDownload {
            headers: vec!["Host: inner".into(), "X-A: b".into()],
            hold: true,
            ..lab.download()
        };
        let id = add(&engine, &download);
        engine.set(id, &url(new)).unwrap();
        engine.start(id).unwrap();
        lab.pass(&engine, 5);
        let attempt = lab.last_attempt();
        assert!(headers(&attempt).contains(&("X-A", "b", false)));
        assert_eq!(headers(&attempt).contains(&("Host", "inner", false)), stays, "{new}");
    }
}
