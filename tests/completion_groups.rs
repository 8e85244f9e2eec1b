//! Completion groups: the whole engine, stepped on the simulated disk, and once on a real one.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backhaul::{
    CompletionAction, CompletionGroupId, CompletionGroupView, CompletionState, Config, Engine, Environment, Error,
    FixedEnvironment, NewDownload, OperationView, TransferId, TransferStatus, Until,
};
use backhaul_backends::{MemoryBackend, Resource};
use backhaul_journal::FileSystem;
use backhaul_journal::simulation::{Call, Fault, SimDisk};

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

    fn start(&mut self) -> (Engine, Arc<FixedEnvironment>) {
        self.starts += 1;
        let outside = FixedEnvironment::new(self.starts << 32);
        let environment = outside.on(self.disk.storage());
        let backends = vec![Arc::clone(&self.server) as _];
        let engine = Engine::open(Path::new("/state"), self.config.clone(), environment, backends).unwrap();
        engine.report_by(report);
        (engine, outside)
    }

    /// The power goes, and comes back.
    fn restart(&mut self) -> (Engine, Arc<FixedEnvironment>) {
        self.disk = self.disk.lose_unsynced();
        self.start()
    }

    /// Steps the engine until its command has run; the process is killed before anything of that reaches the disk.
    fn run_and_kill(&mut self, engine: &Engine, outside: &Arc<FixedEnvironment>) {
        let image = Arc::new(Mutex::new(None));
        let (seen, to, outside) = (self.disk.clone(), Arc::clone(&image), Arc::clone(outside));
        self.disk.fail_with(move |_, _| {
            if !outside.commands().is_empty() {
                to.lock().unwrap().get_or_insert_with(|| seen.kill());
            }
            None::<Fault>
        });
        finish(engine);
        self.disk.fail_no_more();
        let image = image.lock().unwrap().take();
        self.disk = image.expect("a command ran");
    }
}

/// What the tests want to know of a report.
fn report(
    group: &CompletionGroupView,
    operations: &mut dyn Iterator<Item = OperationView>,
    to: &mut dyn Write,
) -> io::Result<()> {
    write!(to, "{} {:?}:", group.id, group.name)?;
    for operation in operations {
        write!(to, " {}={}", operation.url, operation.status)?;
    }
    Ok(())
}

fn url(number: u64) -> String {
    format!("mem://host/{number}")
}

fn download(number: u64, group: CompletionGroupId) -> NewDownload {
    NewDownload {
        url: url(number),
        destination: format!("/data/{number}").into(),
        app: APP.into(),
        completion_group: Some(group),
        ..NewDownload::default()
    }
}

fn add(engine: &Engine, number: u64, group: CompletionGroupId) -> TransferId {
    engine.create(&[download(number, group)]).unwrap()[0]
}

fn command() -> CompletionAction {
    CompletionAction::Command(vec!["/bin/notify".into(), "done".into()])
}

fn finish(engine: &Engine) {
    while engine.step() {}
}

fn view(engine: &Engine, id: CompletionGroupId) -> CompletionGroupView {
    let mut all = engine.completion_groups(Some(APP)).into_iter();
    all.find(|group| group.id == id).unwrap()
}

fn state(engine: &Engine, id: CompletionGroupId) -> CompletionState {
    view(engine, id).state
}

