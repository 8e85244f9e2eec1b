//! Completion groups as monitors are told of them, in this process and over a socket.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod served;

use std::collections::BTreeSet;
use std::time::Duration;

use backhaul::{
    CompletionAction, CompletionGroupId, CompletionGroupView, CompletionState, Filter, GroupFilter, Monitor,
    NewDownload, Service, Update,
};
use serde_json::json;

use served::{Lab, STEP_MAX};

const APP: &str = "events";

fn of_app(app: &str) -> Filter {
    Filter {
        app: Some(app.into()),
        ..Filter::default()
    }
}

/// The service of this process, and one that is connected to it.
fn both(lab: &Lab) -> [Service; 2] {
    [lab.embedded().clone(), lab.connect()].map(|service| service.with_app(APP))
}

/// The next update, which has to come.
fn next(monitor: &mut Monitor) -> Update {
    monitor.next_within(Some(STEP_MAX)).unwrap().expect("no update comes")
}

/// The completion groups that a monitor is told of before it has caught up, and where it stands then.
fn catch_up(monitor: &mut Monitor) -> (Vec<CompletionGroupView>, u64) {
    let mut groups = Vec::new();
    loop {
        let update = next(monitor);
        groups.extend(update.completion_groups);
        if update.caught_up {
            return (groups, update.cursor);
        }
    }
}

/// The completion groups of the next update that tells of any.
fn next_groups(monitor: &mut Monitor) -> Vec<CompletionGroupView> {
    loop {
        let groups = next(monitor).completion_groups;
        if !groups.is_empty() {
            return groups;
        }
    }
}

fn told(groups: &[CompletionGroupView]) -> Vec<(CompletionGroupId, CompletionState)> {
    groups.iter().map(|group| (group.id, group.state.clone())).collect()
}

fn event(service: &Service) -> CompletionGroupId {
    service.create_completion_group(None, &CompletionAction::Event).unwrap()
}

/// A group that fires at once.
fn fire_empty(service: &Service) -> CompletionGroupId {
    let id = event(service);
    service.enable_completion_group(id).unwrap();
    id
}

#[test]
fn who_was_away_is_told_of_a_group_that_fired_until_somebody_acknowledges_it() {
    let mut lab = Lab::new();
    let [here, there] = both(&lab);
    let cursors = [&here, &there].map(|service| catch_up(&mut service.monitor(&of_app(APP), None).unwrap()).1);
    let group = event(&here);
    let downloads = ["one", "two"].map(|name| NewDownload {
        completion_group: Some(group),
        ..lab.download("/1000", name)
    });
    let ids = here.create(&downloads).unwrap();
    here.enable_completion_group(group).unwrap();
    here.wait(&ids, Some(STEP_MAX)).unwrap();
    let fired = [(group, CompletionState::Fired)];
    for _ in 0..2 {
        for (service, cursor) in [&here, &there].into_iter().zip(cursors) {
            let mut monitor = service.monitor(&of_app(APP), Some(cursor)).unwrap();
            let (groups, _) = catch_up(&mut monitor);
            assert_eq!(told(&groups), fired);
            assert!(groups[0].members.is_empty(), "they may be too many for a message");
            assert!(groups[0].fired_at_ms.is_some());
        }
    }
    drop((here, there));
    lab.close();
    lab.open();
    let [here, there] = both(&lab);
    for service in [&here, &there] {
        // Whoever knows all operations is told all the same.
        let (_, cursor) = catch_up(&mut service.monitor(&of_app(APP), None).unwrap());
        let (groups, _) = catch_up(&mut service.monitor(&of_app(APP), Some(cursor)).unwrap());
        assert_eq!(told(&groups), fired, "after a restart");
    }
    there.acknowledge_completion_group(group).unwrap();
    for service in [&here, &there] {
        let (groups, _) = catch_up(&mut service.monitor(&of_app(APP), None).unwrap());
        assert_eq!(told(&groups), []);
    }
}

#[test]
fn who_looks_on_is_told_when_a_group_fires_and_when_somebody_acknowledges_it() {
    let lab = Lab::new();
    let services = both(&lab);
    let mut monitors = services.each_ref().map(|service| {
        let mut monitor = service.monitor(&of_app(APP), None).unwrap();
        catch_up(&mut monitor);
        monitor
    });
    // No operation changes with it.
    let empty = fire_empty(&services[0]);
    for monitor in &mut monitors {
        assert_eq!(told(&next_groups(monitor)), [(empty, CompletionState::Fired)]);
    }
    services[0].acknowledge_completion_group(empty).unwrap();
    for monitor in &mut monitors {
        assert_eq!(told(&next_groups(monitor)), [(empty, CompletionState::Done)]);
    }
    let command = CompletionAction::Command(vec!["/bin/true".into()]);
    let command = services[0].create_completion_group(None, &command).unwrap();
    services[0].enable_completion_group(command).unwrap();
    for monitor in &mut monitors {
        let (mut seen, done) = (Vec::new(), (command, CompletionState::Done));
        while !seen.contains(&done) {
            seen.extend(told(&next_groups(monitor)));
        }
        seen.dedup();
        // Whoever looks only after its end was told of that alone.
        seen.retain(|one| *one != (command, CompletionState::Running));
        assert_eq!(seen, [done]);
    }
}

