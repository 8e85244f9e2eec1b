//! Replay, indexes and retention of the table, and the decisions of the scheduler over it.

use std::path::PathBuf;

use super::*;
use crate::listing::{Filter, GroupFilter};
use crate::operation::OPENED;
use crate::operation::{
    Amendment, BatchId, Collision, Condition, CostPolicy, Kind, OperationError, Outcome, Priority, Shared, Spec, decode,
};
use crate::scheduler::{Action, Slots, plan};

const NOW: Now = Now {
    boot_ms: 1_000,
    wall_ms: 50_000,
    boot_id: [1; 16],
};

fn id(number: u8) -> TransferId {
    TransferId([number; 16])
}

fn spec(number: u8, priority: Priority) -> Spec {
    Spec {
        kind: Kind::Download,
        url: format!("http://host/{number}"),
        destination: PathBuf::from(format!("/data/{number}")),
        app: "app".into(),
        owner_uid: 0,
        group: None,
        headers: Vec::new(),
        has_secrets: false,
        sha256: None,
        expected_bytes: None,
        collision: Collision::Fail,
        priority,
        expected_type: None,
        recoverable: Vec::new(),
        digests: Vec::new(),
        mirrors: Vec::new(),
        cost_policy: CostPolicy::Default,
        proxy: None,
        random_access: false,
        method: backhaul_backends::Method::GET,
        body: None,
        completion_group: None,
    }
}

fn created(spec: Spec) -> Event {
    Event::Created {
        spec: Shared::new(spec),
        started: false,
        batch: None,
    }
}

struct Log {
    table: Table,
    facts: Vec<(Fact, u64)>,
}

impl Log {
    fn new() -> Self {
        Self {
            table: Table::default(),
            facts: Vec::new(),
        }
    }

    fn add(&mut self, number: u8, at_ms: u64, event: Event) {
        let fact = Fact {
            id: id(number),
            at_ms,
            event,
        };
        let lsn = self.facts.len() as u64;
        self.table
            .apply(fact.clone(), lsn)
            .unwrap_or_else(|rejected| panic!("{rejected}"));
        self.facts.push((fact, lsn));
    }

    fn queued(numbers: &[(u8, Priority)]) -> Self {
        let mut log = Self::new();
        for (number, priority) in numbers {
            log.add(*number, 0, created(spec(*number, *priority)));
            log.add(*number, 0, Event::Started);
        }
        log
    }

    fn ended(&mut self, number: u8, at_ms: u64) {
        self.add(number, at_ms, created(spec(number, Priority::Default)));
        self.add(number, at_ms, Event::Ended(Outcome::Canceled));
    }
}

fn same(one: &Table, other: &Table) -> bool {
    one.in_order().eq(other.in_order()) && one.unacknowledged_lost == other.unacknowledged_lost
}

#[test]
fn replaying_everything_twice_changes_nothing() {
    let mut log = Log::queued(&[(1, Priority::Default), (2, Priority::Low)]);
    log.add(1, 5, Event::Ended(Outcome::Canceled));
    log.add(1, 6, Event::Forgotten);
    let mut twice = Table::default();
    for (fact, lsn) in log.facts.iter().chain(&log.facts[1..]) {
        // What a removed operation's creation brings back, its removal takes away again.
        let _ = twice.apply(fact.clone(), *lsn);
    }
    assert!(twice.in_order().eq(log.table.in_order()));
}