#[test]
fn a_group_fires_once_all_have_ended_whatever_how_and_not_before_it_is_enabled() {
    let mut device = Device::new();
    let (engine, outside) = device.start();
    let id = engine
        .create_completion_group(APP, Some("name".into()), command())
        .unwrap();
    let done = add(&engine, 1, id);
    // Nothing is served there.
    let failed = add(&engine, 77, id);
    let canceled = add(&engine, 2, id);
    let removed = add(&engine, 3, id);
    finish(&engine);
    engine.remove(removed).unwrap();
    let held = engine.create(&[NewDownload {
        hold: true,
        ..download(4, id)
    }]);
    let held = held.unwrap()[0];
    assert_eq!(state(&engine, id), CompletionState::Open);
    engine.enable_completion_group(id).unwrap();
    finish(&engine);
    assert_eq!(state(&engine, id), CompletionState::Sealed { remaining: 1 });
    assert!(outside.commands().is_empty());
    engine.cancel(held).unwrap();
    assert_eq!(state(&engine, id), CompletionState::Fired);
    finish(&engine);
    assert_eq!(state(&engine, id), CompletionState::Done);
    let text = format!(
        "{id} Some(\"name\"): mem://host/1=Completed mem://host/77=Error mem://host/2=Completed mem://host/4=Canceled"
    );
    let parts = vec!["/bin/notify".to_owned(), "done".to_owned()];
    assert_eq!(outside.commands(), [(parts, text.into_bytes())]);
    let shown = view(&engine, id);
    assert_eq!(shown.members, [done, failed, canceled, held]);
    assert_eq!((shown.runs, shown.problem), (1, None));
    assert!(shown.sealed_at_ms <= shown.fired_at_ms && shown.fired_at_ms <= shown.closed_at_ms);
}

#[test]
fn an_empty_group_fires_as_soon_as_it_is_enabled_and_is_enabled_once() {
    let (engine, _) = Device::new().start();
    let id = engine
        .create_completion_group(APP, None, CompletionAction::Event)
        .unwrap();
    engine.enable_completion_group(id).unwrap();
    assert_eq!(state(&engine, id), CompletionState::Fired);
    let refused = engine.enable_completion_group(id).unwrap_err();
    assert!(matches!(refused, Error::CompletionGroupNotNow { .. }), "{refused}");
    let (index, refused) = engine.create(&[download(1, id)]).unwrap_err();
    assert!(
        matches!(refused, Error::CompletionGroupNotNow { .. }),
        "{index}: {refused}"
    );
    assert!(engine.views().is_empty());
}

#[test]
fn an_event_stays_until_it_is_acknowledged_and_then_its_group_may_go() {
    let mut device = Device::new();
    let (engine, _) = device.start();
    let id = engine
        .create_completion_group(APP, None, CompletionAction::Event)
        .unwrap();
    add(&engine, 1, id);
    let too_early = engine.acknowledge_completion_group(id).unwrap_err();
    assert!(matches!(too_early, Error::CompletionGroupNotNow { .. }), "{too_early}");
    engine.remove_completion_group(id).unwrap_err();
    engine.enable_completion_group(id).unwrap();
    engine.remove_completion_group(id).unwrap_err();
    finish(&engine);
    drop(engine);
    let (engine, _) = device.restart();
    assert_eq!(state(&engine, id), CompletionState::Fired);
    engine.remove_completion_group(id).unwrap_err();
    engine.acknowledge_completion_group(id).unwrap();
    drop(engine);
    let (engine, _) = device.restart();
    assert_eq!(state(&engine, id), CompletionState::Done);
    engine.acknowledge_completion_group(id).unwrap_err();
    engine.remove_completion_group(id).unwrap();
    drop(engine);
    let (engine, _) = device.restart();
    assert!(engine.completion_groups(None).is_empty());
    assert_eq!(engine.views().len(), 1, "its operations stay");
    let unknown = engine.remove_completion_group(id).unwrap_err();
    assert!(matches!(unknown, Error::UnknownCompletionGroup(other) if other == id));
}

