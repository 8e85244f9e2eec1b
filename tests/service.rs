//! An engine that other processes speak to over its socket.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod served;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use backhaul::{
    Changes, Error, Filter, Monitor, NewDownload, OperationView, Service, TransferId, TransferStatus, Update,
};
use serde_json::json;

use served::{Lab, STEP_MAX, create, ids, until};

/// The filter of all apps.
fn everything() -> Filter {
    Filter::default()
}

fn of_app(app: &str) -> Filter {
    Filter {
        app: Some(app.into()),
        ..Filter::default()
    }
}

/// The next update, which has to come.
fn next(monitor: &mut Monitor) -> Update {
    monitor.next_within(Some(STEP_MAX)).unwrap().expect("no update comes")
}

/// All updates until everything has been told that had changed before.
fn catch_up(monitor: &mut Monitor) -> Vec<Update> {
    let mut updates = vec![next(monitor)];
    while !updates.last().unwrap().caught_up {
        updates.push(next(monitor));
    }
    updates
}

/// What a monitor tells until `done` is satisfied with the last that is known of each operation.
fn watch_until(
    monitor: &mut Monitor,
    known: &mut BTreeMap<TransferId, OperationView>,
    done: impl Fn(&BTreeMap<TransferId, OperationView>) -> bool,
) -> u64 {
    loop {
        let update = next(monitor);
        known.extend(update.operations.into_iter().map(|view| (view.id, view)));
        for id in update.removed {
            known.remove(&id);
        }
        if done(known) {
            return update.cursor;
        }
    }
}

// ---- calls ----

#[test]
fn a_list_longer_than_a_message_is_created_whole_or_taken_back() {
    let lab = Lab::new();
    let client = lab.connect();
    // More than 1 MiB in all; a header that is long makes it few.
    let long = format!("X-Long: {}", "x".repeat(4_000));
    let mut list: Vec<NewDownload> = (0..300).map(|number| lab.held(&format!("file-{number}"))).collect();
    for download in &mut list {
        download.headers.push(long.clone());
    }
    let mut twice = list.clone();
    twice[290].destination = twice[0].destination.clone();
    let refused = client.create(&twice);
    assert!(
        matches!(&refused, Err((290, Error::Conflict { field, .. })) if field == "destination"),
        "{:?}",
        refused.map(|created| created.len())
    );
    assert_eq!(client.list(&everything()).count(), 0, "some of a refused list stays");
    let created = client.create(&list).unwrap();
    let listed: Vec<OperationView> = client.list(&everything()).map(Result::unwrap).collect();
    assert_eq!(ids(&listed), created);
}

#[test]
fn what_a_client_creates_the_engine_has() {
    let lab = Lab::new();
    let client = lab.connect();
    let created = client.create(&[lab.held("one"), lab.held("two")]).unwrap();
    let embedded = lab.embedded();
    assert_eq!(embedded.view(created[0]).unwrap(), client.view(created[0]).unwrap());
    let listed: Vec<OperationView> = client.list(&everything()).map(Result::unwrap).collect();
    assert_eq!(ids(&listed), created);
    client.cancel(&created).unwrap();
}

#[test]
fn a_service_is_found_by_its_state_directory() {
    let mut lab = Lab::new();
    let found = Service::find(lab.state()).unwrap();
    assert!(found.is_some_and(|found| found.is_remote()));
    lab.serving = None;
    assert!(!lab.socket().exists(), "the name of a socket goes with it");
    assert!(Service::find(lab.state()).unwrap().is_none());
}

#[test]
fn two_services_cannot_have_one_socket() {
    let lab = Lab::new();
    let other = Service::open(lab.home().join("other")).unwrap();
    let refused = other.serve(lab.socket()).unwrap_err();
    assert!(
        matches!(&refused, Error::Invalid { field, .. } if field == "socket"),
        "{refused}"
    );
    assert!(
        lab.connect().list(&everything()).next().is_none(),
        "the first one serves on"
    );
    let remote = lab.connect().serve(lab.home().join("third")).unwrap_err();
    assert!(
        matches!(&remote, Error::Invalid { field, .. } if field == "socket"),
        "{remote}"
    );
}