#[test]
fn a_snapshot_written_while_facts_went_on_gives_the_same_table() {
    let mut log = Log::queued(&[(1, Priority::Default), (2, Priority::High), (3, Priority::Low)]);
    let begin = log.facts.len();
    let mut snapshot: Vec<(u64, Operation)> = Vec::new();
    let shot = |log: &Log, number: u8, snapshot: &mut Vec<(u64, Operation)>| {
        let mut bytes = Vec::new();
        log.table.encode(id(number), &mut bytes);
        let Ok(crate::operation::Entry::Operation { as_of, operation }) = decode(&bytes) else {
            panic!("it is there");
        };
        snapshot.push((as_of, *operation));
    };
    shot(&log, 1, &mut snapshot);
    log.add(1, 5, Event::Claimed { attempts: 1 });
    log.add(2, 5, Event::Claimed { attempts: 1 });
    shot(&log, 2, &mut snapshot);
    log.add(2, 6, Event::Released);
    log.add(3, 6, Event::Ended(Outcome::Canceled));
    log.add(3, 7, Event::Removed);
    log.add(4, 8, created(spec(4, Priority::Default)));
    let mut replayed = Table::default();
    for (as_of, operation) in snapshot {
        replayed.restore(operation, as_of);
    }
    for (fact, lsn) in &log.facts[begin..] {
        replayed
            .apply(fact.clone(), *lsn)
            .unwrap_or_else(|rejected| panic!("{rejected}"));
    }
    assert!(same(&replayed, &log.table));
}

#[test]
fn one_live_operation_has_a_destination_and_an_ended_one_has_it_no_more() {
    let mut log = Log::queued(&[(1, Priority::Default)]);
    let holder = |log: &Log| {
        log.table
            .live_for_destination(Path::new("/data/1"))
            .map(|operation| operation.id)
    };
    assert_eq!(holder(&log), Some(id(1)));
    assert!(log.table.live_for_url("app", "http://host/1").next().is_some());
    assert!(log.table.live_for_url("other", "http://host/1").next().is_none());
    log.add(1, 1, Event::Ended(Outcome::Canceled));
    assert_eq!(holder(&log), None);
}

#[test]
fn the_history_drops_the_oldest_acknowledged_ends_and_counts_the_others_that_go() {
    let mut log = Log::new();
    for number in 0..6 {
        log.ended(number, u64::from(number) * 100);
    }
    for number in 0..3 {
        log.add(number, 1_000, Event::Acknowledged);
    }
    let retention = |acknowledged_max, unacknowledged_max, acknowledged_for| Retention {
        acknowledged_max,
        acknowledged_for,
        unacknowledged_max,
    };
    let day = Duration::from_secs(86_400);
    assert!(log.table.expired(1_000, &retention(3, 3, day), 9).is_empty());
    assert_eq!(
        log.table.expired(1_000, &retention(1, 2, day), 9),
        [id(0), id(1), id(3)]
    );
    assert_eq!(log.table.expired(1_000, &retention(1, 2, day), 2), [id(0), id(1)]);
    assert_eq!(
        log.table
            .expired(1_000, &retention(3, 3, Duration::from_millis(850)), 9),
        [id(0), id(1)]
    );
    log.add(3, 1_001, Event::Forgotten);
    log.add(0, 1_001, Event::Forgotten);
    assert_eq!(log.table.unacknowledged_lost(), 1);
}

/// What is done one after the other while every attempt goes on; afterwards none has begun.
fn starts(table: &mut Table, jobs_max: usize, running: usize, now: Now) -> Vec<u8> {
    let mut ids = Vec::new();
    let mut started = Vec::new();
    loop {
        let running = running + started.len();
        let actions = plan(
            table,
            now,
            Slots {
                jobs_max,
                running,
                commands: 0,
            },
        )
        .actions;
        let Some(Action::Start(next)) = actions.last().copied() else {
            ids.extend(actions);
            break;
        };
        ids.push(Action::Start(next));
        table.set_busy(next, true);
        table.set_running(next, true);
        started.push(next);
    }
    for id in started {
        table.set_running(id, false);
        table.set_busy(id, false);
    }
    let numbers = ids.into_iter().map(|action| match action {
        Action::Start(id) | Action::Sweep(id) | Action::Finish(id) => id.0[0],
        Action::Run(id) => id.0[0],
    });
    numbers.collect()
}

#[test]
fn free_slots_go_by_priority_and_then_by_age() {
    let mut log = Log::queued(&[
        (1, Priority::Low),
        (2, Priority::Default),
        (3, Priority::High),
        (4, Priority::Default),
    ]);
    assert_eq!(starts(&mut log.table, 10, 0, NOW), [3, 2, 4, 1]);
    assert_eq!(starts(&mut log.table, 3, 1, NOW), [3, 2]);
    assert_eq!(starts(&mut log.table, 3, 3, NOW), Vec::<u8>::new());
}

