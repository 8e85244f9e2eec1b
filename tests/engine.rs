//! The engine over a real directory and a scripted backend, stepped on one thread: what happens when is decided here.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod crashing;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backhaul::{
    Collision, Config, Engine, Environment, Error, FixedEnvironment, NewDownload, OperationView, Reason, TransferId,
    TransferStatus, Until, WebErrorStatus,
};
use backhaul_backends::{Act, MemoryBackend, Resource, Validators};
use backhaul_journal::Disk;

use crashing::CrashingDisk;

const URL: &str = "mem://host/file";
const MIB: usize = 1 << 20;

/// A state directory, a directory for files, a server, and an outside that stands still.
struct Lab {
    _home: tempfile::TempDir,
    state: PathBuf,
    data: PathBuf,
    server: Arc<MemoryBackend>,
    outside: Arc<FixedEnvironment>,
    config: Config,
}

impl Lab {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (state, data) = (home.path().join("state"), home.path().join("data"));
        std::fs::create_dir(&data).unwrap();
        let outside = FixedEnvironment::new(1);
        let server = Arc::new(MemoryBackend::new());
        Self {
            _home: home,
            state,
            data,
            server,
            outside,
            config: Config::default(),
        }
    }

    /// One with a small window, so that a small file meets every kind of crash point.
    fn small() -> Self {
        let mut lab = Self::new();
        lab.config.buffer_bytes = 16 << 10;
        lab.config.window.claim_bytes = 32 << 10;
        lab.config.window.unclaimed_bytes_max = 64 << 10;
        lab.config.window.short_path_bytes_max = 16 << 10;
        lab
    }

    fn open(&self) -> Engine {
        self.open_on(self.outside.on(Arc::new(Disk))).unwrap()
    }

    fn open_on(&self, environment: Environment) -> Result<Engine, Error> {
        Engine::open(
            &self.state,
            self.config.clone(),
            environment,
            vec![Arc::clone(&self.server) as _],
        )
    }

    fn destination(&self) -> PathBuf {
        self.data.join("file")
    }

    fn download(&self) -> NewDownload {
        NewDownload {
            url: URL.into(),
            destination: self.destination(),
            app: "test".into(),
            ..NewDownload::default()
        }
    }

    fn add(&self, engine: &Engine) -> TransferId {
        engine.create(&[self.download()]).unwrap()[0]
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.data).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Offsets that attempts asked for.
    fn asked(&self) -> Vec<u64> {
        self.server
            .attempts()
            .iter()
            .map(|attempt| attempt.offset_bytes)
            .collect()
    }

    /// Steps until nothing is left, letting time pass where the engine waits for it.
    fn finish(&self, engine: &Engine) {
        self.pass(engine, 200);
    }

    /// Steps while so many half minutes pass.
    fn pass(&self, engine: &Engine, half_minutes: u32) {
        for _ in 0..half_minutes {
            while engine.step() {}
            self.outside.advance(Duration::from_secs(30));
        }
    }
}

fn content(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0] ^ seed)
        .collect()
}

fn expect_completed(view: &OperationView, path: &Path, bytes: &[u8]) {
    assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
    assert!(
        std::fs::read(path).unwrap() == bytes,
        "the published file is not the resource"
    );
}

fn unreachable_failure() -> backhaul_backends::Failure {
    backhaul_backends::Failure {
        kind: backhaul_backends::FailureKind::Unreachable,
        status: WebErrorStatus::SERVER_UNREACHABLE,
        code: None,
        message: "no route".into(),
    }
}

#[test]
fn a_download_is_published_whole_and_nothing_else_is_left() {
    for len in [0, 1, 5_000, MIB, MIB + 1, 9 * MIB] {
        let lab = Lab::new();
        let bytes = content(len, 0);
        lab.server.put(URL, Resource::new(bytes.clone(), "a"));
        let engine = lab.open();
        let id = lab.add(&engine);
        lab.finish(&engine);
        expect_completed(&engine.view(id).unwrap(), &lab.destination(), &bytes);
        assert_eq!(lab.files(), ["file"]);
    }
}