#[test]
fn a_client_is_told_that_the_service_has_stopped() {
    let mut lab = Lab::new();
    let client = lab.connect();
    let mut monitor = client.monitor(&everything(), None).unwrap();
    catch_up(&mut monitor);
    let started = Instant::now();
    lab.serving = None;
    assert!(started.elapsed() < Duration::from_secs(5));
    let id = "ee".repeat(16).parse().unwrap();
    for error in [monitor.next().unwrap().unwrap_err(), client.pause(&[id]).unwrap_err()] {
        assert!(error.to_string().contains("the service has stopped"), "{error}");
    }
}

#[test]
fn a_wait_for_more_than_one_call_may_name_tells_of_all_in_their_order_and_at_once_of_one_that_is_unknown() {
    let lab = Lab::new();
    let client = lab.connect();
    let list: Vec<NewDownload> = (0..600).map(|number| lab.held(&format!("file-{number}"))).collect();
    let mut created = client.create(&list).unwrap();
    created.reverse();
    let in_time = client.wait(&created, Some(Duration::from_millis(1))).unwrap();
    assert_eq!(ids(&in_time), created);
    let unknown: TransferId = "ee".repeat(16).parse().unwrap();
    let nobody = client.wait(&[&created[..], &[unknown]].concat(), None);
    assert!(matches!(nobody, Err(Error::UnknownId(id)) if id == unknown));
    // The last part waits for what the others do not.
    client.cancel(&created[..599]).unwrap();
    client.wait(&created[..599], Some(STEP_MAX)).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.wait(&created, Some(STEP_MAX)).unwrap());
        client.cancel(&created[599..]).unwrap();
        let ended = waiting.join().unwrap();
        assert_eq!(ids(&ended), created);
        assert!(ended.iter().all(OperationView::has_ended));
    });
}

/// A sequence of calls, and what came of each, without what differs from run to run.
fn sequence(service: &Service, lab: &Lab) -> Vec<String> {
    let mut said = Vec::new();
    let service = service.clone().with_app("seq");
    let mut say = |what: &str, result: String| said.push(format!("{what}: {result}"));
    let all = [lab.held("a"), lab.download("/1000", "b"), lab.held("c")];
    let made = service.create(&all).unwrap();
    let unknown: TransferId = "ee".repeat(16).parse().unwrap();
    say("the same", format!("{:?}", service.create(&all[..1])));
    let bad = NewDownload {
        url: "no url".into(),
        ..lab.held("d")
    };
    say("no url", format!("{:?}", service.create(&[lab.held("e"), bad])));
    let relative = NewDownload {
        headers: vec!["no header".into()],
        ..lab.held("f")
    };
    say("no header", format!("{:?}", service.create(&[relative])));
    say("ended", shown(&service.wait(&made[1..2], Some(STEP_MAX))));
    say(
        "in time",
        shown(&service.wait(&made[..1], Some(Duration::from_millis(1)))),
    );
    say("nobody", shown(&service.wait(&[made[1], unknown], None)));
    say(
        "still",
        shown(&service.wait_until_still(&[made[2], made[0], made[2]], None)),
    );
    say("no ids", shown(&service.wait(&[], None)));
    say("pause", format!("{:?}", service.pause(&made[1..])));
    say("unknown", format!("{:?}", service.start(&[made[0], unknown])));
    say(
        "start what has ended",
        format!("{:?}", service.start(&[made[1], made[0]])),
    );
    say("remove", format!("{:?}", service.remove(&made[2..])));
    say("acknowledge", format!("{:?}", service.acknowledge(&made[1..2])));
    say("acknowledge c", format!("{:?}", service.acknowledge(&made[2..])));
    let changes = Changes {
        url: Some("gopher://x/".into()),
        ..Changes::default()
    };
    say("set", format!("{:?}", service.set(made[2], &changes)));
    let changes = Changes {
        headers: vec!["A: b".into()],
        ..Changes::default()
    };
    say("set", format!("{:?}", service.set(made[2], &changes)));
    say("cancel", format!("{:?}", service.cancel(&[made[0], made[2]])));
    until("what they left is swept", || {
        let ended = made.iter().map(|id| service.view(*id).unwrap().ended_at_ms);
        ended.collect::<Option<Vec<u64>>>()
    });
    say("wait", shown(&service.wait(&made, Some(STEP_MAX))));
    say("view", format!("{:?}", service.view(unknown)));
    say("list", shown(&service.list(&of_app("seq")).collect()));
    say("other app", shown(&service.list(&of_app("other")).collect()));
    say("remove", format!("{:?}", service.remove(&made)));
    say("list", shown(&service.list(&of_app("seq")).collect()));
    let mut monitor = service.monitor_ids(&made, None).unwrap();
    say(
        "told",
        format!("{:?}", catch_up(&mut monitor).pop().map(|update| update.operations)),
    );
    let home = lab.home().to_str().unwrap();
    let texts = said
        .into_iter()
        .map(|text| text.replace(home, "HOME").replace(&lab.origin.url(""), "ORIGIN"));
    let named = |text: String| {
        made.iter()
            .enumerate()
            .fold(text, |text, (n, id)| text.replace(&id.to_string(), &format!("ID{n}")))
    };
    texts.map(named).collect()
}