#[test]
fn a_wait_ends_at_its_moment_and_the_plan_says_when_to_look() {
    let mut log = Log::queued(&[(1, Priority::Default), (2, Priority::Default)]);
    log.add(1, 0, Event::Claimed { attempts: 1 });
    let error = Shared::new(OperationError {
        status: 0,
        code: None,
        message: String::new(),
    });
    let probe_at = Deadline::after(NOW, 500);
    log.add(
        1,
        0,
        Event::Blocked {
            condition: Condition::NoNetwork,
            probe_at,
            error,
            room_bytes: None,
            try_at: probe_at,
        },
    );
    let first = plan(
        &mut log.table,
        NOW,
        Slots {
            jobs_max: 4,
            running: 0,
            commands: 0,
        },
    );
    assert_eq!(
        (first.actions, first.wake_at_ms),
        (vec![Action::Start(id(2))], Some(1_500))
    );
    let later = Now { boot_ms: 1_500, ..NOW };
    assert_eq!(
        starts(&mut log.table, 4, 0, later),
        [1, 2],
        "it was started before the one that never ran"
    );
    log.table.postpone(id(1), later, Duration::from_secs(5));
    assert_eq!(starts(&mut log.table, 4, 0, later), [2]);
}

#[test]
fn what_is_busy_or_not_among_the_chosen_is_left_alone() {
    let mut log = Log::queued(&[(1, Priority::Default), (2, Priority::Default), (3, Priority::Default)]);
    log.table.set_busy(id(1), true);
    assert_eq!(starts(&mut log.table, 4, 1, NOW), [2, 3]);
    log.table.restrict_to(Some([id(1), id(3)].into_iter().collect()));
    assert_eq!(starts(&mut log.table, 4, 1, NOW), [3]);
    log.table.restrict_to(None);
    assert_eq!(starts(&mut log.table, 4, 1, NOW), [2, 3]);
}

#[test]
fn an_end_is_swept_without_a_slot_once_no_worker_holds_it() {
    let mut log = Log::queued(&[(1, Priority::Default)]);
    log.table.set_busy(id(1), true);
    log.add(1, 0, Event::Ending(Outcome::Canceled));
    assert!(starts(&mut log.table, 0, 0, NOW).is_empty());
    log.table.set_busy(id(1), false);
    assert_eq!(starts(&mut log.table, 0, 0, NOW), [1]);
    assert!(!log.table.is_idle());
}

#[test]
fn a_batch_counts_from_its_commit_on_and_never_without() {
    let (one, other) = (BatchId([1; 16]), BatchId([2; 16]));
    let mut table = Table::default();
    for (number, batch, lsn) in [(1, one, 1), (2, one, 2), (3, other, 3)] {
        let event = Event::Created {
            spec: Shared::new(spec(number, Priority::Default)),
            started: true,
            batch: Some(batch),
        };
        let fact = Fact {
            id: id(number),
            at_ms: 0,
            event,
        };
        table.apply(fact, lsn).unwrap_or_else(|rejected| panic!("{rejected}"));
    }
    assert!(starts(&mut table, 9, 0, NOW).is_empty());
    table.commit(one);
    assert_eq!(starts(&mut table, 9, 0, NOW), [1, 2]);
    table.reopened(NOW);
    assert_eq!((table.len(), table.find(id(3)).is_some()), (2, false));
}

/// Of two hosts and apps, of all priorities, some on hold; those from `grouped` on in a group.
fn list(batch: Option<BatchId>, grouped: u8) -> Table {
    let mut table = Table::default();
    for number in 0..40 {
        let priorities = [Priority::Low, Priority::Default, Priority::High];
        let spec = Spec {
            url: format!("http://host{}/{number}", number / 4 % 2),
            app: format!("app{}", number / 8 % 2),
            group: (number >= grouped).then(|| "group".into()),
            ..spec(number, priorities[usize::from(number / 10 % 3)])
        };
        let event = Event::Created {
            spec: Shared::new(spec),
            started: number % 5 != 2,
            batch,
        };
        let fact = Fact {
            id: id(number),
            at_ms: 0,
            event,
        };
        let applied = table.apply(fact, 1 + u64::from(number));
        applied.unwrap_or_else(|rejected| panic!("{rejected}"));
    }
    table
}