#[test]
fn a_cut_download_goes_on_at_the_byte_it_was_cut_at() {
    let lab = Lab::new();
    let bytes = content(4 * MIB, 0);
    lab.server.put(URL, Resource::new(bytes.clone(), "a"));
    lab.server.script(URL, Act::CutAt(3_000_000));
    lab.server.script(URL, Act::CutAt(3_500_000));
    let engine = lab.open();
    let id = lab.add(&engine);
    while engine.step() {}
    let view = engine.view(id).unwrap();
    assert_eq!(
        (view.status, view.reason),
        (TransferStatus::Waiting, Some(Reason::BackOff))
    );
    assert!(view.next_attempt_at_ms.is_some() && view.error.is_some());
    lab.finish(&engine);
    assert_eq!(lab.asked(), [0, 3_000_000, 3_500_000]);
    let view = engine.view(id).unwrap();
    expect_completed(&view, &lab.destination(), &bytes);
    assert_eq!((view.restarts, view.bytes_wasted, view.attempts), (0, 0, 3));
}

#[test]
fn a_changed_resource_is_fetched_from_zero_and_counted() {
    let lab = Lab::new();
    let (old, new) = (content(3 * MIB, 0), content(3 * MIB, 1));
    lab.server.put(URL, Resource::new(old, "old"));
    lab.server.script(URL, Act::CutAt(2_000_000));
    lab.server.script(URL, Act::Replace(Resource::new(new.clone(), "new")));
    let engine = lab.open();
    let id = lab.add(&engine);
    lab.finish(&engine);
    let view = engine.view(id).unwrap();
    expect_completed(&view, &lab.destination(), &new);
    assert_eq!((view.restarts, view.bytes_wasted), (1, 2_000_000));
    assert_eq!(lab.files(), ["file"]);
}

#[test]
fn bytes_that_were_damaged_on_disk_are_fetched_again_not_published() {
    let lab = Lab::new();
    let bytes = content(3 * MIB, 0);
    lab.server.put(URL, Resource::new(bytes.clone(), "a"));
    lab.server.script(URL, Act::CutAt(2_000_000));
    let engine = lab.open();
    let id = lab.add(&engine);
    while engine.step() {}
    let part = lab.data.join(&lab.files()[0]);
    let mut damaged = std::fs::read(&part).unwrap();
    damaged[1_000_000] ^= 1;
    std::fs::write(&part, damaged).unwrap();
    lab.finish(&engine);
    let view = engine.view(id).unwrap();
    expect_completed(&view, &lab.destination(), &bytes);
    assert_eq!((view.restarts, view.bytes_wasted), (1, 2_000_000));
}

#[test]
fn a_kill_at_any_call_to_the_disk_loses_no_accepted_download_and_leaves_no_debris() {
    let bytes = content(150_000, 0);
    let mut calls = 0;
    let mut finished = false;
    while !finished {
        calls += 1;
        let lab = Lab::small();
        lab.server.put(URL, Resource::new(bytes.clone(), "a"));
        lab.server.script(URL, Act::CutAt(140_000));
        let disk = CrashingDisk::after(calls);
        let environment = lab.outside.on(Arc::new(disk.clone()));
        let accepted = lab.open_on(environment).ok().and_then(|engine| {
            let id = engine.create(&[lab.download()]).ok()?[0];
            for _ in 0..20 {
                while engine.step() {}
                lab.outside.advance(Duration::from_secs(30));
            }
            Some(id)
        });
        finished = !disk.has_crashed();
        let engine = lab.open();
        lab.finish(&engine);
        let Some(id) = accepted else { continue };
        let view = engine.view(id).unwrap_or_else(|error| panic!("call {calls}: {error}"));
        expect_completed(&view, &lab.destination(), &bytes);
        assert_eq!(lab.files(), ["file"], "call {calls}");
        assert_eq!(view.restarts, 0, "call {calls}");
    }
    assert!(calls > 60, "the crash points were reached: {calls}");
}