#[test]
fn who_looks_on_is_told_when_the_last_operation_of_a_group_ends() {
    let lab = Lab::new();
    let services = both(&lab);
    let group = event(&services[0]);
    let download = NewDownload {
        completion_group: Some(group),
        ..lab.held("last")
    };
    let ids = services[0].create(&[download]).unwrap();
    services[0].enable_completion_group(group).unwrap();
    let mut monitors = services.each_ref().map(|service| {
        let mut monitor = service.monitor(&of_app(APP), None).unwrap();
        assert_eq!(told(&catch_up(&mut monitor).0), [], "it waits for its operation");
        monitor
    });
    services[0].cancel(&ids).unwrap();
    for monitor in &mut monitors {
        assert_eq!(told(&next_groups(monitor)), [(group, CompletionState::Fired)]);
    }
}

#[test]
fn nobody_is_told_of_the_groups_of_another_app() {
    let lab = Lab::new();
    for service in both(&lab) {
        let other = service.clone().with_app("other");
        let waiting = fire_empty(&service);
        let mut monitor = other.monitor(&of_app("other"), None).unwrap();
        assert_eq!(told(&catch_up(&mut monitor).0), []);
        fire_empty(&service);
        let own = fire_empty(&other);
        // Had it been told of the one before, it would have been with this one or earlier.
        assert_eq!(told(&next_groups(&mut monitor)), [(own, CompletionState::Fired)]);
        let (all, _) = catch_up(&mut service.monitor(&Filter::default(), None).unwrap());
        let all: BTreeSet<CompletionGroupId> = all.iter().map(|group| group.id).collect();
        assert!(all.contains(&waiting) && all.contains(&own), "all apps are meant");
        other.acknowledge_completion_group(own).unwrap();
    }
}

#[test]
fn a_transfer_group_or_ids_do_not_narrow_what_is_told_of_completion_groups_but_ids_end_it() {
    let lab = Lab::new();
    for (service, name) in both(&lab).into_iter().zip(["a", "b"]) {
        let waiting = fire_empty(&service);
        for group in [GroupFilter::Named("g".into()), GroupFilter::Ungrouped] {
            let filter = Filter { group, ..of_app(APP) };
            let (groups, _) = catch_up(&mut service.monitor(&filter, None).unwrap());
            assert_eq!(told(&groups), [(waiting, CompletionState::Fired)]);
        }
        let id = service.create(&[lab.held(name)]).unwrap()[0];
        let mut monitor = service.monitor_ids(&[id], None).unwrap();
        assert_eq!(told(&catch_up(&mut monitor).0), []);
        let second = fire_empty(&service);
        service.cancel(&[id]).unwrap();
        loop {
            let update = next(&mut monitor);
            assert_eq!(update.completion_groups, []);
            if update.operations.iter().any(backhaul::OperationView::has_ended) {
                break;
            }
        }
        for group in [waiting, second] {
            service.acknowledge_completion_group(group).unwrap();
        }
    }
}

#[test]
fn more_groups_than_one_update_holds_come_in_parts() {
    let lab = Lab::new();
    let services = both(&lab);
    let fired: BTreeSet<CompletionGroupId> = (0..300).map(|_| fire_empty(&services[0])).collect();
    for service in &services {
        for filter in [of_app(APP), Filter::default()] {
            let (groups, _) = catch_up(&mut service.monitor(&filter, None).unwrap());
            assert_eq!(groups.len(), fired.len(), "each one once");
            assert_eq!(groups.iter().map(|group| group.id).collect::<BTreeSet<_>>(), fired);
        }
    }
}

#[test]
fn what_others_do_hides_nothing_from_a_monitor() {
    let lab = Lab::new();
    let service = lab.embedded().clone().with_app(APP);
    let mut monitor = service.monitor(&of_app(APP), None).unwrap();
    catch_up(&mut monitor);
    // More than one update holds, and what it wants lies anywhere among them.
    let others: Vec<NewDownload> = (0..3_000).map(|number| lab.held(&format!("other-{number}"))).collect();
    service.clone().with_app("other").create(&others).unwrap();
    let own = service.create(&[lab.held("own")]).unwrap()[0];
    let update = next(&mut monitor);
    assert_eq!(update.operations.iter().map(|view| view.id).collect::<Vec<_>>(), [own]);
    assert!(monitor.next_within(Some(Duration::ZERO)).unwrap().is_none());
}

#[test]
fn on_the_wire_a_group_has_the_form_that_a_listing_gives_it() {
    let lab = Lab::new();
    let service = lab.connect().with_app(APP);
    let mut raw = lab.raw();
    raw.say(&json!({
        "method": "io.backhaul.Transfer.Monitor", "parameters": { "selection": { "app": APP } }, "more": true
    }));
    let caught_up = raw.hear().unwrap();
    assert_eq!(caught_up["parameters"]["caught_up"], true);
    assert!(
        caught_up["parameters"].get("completion_groups").is_none(),
        "{caught_up}"
    );
    let id = fire_empty(&service);
    let update = raw.hear().unwrap();
    let listed = lab.raw().call("CompletionGroups", &json!({ "app": APP }));
    let listed = &listed["parameters"]["groups"];
    assert_eq!(&update["parameters"]["completion_groups"], listed);
    assert_eq!((&listed[0]["id"], &listed[0]["state"]), (&json!(id), &json!("fired")));
}