#[test]
fn bad_commands_other_apps_and_unknown_groups_are_refused() {
    let (engine, _) = Device::new().start();
    let many = vec!["/bin/true".to_owned(); 65];
    let rows = [
        vec![],
        vec!["notify".into()],
        vec!["/bin/true".into(), "a\0b".into()],
        vec!["/bin/true".into(), "x".repeat(9_000)],
        many,
    ];
    for parts in rows {
        let refused = engine.create_completion_group(APP, None, CompletionAction::Command(parts));
        assert!(
            matches!(&refused, Err(Error::Invalid { field, .. }) if field == "command"),
            "{refused:?}"
        );
    }
    assert!(engine.completion_groups(None).is_empty());
    let other = engine
        .create_completion_group("other", None, CompletionAction::Event)
        .unwrap();
    let refused = engine.create(&[download(1, other)]);
    let is_refused = matches!(&refused, Err((0, Error::Invalid { field, .. })) if field == "completion-group");
    assert!(is_refused, "{refused:?}");
    engine.remove_completion_group(other).unwrap();
    let refused = engine.create(&[download(1, other)]);
    assert!(
        matches!(refused, Err((0, Error::UnknownCompletionGroup(_)))),
        "{refused:?}"
    );
}

#[test]
fn an_app_has_a_thousand_groups_that_are_not_delivered() {
    let (engine, _) = Device::new().start();
    let event = || CompletionAction::Event;
    let ids: Vec<_> = (0..1_000)
        .map(|_| engine.create_completion_group(APP, None, event()).unwrap())
        .collect();
    let refused = engine.create_completion_group(APP, None, event());
    assert!(
        matches!(refused, Err(Error::LimitReached { max: 1_000, .. })),
        "{refused:?}"
    );
    engine.create_completion_group("other", None, event()).unwrap();
    engine.enable_completion_group(ids[0]).unwrap();
    engine.create_completion_group(APP, None, event()).unwrap_err();
    engine.acknowledge_completion_group(ids[0]).unwrap();
    engine.create_completion_group(APP, None, event()).unwrap();
}

#[test]
fn a_command_that_fails_runs_again_later_and_five_times_at_most() {
    let mut device = Device::new();
    let (engine, outside) = device.start();
    outside.fail_commands(Some("it ended with exit status: 1"));
    let id = engine.create_completion_group(APP, None, command()).unwrap();
    engine.enable_completion_group(id).unwrap();
    finish(&engine);
    for (runs, wait_s) in [(1, 10), (2, 30), (3, 90), (4, 270)] {
        assert_eq!(
            (outside.commands().len(), view(&engine, id).runs),
            (runs, u32::try_from(runs).unwrap())
        );
        outside.advance(Duration::from_millis(wait_s * 1_000 - 1));
        finish(&engine);
        assert_eq!(outside.commands().len(), runs, "not before its time");
        assert!(view(&engine, id).next_run_at_ms.is_some());
        outside.advance(Duration::from_millis(1));
        finish(&engine);
    }
    let failed = CompletionState::Failed("it ended with exit status: 1".into());
    assert_eq!((outside.commands().len(), state(&engine, id)), (5, failed.clone()));
    outside.advance(Duration::from_secs(100_000));
    finish(&engine);
    drop(engine);
    let (engine, outside) = device.restart();
    finish(&engine);
    assert_eq!((outside.commands().len(), state(&engine, id)), (0, failed));
    engine.remove_completion_group(id).unwrap();
}

#[test]
fn a_wait_for_the_next_run_goes_on_after_a_restart() {
    let mut device = Device::new();
    let (engine, outside) = device.start();
    outside.fail_commands(Some("no"));
    let id = engine.create_completion_group(APP, None, command()).unwrap();
    engine.enable_completion_group(id).unwrap();
    finish(&engine);
    drop(engine);
    let (engine, outside) = device.restart();
    finish(&engine);
    assert!(outside.commands().is_empty(), "its time has not come");
    outside.advance(Duration::from_secs(10));
    finish(&engine);
    assert_eq!(
        (outside.commands().len(), state(&engine, id)),
        (1, CompletionState::Done)
    );
}