#[test]
fn a_kill_at_any_call_to_the_disk_while_canceling_ends_in_a_cancel_or_a_whole_file() {
    let bytes = content(80_000, 0);
    let mut calls = 0;
    let mut finished = false;
    while !finished {
        calls += 1;
        let lab = Lab::small();
        lab.server.put(URL, Resource::new(bytes.clone(), "a"));
        lab.server.script(URL, Act::CutAt(70_000));
        let id = {
            let engine = lab.open();
            let id = lab.add(&engine);
            while engine.step() {}
            id
        };
        let disk = CrashingDisk::after(calls);
        let canceled = lab
            .open_on(lab.outside.on(Arc::new(disk.clone())))
            .is_ok_and(|engine| engine.cancel(id).is_ok());
        finished = !disk.has_crashed();
        let engine = lab.open();
        lab.finish(&engine);
        let status = engine.view(id).unwrap().status;
        match status {
            TransferStatus::Canceled => assert!(lab.files().is_empty(), "call {calls}: {:?}", lab.files()),
            TransferStatus::Completed => assert!(!canceled && lab.files() == ["file"], "call {calls}"),
            other => panic!("call {calls}: {other}"),
        }
    }
}

#[test]
fn being_offline_costs_no_attempt_and_no_record() {
    let lab = Lab::new();
    lab.server.put(URL, Resource::new(content(10, 0), "a"));
    lab.server.script(URL, Act::Fail(unreachable_failure()));
    lab.outside.set_online(false);
    let engine = lab.open();
    let id = lab.add(&engine);
    lab.pass(&engine, 19);
    let view = engine.view(id).unwrap();
    assert_eq!(
        (view.status, view.reason),
        (TransferStatus::PausedNoNetwork, Some(Reason::NoNetwork))
    );
    assert_eq!(view.attempts, 1, "looking at the network is no attempt");
    lab.outside.set_online(true);
    lab.finish(&engine);
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Completed);
}

#[test]
fn a_network_that_the_device_cannot_see_is_tried_now_and_then() {
    let lab = Lab::new();
    lab.server.put(URL, Resource::new(content(10, 0), "a"));
    lab.server.script(URL, Act::Fail(unreachable_failure()));
    lab.outside.set_online(false);
    let engine = lab.open();
    let id = lab.add(&engine);
    lab.pass(&engine, 25);
    let view = engine.view(id).unwrap();
    assert_eq!((view.status, view.attempts), (TransferStatus::Completed, 2));
}

#[test]
fn a_server_that_always_cuts_at_the_same_byte_and_cannot_continue_is_given_up() {
    let lab = Lab::new();
    let resource = Resource {
        validators: Validators::default(),
        resumable: false,
        ..Resource::new(content(2 * MIB, 0), "a")
    };
    lab.server.put(URL, resource);
    for _ in 0..100 {
        lab.server.script(URL, Act::CutAt(1_500_000));
    }
    let engine = lab.open();
    let id = lab.add(&engine);
    lab.pass(&engine, 1_000);
    let view = engine.view(id).unwrap();
    assert_eq!(
        (view.status, view.attempts),
        (TransferStatus::Error, 20),
        "only the first one made progress"
    );
    assert!(lab.files().is_empty());
}

#[test]
fn a_web_page_in_place_of_the_expected_content_is_waited_out() {
    let lab = Lab::new();
    let bytes = content(5_000, 0);
    let page = Resource {
        content_type: Some("text/html; charset=utf-8".into()),
        ..Resource::new(*b"<html>login</html>", "p")
    };
    lab.server.put(URL, page);
    let engine = lab.open();
    let digest: [u8; 32] = ring::digest::digest(&ring::digest::SHA256, &bytes)
        .as_ref()
        .try_into()
        .unwrap();
    let id = engine
        .create(&[NewDownload {
            sha256: Some(digest),
            ..lab.download()
        }])
        .unwrap()[0];
    while engine.step() {}
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Waiting);
    lab.server.put(URL, Resource::new(bytes.clone(), "a"));
    lab.finish(&engine);
    expect_completed(&engine.view(id).unwrap(), &lab.destination(), &bytes);
    assert_eq!(lab.files(), ["file"]);
}

