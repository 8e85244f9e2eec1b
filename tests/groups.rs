//! Transfer groups: the whole engine, stepped on the simulated disk.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use backhaul::{
    Config, Engine, Error, FixedEnvironment, NewDownload, Priority, Reason, TransferBehavior, TransferId,
    TransferStatus, Until,
};
use backhaul_backends::{Act, MemoryBackend, Resource};
use backhaul_journal::FileSystem;
use backhaul_journal::simulation::{Fault, SimDisk};

const APP: &str = "app";

/// A device that goes through several starts.
struct Device {
    disk: SimDisk,
    server: Arc<MemoryBackend>,
    config: Config,
    starts: u64,
}

impl Device {
    fn new() -> Self {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        disk.set_file_system(FileSystem::Other);
        let server = Arc::new(MemoryBackend::new());
        for number in 0..10 {
            server.put(&url(number), Resource::new(vec![7; 100], "a"));
        }
        Self {
            disk,
            server,
            config: Config::default(),
            starts: 0,
        }
    }

    fn start(&mut self) -> Engine {
        self.starts += 1;
        let environment = FixedEnvironment::new(self.starts << 32).on(self.disk.storage());
        let backends = vec![Arc::clone(&self.server) as _];
        Engine::open(Path::new("/state"), self.config.clone(), environment, backends).unwrap()
    }

    /// The power goes, and comes back.
    fn restart(&mut self) -> Engine {
        self.disk = self.disk.lose_unsynced();
        self.start()
    }

    /// Does something during which the process is killed at the `calls`th call of the disk; `false` where that is over
    /// before.
    fn kill_at(&mut self, calls: u64, act: impl FnOnce()) -> bool {
        let image = Arc::new(Mutex::new(None));
        let (seen, to) = (self.disk.clone(), Arc::clone(&image));
        let mut left = calls;
        self.disk.fail_with(move |_, _| {
            left = left.saturating_sub(1);
            if left == 0 {
                to.lock().unwrap().get_or_insert_with(|| seen.kill());
            }
            None::<Fault>
        });
        act();
        self.disk.fail_no_more();
        let image = image.lock().unwrap().take();
        let was_killed = image.is_some();
        self.disk = image.unwrap_or_else(|| self.disk.kill());
        was_killed
    }

    /// Which were asked for, in this order.
    fn asked(&self) -> Vec<u64> {
        let attempts = self.server.attempts();
        let number = |url: &str| url.rsplit('/').next().unwrap().parse().unwrap();
        attempts.iter().map(|attempt| number(&attempt.url)).collect()
    }
}

fn url(number: u64) -> String {
    format!("mem://host/{number}")
}

fn download(number: u64, group: &str) -> NewDownload {
    NewDownload {
        url: url(number),
        destination: format!("/data/{number}").into(),
        app: APP.into(),
        group: Some(group.into()),
        ..NewDownload::default()
    }
}

fn add(engine: &Engine, number: u64, group: &str) -> TransferId {
    engine.create(&[download(number, group)]).unwrap()[0]
}

fn finish(engine: &Engine) {
    while engine.step() {}
}

fn shown(engine: &Engine, app: Option<&str>) -> Vec<(String, String, TransferBehavior, usize)> {
    let groups = engine.groups(app).into_iter();
    groups
        .map(|group| (group.app, group.name, group.behavior, group.live_members))
        .collect()
}

#[test]
fn a_group_is_made_once_for_each_app_and_stays_as_it_was_made() {
    let mut device = Device::new();
    let engine = device.start();
    let serialized = Some(TransferBehavior::Serialized);
    engine.create_group("b", "same", None).unwrap();
    engine.create_group("a", "same", serialized).unwrap();
    let again = engine
        .create_group("a", "same", Some(TransferBehavior::Parallel))
        .unwrap();
    assert_eq!(again.behavior, TransferBehavior::Serialized, "it is there already");
    let all = [
        ("a".into(), "same".into(), TransferBehavior::Serialized, 0),
        ("b".into(), "same".into(), TransferBehavior::Parallel, 0),
    ];
    assert_eq!(shown(&engine, None), all);
    assert_eq!(shown(&engine, Some("b")), all[1..]);
    drop(engine);
    let engine = device.restart();
    assert_eq!(shown(&engine, None), all, "after a power cut");
    engine
        .set_group_behavior("a", "same", TransferBehavior::Parallel)
        .unwrap();
    engine.remove_group("b", "same").unwrap();
    drop(engine);
    let engine = device.restart();
    let left = [("a".into(), "same".into(), TransferBehavior::Parallel, 0)];
    assert_eq!(shown(&engine, None), left);
}