#[test]
fn a_batch_is_queued_as_if_each_of_it_had_been_created_alone() {
    let batch = BatchId([1; 16]);
    for grouped in [30, 40] {
        let (mut alone, mut together) = (list(None, grouped), list(Some(batch), grouped));
        assert!(together.ranked().is_empty());
        together.commit(batch);
        assert_eq!(together.ranked(), alone.ranked());
        assert_eq!(starts(&mut together, 40, 0, NOW), starts(&mut alone, 40, 0, NOW));
        let live = |table: &Table| table.groups.live("app1", "group");
        assert_eq!(live(&together), live(&alone));
    }
}

#[test]
fn of_a_batch_that_counts_while_some_are_chosen_only_those_are_scheduled() {
    let batch = BatchId([1; 16]);
    let mut table = list(Some(batch), 40);
    table.restrict_to(Some([id(3), id(4), id(7)].into_iter().collect()));
    table.commit(batch);
    assert_eq!(
        table.ranked().len(),
        2,
        "one of them is on hold, and the others are not chosen"
    );
    table.restrict_to(None);
    assert_eq!(table.ranked(), list(None, 40).ranked());
}

#[test]
fn what_does_not_count_yet_stands_in_the_way_of_nothing() {
    let batch = BatchId([1; 16]);
    let mut table = list(Some(batch), 40);
    let (destination, url) = (Path::new("/data/9"), "http://host0/9");
    let found = |table: &Table| {
        let by_url = table.live_for_url("app1", url).map(|found| found.id);
        (
            table.live_for_destination(destination).map(|found| found.id),
            by_url.collect::<Vec<_>>(),
        )
    };
    assert_eq!(found(&table), (None, vec![]));
    let other = Fact {
        id: id(99),
        at_ms: 0,
        event: created(spec(99, Priority::Default)),
    };
    assert_eq!(table.apply(other, 99), Ok(()));
    assert_eq!(found(&table), (None, vec![]), "whatever else is live");
    table.commit(batch);
    assert_eq!(found(&table), (Some(id(9)), vec![id(9)]));
}

#[test]
fn a_later_fact_proves_a_commit_whose_record_was_lost() {
    let mut table = Table::default();
    for (number, lsn) in [(1, 1), (2, 2)] {
        let event = Event::Created {
            spec: Shared::new(spec(number, Priority::Default)),
            started: true,
            batch: Some(BatchId([1; 16])),
        };
        let fact = Fact {
            id: id(number),
            at_ms: 0,
            event,
        };
        table.apply(fact, lsn).unwrap_or_else(|rejected| panic!("{rejected}"));
    }
    let claimed = Fact {
        id: id(1),
        at_ms: 0,
        event: Event::Claimed { attempts: 1 },
    };
    table.apply(claimed, 9).unwrap_or_else(|rejected| panic!("{rejected}"));
    table.reopened(NOW);
    assert_eq!(
        (table.len(), table.find(id(1)).map(|operation| operation.attempts)),
        (2, Some(1))
    );
}

#[test]
fn lost_records_put_every_operation_in_doubt_that_has_not_ended_and_nothing_later() {
    let mut log = Log::queued(&[(1, Priority::Default)]);
    log.ended(2, 0);
    let lsn = log.facts.len() as u64;
    log.table.gap(lsn, lsn + 5);
    log.table
        .apply(
            Fact {
                id: id(3),
                at_ms: 0,
                event: created(spec(3, Priority::Default)),
            },
            lsn + 5,
        )
        .unwrap_or_else(|rejected| panic!("{rejected}"));
    let doubt = |number| log.table.find(id(number)).and_then(|operation| operation.doubt);
    assert_eq!([doubt(1), doubt(2), doubt(3)], [Some(Doubt::Unseen), None, None]);
}