#[test]
fn a_kill_while_a_list_is_accepted_leaves_all_of_it_or_nothing() {
    let mut calls = 0;
    let mut finished = false;
    let (mut none, mut all) = (0, 0);
    while !finished {
        calls += 1;
        let lab = Lab::new();
        // More than the journal takes in one write.
        let list: Vec<NewDownload> = (0..100)
            .map(|number| NewDownload {
                url: format!("{URL}{number}{}", "x".repeat(4_000)),
                destination: lab.data.join(number.to_string()),
                ..lab.download()
            })
            .collect();
        let disk = CrashingDisk::after(calls);
        let accepted = lab
            .open_on(lab.outside.on(Arc::new(disk.clone())))
            .is_ok_and(|engine| engine.create(&list).is_ok());
        finished = !disk.has_crashed();
        let found = lab.open().views().len();
        assert!(found == 0 || found == 100, "call {calls}: {found}");
        assert!(found == 100 || !accepted, "call {calls}");
        none += usize::from(found == 0);
        all += usize::from(found == 100);
    }
    assert!(none > 3 && all > 0, "{none} and {all}");
}

#[test]
fn what_is_not_there_ends_at_once_and_leaves_nothing() {
    let lab = Lab::new();
    let engine = lab.open();
    let id = lab.add(&engine);
    while engine.step() {}
    let view = engine.view(id).unwrap();
    assert_eq!(
        (view.status, view.error.unwrap().status),
        (TransferStatus::Error, WebErrorStatus::NOT_FOUND)
    );
    assert!(lab.files().is_empty());
}

#[test]
fn a_wrong_digest_or_size_is_never_published() {
    for wrong_digest in [true, false] {
        let lab = Lab::new();
        lab.server.put(
            URL,
            Resource {
                validators: Validators::default(),
                ..Resource::new(content(5_000, 0), "a")
            },
        );
        let engine = lab.open();
        let mut download = lab.download();
        download.sha256 = wrong_digest.then_some([1; 32]);
        download.expected_bytes = (!wrong_digest).then_some(4_999);
        let id = engine.create(&[download]).unwrap()[0];
        lab.finish(&engine);
        assert_eq!(engine.view(id).unwrap().status, TransferStatus::Error);
        assert!(lab.files().is_empty(), "{:?}", lab.files());
    }
}

#[test]
fn a_destination_that_appears_meanwhile_is_treated_by_the_collision_rule() {
    for (collision, status, files) in [
        (Collision::Fail, TransferStatus::Error, vec!["file"]),
        (Collision::Replace, TransferStatus::Completed, vec!["file"]),
        (Collision::Unique, TransferStatus::Completed, vec!["file", "file (2)"]),
    ] {
        let lab = Lab::new();
        let bytes = content(5_000, 0);
        lab.server.put(URL, Resource::new(bytes.clone(), "a"));
        let engine = lab.open();
        let id = engine
            .create(&[NewDownload {
                collision,
                ..lab.download()
            }])
            .unwrap()[0];
        std::fs::write(lab.destination(), "theirs").unwrap();
        lab.finish(&engine);
        let view = engine.view(id).unwrap();
        assert_eq!(view.status, status, "{collision:?}");
        assert_eq!(lab.files(), files, "{collision:?}");
        let kept = std::fs::read(lab.destination()).unwrap() == b"theirs";
        assert_eq!(kept, collision != Collision::Replace);
        if status == TransferStatus::Completed {
            assert!(std::fs::read(&view.destination).unwrap() == bytes);
        }
    }
}