#[test]
fn a_group_that_fired_runs_its_command_after_a_power_cut_before_that() {
    let mut device = Device::new();
    let (engine, outside) = device.start();
    let id = engine.create_completion_group(APP, None, command()).unwrap();
    add(&engine, 1, id);
    engine.enable_completion_group(id).unwrap();
    while state(&engine, id) != CompletionState::Fired {
        assert!(engine.step());
    }
    assert!(outside.commands().is_empty());
    drop(engine);
    let (engine, outside) = device.restart();
    assert_eq!(state(&engine, id), CompletionState::Fired);
    finish(&engine);
    assert_eq!(
        (outside.commands().len(), state(&engine, id)),
        (1, CompletionState::Done)
    );
    drop(engine);
    let (engine, outside) = device.restart();
    finish(&engine);
    assert!(outside.commands().is_empty(), "once is enough where nothing goes wrong");
}

#[test]
fn the_last_end_and_the_firing_come_together_wherever_the_process_is_killed() {
    for calls in 1.. {
        let mut device = Device::new();
        let (engine, _) = device.start();
        let id = engine.create_completion_group(APP, None, command()).unwrap();
        let member = add(&engine, 1, id);
        engine.enable_completion_group(id).unwrap();
        let image = Arc::new(Mutex::new(None));
        let (seen, to, mut left) = (device.disk.clone(), Arc::clone(&image), calls);
        device.disk.fail_with(move |_, _| {
            left -= i32::from(left > 0);
            if left == 0 {
                to.lock().unwrap().get_or_insert_with(|| seen.kill());
            }
            None::<Fault>
        });
        finish(&engine);
        device.disk.fail_no_more();
        let image = image.lock().unwrap().take();
        let was_killed = image.is_some();
        device.disk = image.unwrap_or_else(|| device.disk.kill());
        let (engine, outside) = device.start();
        let has_ended = engine.view(member).unwrap().status.is_ended();
        let waits = matches!(state(&engine, id), CompletionState::Sealed { remaining: 1 });
        assert_eq!(has_ended, !waits, "{calls}");
        finish(&engine);
        assert_eq!(state(&engine, id), CompletionState::Done, "{calls}");
        assert!(outside.commands().len() <= 1 && (was_killed || outside.commands().is_empty()));
        if !was_killed {
            break;
        }
    }
}

#[test]
fn a_command_whose_end_is_not_recorded_runs_again_and_one_that_takes_the_device_down_five_times() {
    let mut device = Device::new();
    let (engine, outside) = device.start();
    let id = engine.create_completion_group(APP, None, command()).unwrap();
    engine.enable_completion_group(id).unwrap();
    device.run_and_kill(&engine, &outside);
    for runs in 2..=5 {
        let (engine, outside) = device.restart();
        assert_eq!(
            view(&engine, id).runs,
            runs - 1,
            "that it was begun is durable before it runs"
        );
        device.run_and_kill(&engine, &outside);
        assert_eq!(outside.commands().len(), 1);
    }
    let (engine, outside) = device.restart();
    finish(&engine);
    assert!(outside.commands().is_empty());
    assert!(matches!(state(&engine, id), CompletionState::Failed(problem) if problem.contains("begun 5 times")));
}

#[test]
fn ends_stay_known_until_their_group_is_delivered() {
    let mut device = Device::new();
    device.config.retention.acknowledged_max = 0;
    device.config.retention.unacknowledged_max = 0;
    let (engine, _) = device.start();
    let id = engine
        .create_completion_group(APP, None, CompletionAction::Event)
        .unwrap();
    let ids = [add(&engine, 1, id), add(&engine, 2, id)];
    let alone = engine.create(&[NewDownload {
        completion_group: None,
        ..download(3, id)
    }]);
    let alone = alone.unwrap()[0];
    finish(&engine);
    engine.acknowledge(&ids[..1]).unwrap();
    engine.view(alone).expect_err("the history has no room for it");
    drop(engine);
    let (engine, _) = device.restart();
    assert_eq!(view(&engine, id).members, ids);
    let lost = engine.unacknowledged_lost();
    engine.enable_completion_group(id).unwrap();
    assert_eq!(
        view(&engine, id).members,
        ids,
        "it has fired, and nobody has acknowledged it"
    );
    engine.acknowledge_completion_group(id).unwrap();
    assert!(engine.views().is_empty(), "now they go as all others");
    assert_eq!(engine.unacknowledged_lost(), lost + 1);
    assert!(view(&engine, id).members.is_empty());
}