#[test]
fn what_a_snapshot_holds_of_later_than_the_lost_records_is_in_no_doubt() {
    let log = Log::queued(&[(1, Priority::Default)]);
    let operation = log
        .table
        .find(id(1))
        .map_or_else(|| panic!("it was added"), Cow::into_owned);
    for (as_of, in_doubt) in [(10, true), (14, true), (15, false)] {
        let mut table = Table::default();
        table.restore(operation.clone(), as_of);
        table.gap(10, 15);
        assert_eq!((table.in_doubt() == 1), in_doubt, "{as_of}");
    }
}

#[test]
fn a_list_whose_commit_may_be_lost_counts_but_for_destinations_that_another_has_taken() {
    let batch = Some(BatchId([9; 16]));
    let created = |number: u8, destination: u8, batch| Fact {
        id: id(number),
        at_ms: 0,
        event: Event::Created {
            spec: Shared::new(Spec {
                destination: PathBuf::from(format!("/data/{destination}")),
                ..spec(number, Priority::Default)
            }),
            started: true,
            batch,
        },
    };
    // The one that is taken is the last of the list, or the first.
    for (taken, kept) in [(2, 1), (1, 2)] {
        let mut table = Table::default();
        for (lsn, fact) in (1..).zip([created(1, 1, batch), created(2, 2, batch), created(3, taken, None)]) {
            table.apply(fact, lsn).unwrap_or_else(|rejected| panic!("{rejected}"));
        }
        table.gap(4, 5);
        table.reopened(NOW);
        let mut ids = table.ids();
        ids.sort_unstable();
        assert_eq!(ids, [id(kept), id(3)]);
    }
}

#[test]
fn a_change_moves_an_operation_to_its_new_url_and_rank() {
    let mut table = Table::default();
    let facts = [
        created(spec(1, Priority::Default)),
        Event::Started,
        Event::Amended(Amendment::Made {
            spec: Shared::new(Spec {
                url: "http://host/moved".into(),
                ..spec(1, Priority::Low)
            }),
            sealed_revision: 0,
        }),
    ];
    let apply = |table: &mut Table, number, lsn, event| {
        let fact = Fact {
            id: id(number),
            at_ms: 0,
            event,
        };
        table.apply(fact, lsn).unwrap_or_else(|rejected| panic!("{rejected}"));
    };
    for (lsn, event) in (1..).zip(facts) {
        apply(&mut table, 1, lsn, event);
    }
    apply(&mut table, 2, 4, created(spec(2, Priority::Default)));
    apply(&mut table, 2, 5, Event::Started);
    assert_eq!(table.ranked(), [id(2), id(1)]);
    assert_eq!(table.live_for_url("app", "http://host/1").count(), 0);
    assert_eq!(table.live_for_url("app", "http://host/moved").count(), 1);
    let error = Shared::new(OperationError {
        status: 403,
        code: Some(403),
        message: "no".into(),
    });
    for (number, lsn) in [(1, 6), (2, 8)] {
        apply(&mut table, number, lsn, Event::Claimed { attempts: 1 });
        apply(
            &mut table,
            number,
            lsn + 1,
            Event::Amended(Amendment::Needed(error.clone())),
        );
    }
    assert!(table.is_idle(), "nobody waits for an owner");
    assert_eq!(
        plan(
            &mut table,
            NOW,
            Slots {
                jobs_max: 9,
                running: 0,
                commands: 0,
            }
        ),
        crate::scheduler::Plan::default()
    );
}

#[test]
fn records_of_operations_whose_creation_was_lost_are_remembered_only_where_records_were_lost() {
    let mut table = Table::default();
    let fact = Fact {
        id: id(7),
        at_ms: 0,
        event: Event::Started,
    };
    assert_eq!(table.apply(fact, 5), Ok(()));
    assert!(!table.is_stranger(id(7)) && !table.is_salvaged());
    table.gap(6, 7);
    assert!(table.is_stranger(id(7)) && table.is_salvaged() && !table.is_stranger(id(8)));
}