/// Views without what no two runs have in common.
fn shown(views: &Result<Vec<OperationView>, Error>) -> String {
    let views = match views {
        Ok(views) => views,
        Err(error) => return format!("{error:?}"),
    };
    let shown = views.iter().map(|view| {
        let mut json = serde_json::to_value(view).unwrap();
        for name in ["created_at", "ended_at"] {
            json[name] = json!(json[name].is_string());
        }
        json.to_string()
    });
    shown.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_same_calls_do_the_same_here_and_behind_a_socket() {
    let (here, there) = (Lab::new(), Lab::new());
    let embedded = sequence(here.embedded(), &here);
    let connected = sequence(&there.connect(), &there);
    for (here, there) in embedded.iter().zip(&connected) {
        assert_eq!(here, there);
    }
    assert_eq!(embedded.len(), connected.len());
    assert!(embedded.iter().any(|text| text.contains("Completed")), "{embedded:#?}");
}

// ---- waiting ----

#[test]
fn a_wait_is_answered_when_the_last_operation_stands_so() {
    let lab = Lab::new();
    let client = lab.connect();
    let gated = create(&client, lab.download("/gate", "gated"));
    let held = create(&client, lab.held("held"));
    let timed = client.wait(&[gated], Some(Duration::from_millis(20))).unwrap();
    assert!(!timed[0].status.is_ended(), "the time is over before");
    let waiting = client.clone();
    let wait = std::thread::spawn(move || waiting.wait(&[held, gated], None));
    client.cancel(&[held]).unwrap();
    lab.origin.open_gate();
    let waited = wait.join().unwrap().unwrap();
    let statuses: Vec<TransferStatus> = waited.iter().map(|view| view.status).collect();
    assert_eq!(statuses, [TransferStatus::Canceled, TransferStatus::Completed]);
}

#[test]
fn a_wait_for_an_operation_whose_record_goes_ends_with_an_error() {
    let lab = Lab::new();
    let client = lab.connect();
    let (held, gone) = (create(&client, lab.held("held")), create(&client, lab.held("gone")));
    let waiting = client.clone();
    let wait = std::thread::spawn(move || waiting.wait(&[held, gone], None));
    client.cancel(&[gone]).unwrap();
    until("it is swept", || client.view(gone).unwrap().ended_at_ms);
    client.remove(&[gone]).unwrap();
    client.cancel(&[held]).unwrap();
    // Depending on who is first, its end is seen before its record goes.
    match wait.join().unwrap() {
        Err(Error::UnknownId(id)) => assert_eq!(id, gone),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_that_pauses_can_wait_until_nothing_runs() {
    let lab = Lab::new();
    let client = lab.connect();
    let id = create(&client, lab.download("/gate", "gated"));
    until("it runs", || {
        (client.view(id).unwrap().status == TransferStatus::Running).then_some(())
    });
    client.pause(&[id]).unwrap();
    let still = client.wait_until_still(&[id], Some(STEP_MAX)).unwrap();
    assert_eq!(still[0].status, TransferStatus::PausedByApplication);
    lab.origin.open_gate();
}

// ---- looking on ----

#[test]
fn a_monitor_is_told_what_there_is_then_what_changes_then_what_goes() {
    let lab = Lab::new();
    let client = lab.connect();
    let first = create(&client, lab.held("first"));
    let mut monitor = client.monitor(&everything(), None).unwrap();
    let told: Vec<OperationView> = catch_up(&mut monitor)
        .into_iter()
        .flat_map(|update| update.operations)
        .collect();
    assert_eq!(told, [client.view(first).unwrap()]);
    let second = create(&client, lab.download("/100000", "second"));
    let mut known = BTreeMap::new();
    watch_until(&mut monitor, &mut known, |known| {
        known
            .get(&second)
            .is_some_and(|view| view.status == TransferStatus::Completed)
    });
    client.cancel(&[first]).unwrap();
    watch_until(&mut monitor, &mut known, |known| {
        known.get(&first).is_some_and(|view| view.ended_at_ms.is_some())
    });
    client.remove(&[first]).unwrap();
    watch_until(&mut monitor, &mut known, |known| !known.contains_key(&first));
}

#[test]
fn a_monitor_is_told_of_progress_and_of_no_progress_where_it_wants_none() {
    let lab = Lab::new();
    let client = lab.connect();
    let id = create(&client, lab.download("/gate", "gated"));
    let mut monitor = client.monitor_ids(&[id], None).unwrap();
    let mut known = BTreeMap::new();
    watch_until(&mut monitor, &mut known, |known| {
        known.get(&id).is_some_and(|view| view.bytes_done >= 100_000)
    });
    let mut silent = lab.raw();
    silent.say(&json!({
        "method": "io.backhaul.Transfer.Monitor",
        "parameters": { "ids": [id], "selection": { "all_apps": true }, "progress_ms": 0 },
        "more": true
    }));
    while silent.hear().unwrap()["parameters"]["caught_up"] != true {}
    // Two reports of progress to another one are proof enough that the silent one is left out.
    next(&mut monitor);
    next(&mut monitor);
    silent.stream().set_nonblocking(true).unwrap();
    assert_eq!(silent.hear(), None);
    lab.origin.open_gate();
    client.wait(&[id], Some(STEP_MAX)).unwrap();
}

#[test]
fn a_monitor_of_one_app_is_not_told_of_others() {
    let lab = Lab::new();
    let (mine, others) = (lab.connect().with_app("mine"), lab.connect().with_app("others"));
    create(&others, lab.held("before"));
    let mut monitor = mine.monitor(&of_app("mine"), None).unwrap();
    let mut told: Vec<OperationView> = catch_up(&mut monitor)
        .into_iter()
        .flat_map(|update| update.operations)
        .collect();
    for number in 0..20 {
        create(&others, lab.held(&format!("other{number}")));
    }
    let id = create(&mine, lab.held("mine"));
    while !told.iter().any(|view| view.id == id) {
        told.extend(next(&mut monitor).operations);
    }
    assert!(told.iter().all(|view| view.app == "mine"), "{told:#?}");
}

#[test]
fn a_long_list_is_told_whole_a_part_at_a_time() {
    let lab = Lab::new();
    let client = lab.connect();
    let list: Vec<NewDownload> = (0..700).map(|number| lab.held(&format!("f{number}"))).collect();
    let created = client.create(&list[..300]).unwrap();
    let mut monitor = client.monitor(&everything(), None).unwrap();
    let updates = catch_up(&mut monitor);
    let told: Vec<TransferId> = updates.iter().flat_map(|update| ids(&update.operations)).collect();
    assert_eq!(told.iter().collect::<BTreeSet<_>>(), created.iter().collect());
    let more: BTreeSet<TransferId> = client.create(&list[300..]).unwrap().into_iter().collect();
    let mut known = BTreeMap::new();
    watch_until(&mut monitor, &mut known, |known| {
        known.keys().copied().collect::<BTreeSet<_>>() == more
    });
}

#[test]
fn a_monitor_with_a_cursor_misses_no_end_that_came_while_nobody_looked() {
    let mut lab = Lab::new();
    let client = lab.connect().with_app("away");
    let early = create(&client, lab.download("/10", "early"));
    client.wait(&[early], Some(STEP_MAX)).unwrap();
    let mut monitor = client.monitor(&of_app("away"), None).unwrap();
    let mut known = BTreeMap::new();
    let gated = create(&client, lab.download("/gate", "gated"));
    let cursor = watch_until(&mut monitor, &mut known, |known| known.contains_key(&gated));
    drop(monitor);
    // These end while nobody looks on: one is acknowledged, one fails, and one ends after a restart.
    let many: Vec<NewDownload> = (0..20)
        .map(|number| lab.download("/1000", &format!("f{number}")))
        .collect();
    let mut expected: BTreeSet<TransferId> = client.create(&many).unwrap().into_iter().collect();
    let acknowledged = *expected.first().unwrap();
    let all: Vec<TransferId> = expected.iter().copied().collect();
    client.wait(&all, Some(STEP_MAX)).unwrap();
    client.acknowledge(&[acknowledged]).unwrap();
    let refused = NewDownload {
        expected_bytes: Some(7),
        ..lab.download("/8", "refused")
    };
    let refused = create(&client, refused);
    client.wait(&[refused], Some(STEP_MAX)).unwrap();
    lab.close();
    lab.origin.open_gate();
    lab.open();
    let client = lab.connect().with_app("away");
    client.wait(&[gated], Some(STEP_MAX)).unwrap();
    expected.extend([refused, gated]);
    let mut monitor = client.monitor(&of_app("away"), Some(cursor)).unwrap();
    let told: Vec<OperationView> = catch_up(&mut monitor)
        .into_iter()
        .flat_map(|update| update.operations)
        .collect();
    let ended: BTreeSet<TransferId> = told
        .iter()
        .filter(|view| view.status.is_ended())
        .map(|view| view.id)
        .collect();
    assert!(
        ended.is_superset(&expected),
        "missed: {:?}",
        expected.difference(&ended)
    );
    assert!(told.iter().any(|view| view.id == acknowledged && view.acknowledged));
}

#[test]
fn every_end_reaches_every_monitor_while_many_look_on() {
    let lab = Lab::new();
    let client = lab.connect();
    let mut monitors: Vec<Monitor> = (0..50).map(|_| client.monitor(&everything(), None).unwrap()).collect();
    let list: Vec<NewDownload> = (0..100)
        .map(|number| lab.download("/5000", &format!("f{number}")))
        .collect();
    let created: BTreeSet<TransferId> = client.create(&list).unwrap().into_iter().collect();
    for monitor in &mut monitors {
        let mut known = BTreeMap::new();
        watch_until(monitor, &mut known, |known| {
            let ended = known.values().filter(|view| view.status == TransferStatus::Completed);
            ended.map(|view| view.id).collect::<BTreeSet<_>>() == created
        });
    }
}

#[test]
fn a_thousand_clients_are_served_at_once() {
    let lab = Lab::new();
    let wanted = 1_000;
    // Both ends of each connection are in this process.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let mut lab = lab;
    // The room that a service has is looked at when it starts.
    lab.close();
    lab.open();
    let mut clients: Vec<served::Raw> = (0..wanted).map(|_| lab.raw()).collect();
    for client in &clients {
        client.say(&json!({ "method": "io.backhaul.Transfer.List" }));
    }
    for client in &mut clients {
        assert_eq!(client.hear().unwrap()["parameters"]["operations"], json!([]));
    }
    assert_eq!(lab.serving.as_ref().unwrap().connections(), wanted);
    drop(clients);
    let serving = lab.serving.as_ref().unwrap();
    until("all are gone", || (serving.connections() == 0).then_some(()));
}