#[test]
fn groups_are_the_same_after_the_journal_was_shortened() {
    let mut device = Device::new();
    device.config.checkpoint_bytes = 1;
    let (engine, outside) = device.start();
    outside.fail_commands(Some("no"));
    let id = engine
        .create_completion_group(APP, Some("a".into()), command())
        .unwrap();
    let member = add(&engine, 1, id);
    let open = engine
        .create_completion_group(APP, None, CompletionAction::Event)
        .unwrap();
    add(&engine, 2, open);
    engine.enable_completion_group(id).unwrap();
    finish(&engine);
    let before = engine.completion_groups(None);
    assert_eq!((before.len(), &before[0].members[..]), (2, &[member][..]));
    engine.close().unwrap();
    for _ in 0..3 {
        device.start().0.close().unwrap();
    }
    let names = device.disk.names(Path::new("/state/journal"));
    assert!(names.iter().any(|name| name.contains(".snap")), "{names:?}");
    let (engine, _) = device.start();
    assert_eq!(engine.completion_groups(None), before);
}

#[test]
fn a_removal_that_the_disk_refuses_leaves_the_group() {
    let mut device = Device::new();
    let (engine, _) = device.start();
    let id = engine
        .create_completion_group(APP, None, CompletionAction::Event)
        .unwrap();
    device.disk.fail_with(|call, path| {
        let is_it = call == Call::Sync && path.starts_with("/state/journal");
        is_it.then(|| io::Error::other("the disk does not answer"))
    });
    engine.remove_completion_group(id).unwrap_err();
    device.disk.fail_no_more();
    drop(engine);
    let (engine, _) = device.restart();
    assert_eq!(state(&engine, id), CompletionState::Open);
}

// ---- with threads and a real program ----