#[test]
fn a_fact_from_before_an_operation_neither_changes_it_nor_commits_its_batch() {
    let mut table = Table::default();
    let batch = Some(BatchId([1; 16]));
    let event = Event::Created {
        spec: Shared::new(spec(1, Priority::Default)),
        started: false,
        batch,
    };
    let fact = |event| Fact {
        id: id(1),
        at_ms: 5,
        event,
    };
    assert_eq!(table.apply(fact(event), 7), Ok(()));
    let before = table.find(id(1)).map(Cow::into_owned);
    assert_eq!(table.apply(fact(Event::Started), 6), Ok(()));
    assert_eq!(table.find(id(1)).map(Cow::into_owned), before);
    table.reopened(NOW);
    assert_eq!(table.len(), 0, "it was never accepted");
}

/// Operations of three apps, in groups and in none, created in this order; each is started, so that not all changed last
/// in the order of their creation.
fn grouped(count: u64) -> Table {
    let mut table = Table::default();
    for number in 0..count {
        let group = [None, Some("a"), Some("b")][usize::try_from(number / 3 % 3).unwrap_or(0)];
        let spec = Spec {
            app: format!("app {}", number % 3),
            group: group.map(str::to_owned),
            ..spec(u8::try_from(number % 251).unwrap_or(0), Priority::Default)
        };
        apply(&mut table, number, number, created(spec));
    }
    for number in (0..count).filter(|number| number % 4 == 0) {
        apply(&mut table, number, count + number, Event::Started);
    }
    table
}

fn apply(table: &mut Table, number: u64, lsn: u64, event: Event) {
    let id = wide(number);
    let fact = Fact { id, at_ms: 0, event };
    table.apply(fact, lsn).unwrap_or_else(|rejected| panic!("{rejected}"));
}

fn wide(number: u64) -> TransferId {
    // Ids that do not come in the order of creation.
    TransferId(u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes())
}

fn filters() -> Vec<Filter> {
    let apps = [None, Some("app 0"), Some("app 2"), Some("nobody")];
    let groups = [
        GroupFilter::Any,
        GroupFilter::Ungrouped,
        GroupFilter::Named("b".into()),
        GroupFilter::Named("none".into()),
    ];
    let pairs = apps.iter().flat_map(|app| groups.iter().map(move |group| (app, group)));
    pairs
        .map(|(app, group)| Filter {
            app: app.map(str::to_owned),
            group: group.clone(),
        })
        .collect()
}

fn means(filter: &Filter, operation: &Operation) -> bool {
    filter.has(&operation.spec.app, operation.spec.group.as_deref())
}

#[test]
fn pages_hold_what_the_filter_means_once_and_in_the_order_of_creation() {
    let mut table = grouped(200);
    for number in [3, 20, 21, 199] {
        apply(&mut table, number, 1_000, Event::Ended(Outcome::Canceled));
        apply(&mut table, number, 1_001, Event::Removed);
    }
    let mut meant = 0;
    for filter in filters() {
        let all = table.in_order().filter(|operation| means(&filter, operation));
        let expected: Vec<TransferId> = all.map(|operation| operation.id).collect();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page: Vec<(u64, TransferId)> = table
                .rows()
                .list(&filter, after)
                .take(7)
                .map(|operation| (operation.order, operation.id))
                .collect();
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            found.extend(page.into_iter().map(|(_, id)| id));
            assert!(found.len() <= table.len(), "{filter:?} comes again");
        }
        assert_eq!(found, expected, "{filter:?}");
        meant += found.len();
    }
    assert!(meant > 500, "{meant}");
}

#[test]
fn a_page_unpacks_no_more_than_it_shows_however_much_others_have_queued() {
    let table = grouped(3_000);
    for filter in filters() {
        for after in [None, Some(1_500), Some(u64::MAX)] {
            let before = OPENED.get();
            let shown = table.rows().list(&filter, after).take(10).count();
            assert_eq!(OPENED.get() - before, shown, "{filter:?} after {after:?}");
        }
    }
}