#[test]
fn one_destination_and_one_url_have_one_live_operation() {
    let lab = Lab::new();
    let engine = lab.open();
    let id = lab.add(&engine);
    let refused = |download: NewDownload| match engine.create(&[download]) {
        Err((0, Error::Conflict { field, id: other, .. })) => {
            assert_eq!(other, id);
            field
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(NewDownload {
            url: "mem://host/other".into(),
            ..lab.download()
        }),
        "destination"
    );
    assert_eq!(
        refused(NewDownload {
            destination: lab.data.join("other"),
            ..lab.download()
        }),
        "url"
    );
    let other_app = NewDownload {
        app: "other".into(),
        destination: lab.data.join("other"),
        ..lab.download()
    };
    assert!(engine.create(&[other_app]).is_ok());
}

#[test]
fn where_one_of_many_is_refused_none_is_created() {
    let lab = Lab::new();
    let engine = lab.open();
    let bad = NewDownload {
        url: "gopher://host/x".into(),
        destination: lab.data.join("x"),
        ..lab.download()
    };
    let result = engine.create(&[lab.download(), bad]);
    assert!(
        matches!(result, Err((1, Error::Invalid { ref field, .. })) if field == "url"),
        "{result:?}"
    );
    assert!(engine.views().is_empty());
}

#[test]
fn secrets_reach_the_server_and_stand_nowhere_in_clear_text() {
    let lab = Lab::new();
    lab.server
        .put("mem://host/file?sig=topsecret", Resource::new(content(10, 0), "a"));
    let engine = lab.open();
    let download = NewDownload {
        url: "mem://ann:pass%77ord@host/file?sig=topsecret".into(),
        headers: vec!["Authorization: Bearer hidden".into()],
        secret_headers: vec!["X-Key: covert".into()],
        ..lab.download()
    };
    let id = engine.create(&[download]).unwrap()[0];
    assert_eq!(engine.view(id).unwrap().url, "mem://host/file?sig=***");
    drop(engine);
    let engine = lab.open();
    lab.finish(&engine);
    assert_eq!(
        engine.view(id).unwrap().status,
        TransferStatus::Completed,
        "the sealed URL was asked for"
    );
    for directory in ["journal", "vault"] {
        for entry in std::fs::read_dir(lab.state.join(directory)).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            for secret in ["topsecret", "password", "hidden", "covert"] {
                assert!(
                    !bytes.windows(secret.len()).any(|window| window == secret.as_bytes()),
                    "{secret}"
                );
            }
        }
    }
    engine.acknowledge(&[id]).unwrap();
    engine.remove(id).unwrap();
    let sealed = std::fs::read_dir(lab.state.join("vault")).unwrap();
    let left: Vec<_> = sealed
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "key")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn pause_cancel_and_stop_end_a_transfer_that_hangs() {
    for what in ["pause", "cancel", "stop"] {
        let lab = Lab::new();
        let bytes = content(3 * MIB, 0);
        lab.server.put(URL, Resource::new(bytes.clone(), "a"));
        lab.server.script(URL, Act::HangAt(2_000_000));
        let engine = Arc::new(
            Engine::open(
                &lab.state,
                Config::default(),
                Environment::system(),
                vec![Arc::clone(&lab.server) as _],
            )
            .unwrap(),
        );
        let id = lab.add(&engine);
        let mut acted = false;
        let until = if what == "stop" { Until::Stopped } else { Until::Idle };
        let acting = Arc::clone(&engine);
        engine
            .run(until, Some(Duration::from_millis(5)), |engine| {
                if !acted && engine.view(id).unwrap().bytes_done == 2_000_000 {
                    acted = true;
                    match what {
                        "pause" => acting.pause(id).unwrap(),
                        "cancel" => acting.cancel(id).unwrap(),
                        _ => acting.stop(),
                    }
                }
            })
            .unwrap();
        let view = engine.view(id).unwrap();
        let status = match what {
            "pause" => TransferStatus::PausedByApplication,
            "cancel" => TransferStatus::Canceled,
            _ => TransferStatus::Queued,
        };
        assert_eq!(view.status, status, "{what}");
        assert_eq!(lab.files().is_empty(), what == "cancel", "{what}: {:?}", lab.files());
        if what == "pause" {
            engine.resume(id).unwrap();
        }
        engine.run(Until::Idle, None, |_| ()).unwrap();
        if what != "cancel" {
            expect_completed(&engine.view(id).unwrap(), &lab.destination(), &bytes);
            assert_eq!(lab.asked(), [0, 2_000_000], "{what}: what was received is claimed");
        }
    }
}