#[test]
fn bad_names_and_groups_that_are_not_there_are_refused_and_change_nothing() {
    let engine = Device::new().start();
    for name in ["", "a\nb", &"x".repeat(129)] {
        let refused = engine.create_group(APP, name, None).unwrap_err();
        assert!(
            matches!(&refused, Error::Invalid { field, .. } if field == "group"),
            "{refused}"
        );
        let (_, refused) = engine.create(&[download(1, name)]).unwrap_err();
        assert!(
            matches!(&refused, Error::Invalid { field, .. } if field == "group"),
            "{refused}"
        );
    }
    let refused = engine.create_group("", "name", None).unwrap_err();
    assert!(
        matches!(&refused, Error::Invalid { field, .. } if field == "app"),
        "{refused}"
    );
    engine.create_group(APP, &"x".repeat(128), None).unwrap();
    let refused = engine.remove_group(APP, "none").unwrap_err();
    assert!(matches!(&refused, Error::UnknownGroup { name, .. } if name == "none"));
    let refused = engine.set_group_behavior("other", &"x".repeat(128), TransferBehavior::Serialized);
    assert!(matches!(refused, Err(Error::UnknownGroup { .. })));
    assert_eq!(engine.groups(None).len(), 1);
    assert!(engine.views().is_empty());
}

#[test]
fn an_app_has_a_thousand_groups_and_the_next_one_is_refused_with_all_that_would_join_it() {
    let engine = Device::new().start();
    for number in 0..999 {
        engine.create_group(APP, &number.to_string(), None).unwrap();
    }
    let refused = engine.create(&[download(1, "x"), download(2, "x"), download(3, "y")]);
    assert!(
        matches!(refused, Err((2, Error::LimitReached { max: 1_000, .. }))),
        "{refused:?}"
    );
    engine
        .create(&[download(1, "x"), download(2, "x"), download(3, "7")])
        .unwrap();
    let refused = engine.create_group(APP, "y", None);
    assert!(matches!(refused, Err(Error::LimitReached { max: 1_000, .. })));
    engine.create_group("other", "y", None).unwrap();
    engine.create_group(APP, "x", None).unwrap();
}

#[test]
fn a_group_that_a_download_names_is_there_with_it_whenever_the_process_is_killed() {
    let mut outcomes = Vec::new();
    for calls in 1.. {
        let mut device = Device::new();
        let engine = device.start();
        let was_killed = device.kill_at(calls, || {
            add(&engine, 1, "new");
        });
        let engine = device.start();
        let outcome = (engine.views().len(), shown(&engine, None));
        let both = (1, vec![(APP.into(), "new".into(), TransferBehavior::Parallel, 1)]);
        assert!(outcome == (0, Vec::new()) || outcome == both, "{calls}: {outcome:?}");
        outcomes.push(outcome.0);
        if !was_killed {
            break;
        }
    }
    assert_eq!(
        (outcomes.first(), outcomes.last()),
        (Some(&0), Some(&1)),
        "{outcomes:?}"
    );
}

#[test]
fn a_group_with_live_operations_is_not_removed_and_those_that_ended_keep_its_name() {
    let mut device = Device::new();
    let engine = device.start();
    let ids = engine.create(&[download(1, "group"), download(2, "group")]).unwrap();
    engine.cancel(ids[0]).unwrap();
    let refused = engine.remove_group(APP, "group").unwrap_err();
    assert!(
        matches!(&refused, Error::GroupInUse { live_members: 1, .. }),
        "{refused}"
    );
    finish(&engine);
    engine.remove_group(APP, "group").unwrap();
    assert!(engine.groups(None).is_empty());
    assert_eq!(engine.view(ids[1]).unwrap().group.as_deref(), Some("group"));
    drop(engine);
    let engine = device.restart();
    assert!(engine.groups(None).is_empty(), "ended operations bring no group back");
    assert_eq!(engine.view(ids[0]).unwrap().group.as_deref(), Some("group"));
    add(&engine, 3, "group");
    assert_eq!(engine.groups(None)[0].behavior, TransferBehavior::Parallel);
}

#[test]
fn a_serialized_group_runs_one_after_the_other_also_after_a_restart_and_a_snapshot() {
    let mut device = Device::new();
    // Every look finds the journal too long.
    device.config.checkpoint_bytes = 1;
    let engine = device.start();
    engine
        .create_group(APP, "group", Some(TransferBehavior::Serialized))
        .unwrap();
    let ids: Vec<TransferId> = (0..4).map(|number| add(&engine, number, "group")).collect();
    engine.pause(ids[0]).unwrap();
    assert!(engine.step(), "the attempt of the second one");
    let reasons = || ids.iter().map(|id| engine.view(*id).unwrap().reason);
    let behind = Some(Reason::SerializedGroup);
    let paused = Some(Reason::PausedByApplication);
    // Its file has no name yet.
    assert_eq!(reasons().collect::<Vec<_>>(), [paused, None, behind, behind]);
    drop(engine);
    for round in 0..3 {
        device.disk = device.disk.kill();
        let engine = device.start();
        let group = &engine.groups(None)[0];
        assert_eq!(
            (group.behavior, group.live_members),
            (TransferBehavior::Serialized, 4),
            "{round}"
        );
        let waiting = engine.views().into_iter().filter(|view| view.reason == behind);
        assert_eq!(waiting.count(), 2, "{round}");
        engine.close().unwrap();
    }
    let engine = device.start();
    engine.resume(ids[0]).unwrap();
    finish(&engine);
    assert_eq!(device.asked(), [1, 0, 1, 2, 3]);
}