#[test]
fn whoever_goes_from_cursor_to_cursor_misses_no_change() {
    let table = grouped(200);
    for (filter, looks_max) in filters()
        .into_iter()
        .flat_map(|filter| [(filter.clone(), 3), (filter, 1_000)])
    {
        let all = table.in_order().filter(|operation| means(&filter, operation));
        let mut expected: Vec<TransferId> = all.map(|operation| operation.id).collect();
        let (mut found, mut cursor) = (Vec::new(), 0);
        loop {
            let (changed, next) = table.rows().changed(&filter, cursor, 7, looks_max);
            assert!(changed.len() <= 7);
            found.extend(changed.iter().map(|operation| operation.id));
            assert!(found.len() <= table.len(), "{filter:?} comes again");
            if next == cursor {
                break;
            }
            cursor = next;
        }
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{filter:?}");
    }
    let (since, next) = table.rows().changed(&Filter::default(), 200 + 192, 7, 1_000);
    let since: Vec<TransferId> = since.iter().map(|operation| operation.id).collect();
    assert_eq!((since, next), (vec![wide(192), wide(196)], 200 + 196 + 1));
}

#[test]
fn what_one_record_changed_in_an_old_snapshot_stands_on_one_page() {
    let mut table = Table::default();
    for number in 0..20_u8 {
        let spec = Shared::new(spec(number, Priority::Default));
        table.restore(
            Operation::created(id(number), spec, number.into(), 0),
            50 + u64::from(number / 10),
        );
    }
    let (changed, next) = table.rows().changed(&Filter::default(), 0, 3, 1_000);
    assert_eq!((changed.len(), next), (10, 50));
    let (changed, next) = table.rows().changed(&Filter::default(), next, 3, 1_000);
    assert_eq!((changed.len(), next), (10, 51));
}

#[test]
fn two_operations_that_a_snapshot_gives_one_position_get_two() {
    let mut table = Table::default();
    for number in [1, 2, 3] {
        let spec = Shared::new(spec(number, Priority::Default));
        table.restore(Operation::created(id(number), spec, 5, 0), 9);
    }
    let orders: Vec<u64> = table.in_order().map(|operation| operation.order).collect();
    assert_eq!(orders, [5, 6, 7]);
    assert_eq!(table.rows().list(&Filter::default(), Some(5)).count(), 2);
}

#[test]
fn a_snapshot_takes_what_is_packed_as_it_is() {
    let log = Log::queued(&[(1, Priority::Default), (2, Priority::High)]);
    let (before, mut bytes) = (OPENED.get(), Vec::new());
    log.table.encode(id(2), &mut bytes);
    assert_eq!(OPENED.get(), before, "nothing was unpacked");
    let Ok(crate::operation::Entry::Operation { operation, .. }) = decode(&bytes) else {
        panic!("it is an operation");
    };
    assert_eq!(log.table.find(id(2)).as_deref(), Some(&*operation));
}

#[test]
fn an_operation_is_open_only_while_a_worker_holds_it() {
    let mut log = Log::queued(&[(1, Priority::Default)]);
    let opens = |log: &Log| {
        let before = OPENED.get();
        assert!(log.table.find(id(1)).is_some());
        OPENED.get() - before
    };
    assert_eq!(opens(&log), 1);
    log.table.set_busy(id(1), true);
    log.add(1, 0, Event::Claimed { attempts: 1 });
    assert_eq!(opens(&log), 0);
    log.add(1, 0, Event::Released);
    log.table.set_busy(id(1), false);
    assert_eq!(opens(&log), 1);
    assert_eq!(log.table.find(id(1)).map(|operation| operation.attempts), Some(1));
}

#[test]
fn an_end_stays_open_until_so_many_others_have_come_that_it_is_hardly_asked_for() {
    for (limit, others) in [(usize::MAX, 128), (8, 8), (0, 0)] {
        let mut log = Log::new();
        log.table.limit_lingering(limit);
        for number in 0..=others {
            log.add(number, 0, created(spec(number, Priority::Default)));
            log.table.set_busy(id(number), true);
            log.add(number, 0, Event::Ended(Outcome::Canceled));
            log.table.set_busy(id(number), false);
        }
        let before = OPENED.get();
        for number in 1..=others {
            log.add(number, 1, Event::Acknowledged);
        }
        assert_eq!(OPENED.get(), before, "{limit}");
        log.add(0, 1, Event::Acknowledged);
        assert_eq!(OPENED.get() - before, 1, "{limit}");
    }
}