#[test]
fn one_host_gets_no_more_than_its_slots_and_whoever_waits_for_one_says_so() {
    let mut lab = Lab::new();
    lab.config.jobs_per_host_max = NonZeroUsize::new(1);
    let urls = ["mem://host/hangs", "mem://host/waits", "mem://other/goes-on"];
    let engine = Arc::new(lab.open_on(Environment::system()).unwrap());
    let downloads: Vec<NewDownload> = (0..)
        .zip(urls)
        .map(|(number, url)| {
            lab.server.put(url, Resource::new(content(3 * MIB, number), "a"));
            NewDownload {
                url: url.into(),
                destination: lab.data.join(number.to_string()),
                ..lab.download()
            }
        })
        .collect();
    lab.server.script(urls[0], Act::HangAt(2_000_000));
    let ids = engine.create(&downloads).unwrap();
    let mut reason = None;
    let acting = Arc::clone(&engine);
    engine
        .run(Until::Idle, Some(Duration::from_millis(5)), |engine| {
            let [hanging, waiting, other] = [0, 1, 2].map(|index| engine.view(ids[index]).unwrap());
            if reason.is_none() && hanging.bytes_done == 2_000_000 && other.status == TransferStatus::Completed {
                reason = waiting.reason;
                acting.cancel(hanging.id).unwrap();
            }
        })
        .unwrap();
    assert_eq!(reason, Some(Reason::WaitingForHostSlot));
    let ends = [0, 1, 2].map(|index| engine.view(ids[index]).unwrap().status);
    let done = TransferStatus::Completed;
    assert_eq!(ends, [TransferStatus::Canceled, done, done]);
}

#[test]
fn a_hold_waits_for_its_start_and_ends_are_kept_until_acknowledged() {
    let lab = Lab::new();
    lab.server.put(URL, Resource::new(content(10, 0), "a"));
    let engine = lab.open();
    let id = engine
        .create(&[NewDownload {
            hold: true,
            ..lab.download()
        }])
        .unwrap()[0];
    lab.finish(&engine);
    assert_eq!(engine.view(id).unwrap().reason, Some(Reason::NotStarted));
    assert!(matches!(engine.remove(id), Err(Error::NotNow { .. })));
    engine.start(id).unwrap();
    assert!(matches!(engine.start(id), Err(Error::NotNow { .. })));
    lab.finish(&engine);
    engine.close().unwrap();
    let engine = lab.open();
    let view = engine.view(id).unwrap();
    assert_eq!((view.status, view.acknowledged), (TransferStatus::Completed, false));
    engine.acknowledge(&[id]).unwrap();
    lab.outside.advance(Duration::from_secs(8 * 24 * 3600));
    drop(engine);
    assert!(
        matches!(lab.open().view(id), Err(Error::UnknownId(_))),
        "the history lets go of it after 7 days"
    );
}

#[test]
fn a_second_engine_on_one_state_directory_is_refused() {
    let lab = Lab::new();
    let engine = lab.open();
    match lab.open_on(lab.outside.on(Arc::new(Disk))).map(|_| ()) {
        Err(Error::Locked {
            holder: Some(holder), ..
        }) => {
            assert!(holder.contains(&std::process::id().to_string()), "{holder}");
        }
        other => panic!("{other:?}"),
    }
    engine.close().unwrap();
    assert!(lab.open_on(lab.outside.on(Arc::new(Disk))).is_ok());
}