#[test]
fn a_real_command_reads_its_report_while_transfers_go_on() {
    let home = tempfile::tempdir().unwrap();
    let (program, told) = (home.path().join("tell"), home.path().join("told"));
    std::fs::write(&program, "#!/bin/sh\ncat > \"$1.part\" && mv \"$1.part\" \"$1\"\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let server = Arc::new(MemoryBackend::new());
    for number in 0..4 {
        server.put(&url(number), Resource::new(vec![7; 100], "a"));
    }
    let state_directory = home.path().join("state");
    let backends = vec![server as _];
    let engine = Engine::open(&state_directory, Config::default(), Environment::system(), backends).unwrap();
    engine.report_by(report);
    let parts = [&program, &told].map(|path| path.to_str().unwrap().to_owned());
    let id = engine
        .create_completion_group(APP, None, CompletionAction::Command(parts.to_vec()))
        .unwrap();
    for number in 0..4 {
        let destination = home.path().join(number.to_string());
        let member = NewDownload {
            destination,
            ..download(number, id)
        };
        engine.create(&[member]).unwrap();
    }
    engine.enable_completion_group(id).unwrap();
    engine.run(Until::Idle, None, |_| ()).unwrap();
    assert_eq!(state(&engine, id), CompletionState::Done);
    let told = std::fs::read_to_string(&told).unwrap();
    assert_eq!(
        told.matches(&TransferStatus::Completed.to_string()).count(),
        4,
        "{told}"
    );
    engine.close().unwrap();
}

#[test]
fn an_engine_that_stops_ends_its_command_and_runs_it_again_as_if_it_had_not_begun() {
    let home = tempfile::tempdir().unwrap();
    let begun = home.path().join("begun");
    let script = format!("echo > '{}'; exec sleep 600", begun.display());
    let parts = ["/bin/sh", "-c", &script].map(String::from);
    let backends = vec![Arc::new(MemoryBackend::new()) as _];
    let state_directory = home.path().join("state");
    let engine = Engine::open(&state_directory, Config::default(), Environment::system(), backends).unwrap();
    let id = engine
        .create_completion_group(APP, None, CompletionAction::Command(parts.to_vec()))
        .unwrap();
    engine.enable_completion_group(id).unwrap();
    let tick = Some(Duration::from_millis(5));
    engine
        .run(Until::Stopped, tick, |engine| {
            if begun.exists() {
                engine.stop();
            }
        })
        .unwrap();
    let shown = view(&engine, id);
    assert_eq!((shown.state, shown.runs), (CompletionState::Fired, 0));
    engine.close().unwrap();
}

#[test]
fn groups_of_one_moment_are_listed_in_the_order_of_their_creation_also_after_a_restart_and_a_snapshot() {
    let mut device = Device::new();
    device.config.checkpoint_bytes = 1;
    let (engine, outside) = device.start();
    let create = || {
        let created = engine.create_completion_group(APP, None, CompletionAction::Event);
        created.unwrap()
    };
    let mut created: Vec<CompletionGroupId> = (0..10).map(|_| create()).collect();
    outside.advance(Duration::from_millis(1));
    created.extend((0..10).map(|_| create()));
    let listed = |engine: &Engine| {
        let groups = engine.completion_groups(Some(APP)).into_iter();
        groups.map(|group| group.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(&engine), created);
    add(&engine, 1, created[0]);
    finish(&engine);
    engine.close().unwrap();
    let (engine, _) = device.start();
    assert_eq!(listed(&engine), created);
}

#[test]
fn an_app_that_two_forget_at_once_is_forgotten_and_neither_is_told_of_an_error() {
    let mut device = Device::new();
    let (engine, _) = device.start();
    for round in 0..20 {
        for number in 0..30 {
            engine
                .create_completion_group(APP, None, CompletionAction::Event)
                .unwrap();
            engine.create_group(APP, &format!("{number}"), None).unwrap();
        }
        std::thread::scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(|| engine.forget_app(APP)));
            for forgotten in both {
                assert!(matches!(forgotten.join().unwrap(), Ok(0)), "round {round}");
            }
        });
        assert!(engine.completion_groups(Some(APP)).is_empty() && engine.groups(Some(APP)).is_empty());
    }
}

#[test]
fn an_app_that_is_forgotten_while_its_command_runs_stops_no_engine() {
    let home = tempfile::tempdir().unwrap();
    let begun = home.path().join("begun");
    let script = format!("echo > '{}'; exec sleep 600", begun.display());
    let parts = ["/bin/sh", "-c", &script].map(String::from);
    let server = Arc::new(MemoryBackend::new());
    server.put(&url(1), Resource::new(vec![7; 100], "a"));
    let state_directory = home.path().join("state");
    let backends = vec![server as _];
    let engine = Engine::open(&state_directory, Config::default(), Environment::system(), backends).unwrap();
    let id = engine
        .create_completion_group(APP, None, CompletionAction::Command(parts.to_vec()))
        .unwrap();
    engine.enable_completion_group(id).unwrap();
    let tick = Some(Duration::from_millis(5));
    let mut later = None;
    engine
        .run(Until::Stopped, tick, |engine| {
            if later.is_none() && begun.exists() {
                engine.forget_app(APP).unwrap();
                let download = NewDownload {
                    url: url(1),
                    destination: home.path().join("later"),
                    app: "other".into(),
                    ..NewDownload::default()
                };
                later = Some(engine.create(&[download]).unwrap()[0]);
            }
            if later.is_some_and(|id| engine.view(id).unwrap().status.is_ended()) {
                engine.stop();
            }
        })
        .unwrap();
    let later = engine.view(later.unwrap()).unwrap();
    assert_eq!(later.status, TransferStatus::Completed);
    engine.close().unwrap();
}