#[test]
fn what_is_acknowledged_stays_open_only_while_somebody_works_on_it() {
    let mut log = Log::new();
    for (number, is_first_let_go) in [(1, true), (2, false)] {
        log.add(number, 0, created(spec(number, Priority::Default)));
        log.table.set_busy(id(number), true);
        log.add(number, 0, Event::Ended(Outcome::Canceled));
        if is_first_let_go {
            log.table.set_busy(id(number), false);
        }
        assert_eq!(log.table.rows.open_count(), 1);
        let step = log.table.step(id(number), Event::Acknowledged, 1);
        log.table.take_step(step.expect("it has ended"), 1_000);
        assert_eq!(log.table.rows.open_count(), usize::from(!is_first_let_go));
        log.table.set_busy(id(number), false);
        assert_eq!(log.table.rows.open_count(), 0);
        let known = log.table.find(id(number));
        assert!(known.is_some_and(|one| one.acknowledged_at_ms.is_some()));
    }
}

#[test]
fn the_start_of_an_engine_unpacks_only_what_it_changes() {
    let mut table = grouped(100);
    for number in [4, 8] {
        apply(&mut table, number, 1_000, Event::Claimed { attempts: 3 });
    }
    let before = OPENED.get();
    table.reopened(NOW);
    assert_eq!(OPENED.get() - before, 2);
    let phase = |number| table.find(wide(number)).map(|operation| operation.phase.clone());
    assert_eq!([phase(4), phase(8)], [Some(Phase::Ready), Some(Phase::Ready)]);
}

/// One as created at a position.
fn created_at(order: u64) -> Operation {
    let id = TransferId((u128::from(order) << 64).to_be_bytes());
    Operation::created(id, Shared::new(spec(1, Priority::Default)), order, 77)
}

/// Every third position is that of an operation, and something happened later to two of three of these; with the changes in
/// their order. Some were in hand meanwhile, and some of these still are.
fn rows_that_have_changed() -> (Rows, Vec<(u64, u64)>) {
    const END: u64 = 900;
    let (mut rows, mut expected) = (Rows::default(), Vec::new());
    for order in (3..END).step_by(3) {
        rows.put(created_at(order), order + 1, false);
        let as_of = match order / 3 % 3 {
            0 => order + 1,
            1 => order + 3,
            _ => END + order,
        };
        let (id, hand) = (created_at(order).id, order / 9 % 3);
        if hand > 0 {
            rows.set_open(id, true);
        }
        if as_of != order + 1 {
            rows.replace(created_at(order), as_of, false);
        }
        if hand > 1 {
            rows.set_open(id, false);
        }
        expected.push((as_of, order));
    }
    expected.sort_unstable();
    (rows, expected)
}

#[test]
fn pages_of_what_has_changed_hold_each_once_in_the_order_of_changes_whether_it_is_as_created_in_hand_or_neither() {
    let (mut rows, expected) = rows_that_have_changed();
    for (max, looks_max) in [(1, 7), (7, 7), (1_000, 1), (1_000, 1_000)] {
        let (mut found, mut cursor) = (Vec::new(), 0);
        loop {
            let (page, next) = rows.changed(&Filter::default(), cursor, max, looks_max);
            assert!(page.len() <= max.min(looks_max));
            found.extend(page.iter().map(|one| one.order));
            if next == cursor {
                break;
            }
            cursor = next;
        }
        assert!(found.iter().eq(expected.iter().map(|(_, order)| order)));
    }
    // Also those that are walked past, because they come later, are looked at: the first call ends at the first of all.
    let (first, looked_up_to) = rows.changed(&Filter::default(), 0, 1_000, 1);
    assert_eq!((first.len(), looked_up_to), (0, 4));
    for (as_of, order) in expected {
        assert_eq!(rows.as_of(created_at(order).id), Some(as_of));
        rows.remove(&created_at(order));
    }
    let (page, next) = rows.changed(&Filter::default(), 0, 1, 1);
    assert!(page.is_empty() && next == 0 && rows.len() == 0);
}

#[path = "table_model_tests.rs"]
mod model;