#[test]
fn an_engine_whose_state_directory_was_moved_accepts_nothing_that_nobody_would_find() {
    let lab = Lab::new();
    let engine = lab.open();
    let elsewhere = lab.state.with_extension("moved");
    std::fs::rename(&lab.state, &elsewhere).unwrap();
    let refused = engine.create(&[lab.download()]);
    assert!(
        matches!(&refused, Err((0, Error::Io(_, path, _))) if *path == lab.state),
        "{refused:?}"
    );
    std::fs::create_dir(&lab.state).unwrap();
    assert!(engine.create(&[lab.download()]).is_err(), "another one stands there");
    std::fs::remove_dir(&lab.state).unwrap();
    std::fs::rename(&elsewhere, &lab.state).unwrap();
    assert!(engine.create(&[lab.download()]).is_ok(), "it is back");
}

#[test]
fn short_commands_do_not_let_the_journal_grow_without_end() {
    let mut lab = Lab::new();
    lab.config.is_short_lived = true;
    let id = {
        let engine = lab.open();
        let id = lab.add(&engine);
        engine.close().unwrap();
        id
    };
    // Each command makes a segment; a snapshot is taken beyond 512 of them, and two generations are kept.
    for _ in 0..550 {
        for act in [Engine::pause, Engine::resume] {
            let engine = lab.open();
            act(&engine, id).unwrap();
            engine.close().unwrap();
        }
    }
    let files = std::fs::read_dir(lab.state.join("journal")).unwrap().count();
    assert!(files < 700, "{files} files after 1,101 commands");
}

/// The first crash that leaves a file published in a directory of its own and its end not recorded.
fn published_without_an_end(lab: &Lab, directory: &Path) -> TransferId {
    let bytes = content(20_000, 0);
    lab.server.put(URL, Resource::new(bytes, "a"));
    let mut calls = 0;
    loop {
        calls += 1;
        let _ = std::fs::remove_dir_all(&lab.state);
        let _ = std::fs::remove_dir_all(directory);
        std::fs::create_dir(directory).unwrap();
        let disk = CrashingDisk::after(calls);
        let id = lab
            .open_on(lab.outside.on(Arc::new(disk.clone())))
            .ok()
            .and_then(|engine| {
                let download = NewDownload {
                    destination: directory.join("file"),
                    ..lab.download()
                };
                let id = engine.create(&[download]).ok()?[0];
                while engine.step() {}
                Some(id)
            });
        assert!(disk.has_crashed(), "no crash left a published file");
        let is_open = id.is_some_and(|id| lab.open().view(id).is_ok_and(|view| !view.status.is_ended()));
        if let (Some(id), true) = (id, is_open && directory.join("file").exists()) {
            return id;
        }
    }
}

#[test]
fn a_publication_whose_directory_is_gone_is_finished_once_it_is_back() {
    let lab = Lab::small();
    let (gone, elsewhere) = (lab.data.join("gone"), lab.data.join("elsewhere"));
    let id = published_without_an_end(&lab, &gone);
    std::fs::rename(&gone, &elsewhere).unwrap();
    let engine = lab.open();
    while engine.step() {}
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Running);
    // Another one in its place says nothing of the file.
    std::fs::create_dir(&gone).unwrap();
    lab.pass(&engine, 2);
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Running);
    std::fs::remove_dir(&gone).unwrap();
    std::fs::rename(&elsewhere, &gone).unwrap();
    lab.finish(&engine);
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Completed);
}