#[test]
fn while_one_of_a_serialized_group_runs_no_other_does_however_many_threads_there_are() {
    let mut device = Device::new();
    device.config.jobs_max = 4;
    let engine = device.start();
    engine
        .create_group(APP, "group", Some(TransferBehavior::Serialized))
        .unwrap();
    device.server.script(&url(0), Act::HangAt(10));
    let ids: Vec<TransferId> = (0..5).map(|number| add(&engine, number, "group")).collect();
    // It comes after all of the group: whoever lets two of them run has done so before.
    let alone = NewDownload {
        group: None,
        ..download(9, "")
    };
    let alone = engine.create(&[alone]).unwrap()[0];
    let tick = std::time::Duration::from_millis(1);
    let mut is_paused = false;
    engine
        .run(Until::Idle, Some(tick), |engine| {
            if !is_paused && engine.view(alone).unwrap().status == TransferStatus::Completed {
                let mut asked = device.asked();
                asked.sort_unstable();
                assert_eq!(asked, [0, 9]);
                engine.pause(ids[0]).unwrap();
                is_paused = true;
            }
        })
        .unwrap();
    assert!(is_paused);
    let asked: Vec<u64> = device.asked().into_iter().filter(|number| *number != 9).collect();
    assert_eq!(asked, [0, 1, 2, 3, 4]);
}

#[test]
fn one_that_fails_lets_the_next_one_of_its_serialized_group_go_while_it_waits() {
    let mut device = Device::new();
    let engine = device.start();
    engine
        .create_group(APP, "group", Some(TransferBehavior::Serialized))
        .unwrap();
    device.server.script(&url(0), Act::CutAt(10));
    let first = add(&engine, 0, "group");
    add(&engine, 1, "group");
    finish(&engine);
    assert_eq!(device.asked(), [0, 1]);
    assert_eq!(engine.view(first).unwrap().reason, Some(Reason::BackOff));
}

/// The numbers of a group in the order in which they are asked for.
fn order(device: &Device, engine: &Engine) -> Vec<u64> {
    let before = device.asked().len();
    finish(engine);
    device.asked()[before..].to_vec()
}

#[test]
fn what_is_made_current_is_the_next_with_all_behind_it_after_a_power_cut_too() {
    let mut device = Device::new();
    let engine = device.start();
    engine
        .create_group(APP, "group", Some(TransferBehavior::Serialized))
        .unwrap();
    let ids: Vec<TransferId> = (0..5).map(|number| add(&engine, number, "group")).collect();
    engine.make_current(ids[3]).unwrap();
    drop(engine);
    let engine = device.restart();
    assert_eq!(order(&device, &engine), [3, 4, 0, 1, 2]);
    let refused = engine.make_current(ids[3]).unwrap_err();
    assert!(matches!(refused, Error::NotNow { .. }), "{refused}");
    let alone = NewDownload {
        group: None,
        priority: Priority::Low,
        ..download(6, "")
    };
    let alone = engine.create(&[alone]).unwrap()[0];
    engine.make_current(alone).unwrap();
}

#[test]
fn a_kill_while_something_is_made_current_leaves_the_order_begun_at_some_place() {
    for calls in 1.. {
        let mut device = Device::new();
        let engine = device.start();
        engine
            .create_group(APP, "group", Some(TransferBehavior::Serialized))
            .unwrap();
        let ids: Vec<TransferId> = (0..5).map(|number| add(&engine, number, "group")).collect();
        let was_killed = device.kill_at(calls, || engine.make_current(ids[2]).unwrap());
        let engine = device.start();
        let order = order(&device, &engine);
        let rotations = [[0, 1, 2, 3, 4], [4, 0, 1, 2, 3], [3, 4, 0, 1, 2], [2, 3, 4, 0, 1]];
        assert!(
            rotations.iter().any(|rotation| order == *rotation),
            "{calls}: {order:?}"
        );
        if !was_killed {
            assert_eq!(order, [2, 3, 4, 0, 1]);
            break;
        }
    }
}