#[test]
fn a_publication_whose_directory_stays_away_fails_as_nobody_knows_of_its_file_and_holds_up_nobody() {
    let lab = Lab::small();
    let gone = lab.data.join("gone");
    let id = published_without_an_end(&lab, &gone);
    std::fs::remove_dir_all(&gone).unwrap();
    let engine = lab.open();
    let url = format!("{URL}-of-another");
    lab.server.put(&url, Resource::new(content(10, 0), "a"));
    let other = NewDownload { url, ..lab.download() };
    let other = engine.create(&[other]).unwrap()[0];
    while engine.step() {}
    assert_eq!(engine.view(other).unwrap().status, TransferStatus::Completed);
    lab.finish(&engine);
    let view = engine.view(id).unwrap();
    let problem = view.error.unwrap().message;
    assert!(
        view.status == TransferStatus::Error && problem.contains("/gone"),
        "{problem}"
    );
    engine.run(Until::Idle, None, |_| ()).unwrap();
}

#[test]
fn a_directory_that_leads_out_of_the_roots_by_the_time_of_writing_gets_nothing() {
    for (len, steps_before) in [(1_000, 0), (1_000, 1), (20_000, 0), (20_000, 1)] {
        let mut lab = Lab::small();
        let (inside, sub, outside) = (lab.data.join("in"), lab.data.join("in/sub"), lab.data.join("out"));
        std::fs::create_dir_all(&sub).unwrap();
        std::fs::create_dir(&outside).unwrap();
        lab.config.roots = vec![inside.canonicalize().unwrap()];
        lab.server.put(URL, Resource::new(content(len, 0), "a"));
        let engine = lab.open();
        let download = NewDownload {
            destination: sub.join("file"),
            ..lab.download()
        };
        let id = engine.create(&[download]).unwrap()[0];
        for _ in 0..steps_before {
            assert!(engine.step());
        }
        std::fs::rename(&sub, inside.join("before")).unwrap();
        std::os::unix::fs::symlink(&outside, &sub).unwrap();
        lab.finish(&engine);
        let view = engine.view(id).unwrap();
        let problem = view.error.unwrap().message;
        assert!(
            problem.contains("outside of the allowed"),
            "{len}, {steps_before}: {problem}"
        );
        assert_eq!(view.status, TransferStatus::Error);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{len}, {steps_before}");
    }
}

#[test]
fn a_part_whose_name_went_with_the_power_starts_over_beside_the_file_it_is_to_replace() {
    let lab = Lab::small();
    let bytes = content(10_000, 0);
    lab.server.put(URL, Resource::new(bytes.clone(), "a"));
    let mut calls = 0;
    // The first crash that leaves a part about to be renamed over the old file.
    let id = loop {
        calls += 1;
        let _ = std::fs::remove_dir_all(&lab.state);
        std::fs::write(lab.destination(), "old").unwrap();
        let disk = CrashingDisk::after(calls);
        let id = lab
            .open_on(lab.outside.on(Arc::new(disk.clone())))
            .ok()
            .and_then(|engine| {
                let download = NewDownload {
                    collision: Collision::Replace,
                    ..lab.download()
                };
                let id = engine.create(&[download]).ok()?[0];
                while engine.step() {}
                Some(id)
            });
        assert!(disk.has_crashed(), "no crash came between intent and rename");
        let is_published = std::fs::read(lab.destination()).unwrap() != b"old";
        let view = id.and_then(|id| lab.open().view(id).ok());
        if let Some(view) = view.filter(|view| view.reason == Some(Reason::Verifying) && !is_published) {
            break view.id;
        }
        for name in lab.files() {
            std::fs::remove_file(lab.data.join(name)).unwrap();
        }
    };
    for name in lab.files().iter().filter(|name| *name != "file") {
        std::fs::remove_file(lab.data.join(name)).unwrap();
    }
    lab.outside.reboot();
    let engine = lab.open();
    lab.finish(&engine);
    let view = engine.view(id).unwrap();
    expect_completed(&view, &lab.destination(), &bytes);
    assert_eq!((view.restarts, lab.files()), (1, vec!["file".to_string()]));
}
