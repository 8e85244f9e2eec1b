//! Who starts when: turns, limits and fairness, against a scheduler that looks at everything; what a decision costs; and
//! every reason against the one thing that ends it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::*;
use crate::operation::{
    Amendment, Collision, Condition, CostPolicy, Deadline, Event, Fact, Group, GroupFact, Intent, Kind, Lack,
    Operation, OperationError, Outcome, Phase, Priority, Reason, Round, Shared, Spec, TransferBehavior, WaitReason,
    Wish,
};
use crate::queue::TURN;

const NOW: Now = Now {
    boot_ms: 1_000,
    wall_ms: 50_000,
    boot_id: [1; 16],
};

fn id(number: u64) -> TransferId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    TransferId(bytes)
}

/// Who asks, where, how urgently.
type Asked<'a> = (&'a str, &'a str, Priority);

fn spec(number: u64, (app, host, priority): Asked<'_>) -> Spec {
    Spec {
        kind: Kind::Download,
        url: format!("http://{host}/{number}"),
        destination: PathBuf::from(format!("/data/{number}")),
        app: app.into(),
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
        random_access: false,
        mirrors: vec![format!("http://mirror:8080/{number}")],
        cost_policy: CostPolicy::Default,
        proxy: None,
        method: backhaul_backends::Method::GET,
        body: None,
        completion_group: None,
    }
}

/// A table with the attempts that run, and the time.
struct World {
    table: Table,
    lsn: u64,
    now: Now,
    running: Vec<TransferId>,
    jobs_max: usize,
}

impl World {
    fn new(jobs_max: usize, per_host_max: usize) -> Self {
        let mut table = Table::default();
        table.limit_hosts(NonZeroUsize::new(per_host_max));
        Self {
            table,
            lsn: 0,
            now: NOW,
            running: Vec::new(),
            jobs_max,
        }
    }

    fn apply(&mut self, id: TransferId, event: Event) -> bool {
        self.lsn += 1;
        let at_ms = self.now.wall_ms;
        self.table.apply(Fact { id, at_ms, event }, self.lsn).is_ok()
    }

    fn must(&mut self, id: TransferId, event: Event) {
        assert!(self.apply(id, event), "the event fits");
    }

    fn create(&mut self, number: u64, asked: Asked<'_>, started: bool) {
        self.create_spec(number, spec(number, asked), started);
    }

    fn create_in(&mut self, group: &str, number: u64, asked: Asked<'_>) {
        let spec = Spec {
            group: Some(group.into()),
            ..spec(number, asked)
        };
        self.create_spec(number, spec, true);
    }

    fn create_spec(&mut self, number: u64, spec: Spec, started: bool) {
        let spec = Shared::new(spec);
        self.must(
            id(number),
            Event::Created {
                spec,
                started,
                batch: None,
            },
        );
    }

    /// A group of app "app".
    fn set_group(&mut self, name: &str, behavior: TransferBehavior) {
        self.lsn += 1;
        let group = Group {
            app: "app".into(),
            name: name.into(),
            behavior,
        };
        self.table.apply_group(GroupFact::Set(group), self.lsn);
    }

    fn make_current(&mut self, number: u64) {
        let operation = self.table.find(id(number)).expect("it is there").into_owned();
        for id in self.table.rotation(&operation) {
            self.must(id, Event::Promoted);
        }
    }

    fn plan(&mut self) -> Plan {
        let slots = Slots {
            jobs_max: self.jobs_max,
            running: self.running.len(),
            commands: 0,
        };
        plan(&mut self.table, self.now, slots)
    }

    fn next(&mut self) -> Option<TransferId> {
        match self.plan().actions.last() {
            Some(Action::Start(id)) => Some(*id),
            _ => None,
        }
    }

    fn start(&mut self, id: TransferId) {
        let attempts = self.table.find(id).map_or(0, |operation| operation.attempts) + 1;
        self.table.set_busy(id, true);
        self.must(id, Event::Claimed { attempts });
        self.table.set_running(id, true);
        self.running.push(id);
    }

    /// The attempt is over, and its worker has let go.
    fn end(&mut self, id: TransferId, event: Event) {
        self.must(id, event);
        self.free(id);
        self.table.set_busy(id, false);
    }

    fn free(&mut self, id: TransferId) {
        self.table.set_running(id, false);
        self.running.retain(|running| *running != id);
    }

    /// Starts one after the other, each of which ends before the next, until nothing waits; gives their numbers.
    fn one_by_one(&mut self, count: usize) -> Vec<u64> {
        let numbers = std::iter::from_fn(|| {
            let id = self.next()?;
            self.start(id);
            self.end(id, Event::Ended(Outcome::Canceled));
            Some(number(id))
        });
        numbers.take(count).collect()
    }

    fn reason(&self, id: TransferId) -> Option<Reason> {
        let operation = self.table.find(id)?;
        operation.reason(self.table.lack(&operation))
    }
}

fn number(id: TransferId) -> u64 {
    u64::from_be_bytes(id.0[8..].try_into().unwrap_or_default())
}

fn error(status: i32) -> Shared<OperationError> {
    Shared::new(OperationError {
        status,
        code: None,
        message: String::new(),
    })
}

fn waited(until: Deadline, reason: WaitReason, round: Option<Round>) -> Event {
    Event::Waited {
        until,
        reason,
        failures_in_row: 1,
        error: error(0),
        round,
    }
}

#[test]
fn what_has_the_lowest_rank_starts_at_the_eighth_turn_however_many_come_before_it() {
    let mut world = World::new(1, 0);
    world.create(0, ("app", "h", Priority::Low), true);
    for number in 1..=50 {
        world.create(number, ("app", "h", Priority::High), true);
    }
    let order = world.one_by_one(20);
    assert_eq!(order[..7], [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(order[7], 0, "the oldest has its turn");
    assert_eq!(order[8..11], [8, 9, 10]);
}

#[test]
fn the_count_of_turns_goes_on_after_a_restart() {
    let mut world = World::new(1, 0);
    world.create(0, ("app", "h", Priority::Low), true);
    for number in 1..=50 {
        world.create(number, ("app", "h", Priority::High), true);
    }
    // Each engine lives for three starts, which is less than a turn.
    let mut order = Vec::new();
    for _ in 0..3 {
        order.extend(world.one_by_one(3));
        let mut table = Table::default();
        for operation in world.table.in_order() {
            table.restore(operation.into_owned(), world.lsn);
        }
        table.reopened(world.now);
        world.table = table;
    }
    assert_eq!(order, [1, 2, 3, 4, 5, 6, 7, 0, 8]);
}

#[test]
fn apps_take_turns_however_much_one_of_them_has_queued() {
    let mut world = World::new(4, 0);
    for number in 0..100 {
        world.create(number, ("many", "h", Priority::Default), true);
    }
    world.create(100, ("few", "h", Priority::Default), true);
    world.create(101, ("few", "h", Priority::Default), true);
    let mut order = Vec::new();
    while let Some(id) = world.next() {
        world.start(id);
        order.push(number(id));
    }
    assert_eq!(order, [0, 100, 1, 101], "the one with the fewest running is next");
    world.create(102, ("few", "h", Priority::Default), true);
    world.create(103, ("new", "h", Priority::Default), true);
    world.end(id(0), Event::Ended(Outcome::Canceled));
    assert_eq!(world.next(), Some(id(103)));
}

#[test]
fn an_app_that_asks_for_one_after_the_other_does_not_keep_another_from_its_turn() {
    let mut world = World::new(1, 0);
    for number in 0..10 {
        world.create(number, ("many", "h", Priority::Default), true);
    }
    let mut order = Vec::new();
    for number in 100..104 {
        world.create(number, ("one", "h", Priority::Default), true);
        order.extend(world.one_by_one(2));
    }
    assert_eq!(order, [0, 100, 1, 101, 2, 102, 3, 103]);
}

#[test]
fn a_host_at_its_limit_keeps_nobody_else_waiting_and_a_free_slot_of_it_goes_to_the_next() {
    let mut world = World::new(9, 2);
    for number in 0..5 {
        world.create(number, ("app", "slow", Priority::High), true);
    }
    world.create(5, ("app", "other", Priority::Low), true);
    for _ in 0..3 {
        let id = world.next().expect("somebody may start");
        world.start(id);
    }
    assert_eq!(world.running, [id(0), id(1), id(5)]);
    assert_eq!(world.next(), None);
    // It goes on at its mirror, and gives its place at the first host to another.
    let round = Round {
        next: 1,
        ..Round::default()
    };
    world.end(
        id(0),
        waited(Deadline::after(world.now, 0), WaitReason::BackOff, Some(round)),
    );
    assert_eq!(world.next(), Some(id(0)), "its mirror is another host");
    world.start(id(0));
    assert_eq!(world.next(), Some(id(2)));
}

// ---- cost ----

/// What a decision costs, with the start that follows and the end of that attempt, where `count` others are queued.
fn cost_among(count: u64, prepare: impl Fn(&mut World, u64)) -> u64 {
    let mut world = World::new(8, 2);
    prepare(&mut world, count);
    let mut cost = 0;
    for number in 0..3 * TURN {
        world.create(1_000_000 + number, ("small", "free", Priority::Low), true);
        // The first ones may meet waits that have just ended; each of them is charged to its own end.
        let is_due = |moment: u64, world: &World| moment <= world.now.boot_ms;
        while world.plan().wake_at_ms.is_some_and(|moment| is_due(moment, &world)) {}
        let looks = world.table.looks();
        let id = world.next().expect("one may start");
        world.start(id);
        world.end(id, Event::Released);
        cost += world.table.looks() - looks;
        world.must(id, Event::Ended(Outcome::Canceled));
    }
    cost
}

fn assert_cost_is_the_same(name: &str, prepare: impl Fn(&mut World, u64)) {
    let costs = [100, 100_000].map(|count| cost_among(count, &prepare));
    assert_eq!(costs[0], costs[1], "{name}: 100 and 100,000 queued");
    assert!(costs[0] / (3 * TURN) < 200, "{name}: {costs:?}");
}

#[test]
fn a_decision_among_a_hundred_thousand_costs_no_more_than_one_among_a_hundred() {
    assert_cost_is_the_same("many of one host", |world, count| {
        for number in 0..count {
            world.create(number, ("big", "h", Priority::Default), true);
        }
    });
    assert_cost_is_the_same("the best are all of a host at its limit", |world, count| {
        for number in 0..count {
            world.create(number, ("big", "full", Priority::High), true);
        }
        for _ in 0..2 {
            let id = world.next().expect("the host has a slot");
            world.start(id);
        }
    });
    assert_cost_is_the_same("waits of a host at its limit that are over", |world, count| {
        world.create(0, ("big", "full", Priority::High), true);
        world.create(1, ("big", "full", Priority::High), true);
        for number in 2..count {
            world.create(number, ("big", "full", Priority::High), true);
            world.must(id(number), Event::Claimed { attempts: 1 });
            let until = Deadline::after(world.now, 5);
            world.must(id(number), waited(until, WaitReason::BackOff, None));
        }
        world.start(id(0));
        world.start(id(1));
        world.now.boot_ms += 10;
    });
    assert_cost_is_the_same(
        "a serialized group that waits for the end of one of it",
        |world, count| {
            world.set_group("group", TransferBehavior::Serialized);
            for number in 0..count {
                world.create_in("group", number, ("app", "h", Priority::High));
            }
            let id = world.next().expect("one of it may start");
            world.start(id);
        },
    );
    assert_cost_is_the_same("waits that are not over", |world, count| {
        for number in 0..count {
            world.create(number, ("big", "h", Priority::High), true);
            world.must(id(number), Event::Claimed { attempts: 1 });
            let until = Deadline::after(world.now, 5_000_000 + number);
            world.must(id(number), waited(until, WaitReason::BackOff, None));
        }
    });
}

/// What it costs that the turn of a serialized group of `count` goes from one to the next.
fn cost_of_turns_among(count: u64) -> u64 {
    let mut world = World::new(8, 0);
    world.set_group("group", TransferBehavior::Serialized);
    for number in 0..count {
        world.create_in("group", number, ("app", "h", Priority::Default));
    }
    let looks = world.table.looks();
    assert_eq!(world.one_by_one(50), (0..50).collect::<Vec<_>>());
    world.table.looks() - looks
}

#[test]
fn a_turn_in_a_group_of_a_hundred_thousand_costs_no_more_than_in_one_of_a_hundred() {
    let costs = [100, 100_000].map(cost_of_turns_among);
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0] / 50 < 500, "{costs:?}");
}

#[test]
fn a_burst_of_waits_that_are_over_is_shared_out_to_many_decisions_in_its_order() {
    let mut world = World::new(1, 0);
    for number in 0..1_000 {
        world.create(number, ("app", "h", Priority::Default), true);
        world.must(id(number), Event::Claimed { attempts: 1 });
        let until = Deadline::after(world.now, 2_000 - number);
        world.must(id(number), waited(until, WaitReason::BackOff, None));
    }
    world.now.boot_ms += 2_000;
    let looks = world.table.looks();
    assert_eq!(world.next(), Some(id(999)), "the moment that came first");
    assert!(world.table.looks() - looks < 64 * 60, "one decision moves a few");
    let order = world.one_by_one(1_000);
    assert_eq!(order, (0..1_000).rev().collect::<Vec<_>>());
}

// ---- transfer groups ----

#[test]
fn one_of_a_serialized_group_runs_at_a_time_whatever_its_priority_and_others_beside_it() {
    let mut world = World::new(4, 0);
    world.set_group("group", TransferBehavior::Serialized);
    world.create_in("group", 1, ("app", "h", Priority::Default));
    world.create_in("group", 2, ("app", "i", Priority::High));
    world.create_in("group", 3, ("app", "j", Priority::Low));
    world.create(4, ("app", "h", Priority::Low), true);
    assert_eq!(
        world.next(),
        Some(id(2)),
        "the order within the group is that of priorities"
    );
    world.start(id(2));
    assert_eq!(world.next(), Some(id(4)), "the group keeps nobody else waiting");
    world.start(id(4));
    assert_eq!(world.next(), None);
    assert_eq!(world.reason(id(1)), Some(Reason::SerializedGroup));
    world.end(id(2), Event::Ended(Outcome::Canceled));
    assert_eq!(world.next(), Some(id(1)));
    assert_eq!(world.reason(id(1)), Some(Reason::WaitingForSlot));
    assert_eq!(world.reason(id(3)), Some(Reason::SerializedGroup));
}

#[test]
fn the_turn_goes_on_only_when_publisher_and_worker_have_let_go() {
    let mut world = World::new(4, 0);
    world.set_group("group", TransferBehavior::Serialized);
    world.create_in("group", 1, ("app", "h", Priority::Default));
    world.create_in("group", 2, ("app", "h", Priority::Default));
    world.start(id(1));
    world.free(id(1));
    assert_eq!(world.next(), None, "its file has no name yet");
    world.must(id(1), Event::Ended(Outcome::Canceled));
    world.table.set_busy(id(1), false);
    assert_eq!(world.next(), Some(id(2)));
}

#[test]
fn one_of_a_serialized_group_that_waits_gives_its_turn_away_and_has_the_next_one() {
    let mut world = World::new(4, 0);
    world.set_group("group", TransferBehavior::Serialized);
    for number in 1..=3 {
        world.create_in("group", number, ("app", "h", Priority::Default));
    }
    world.start(id(1));
    let until = Deadline::after(world.now, 100);
    world.end(id(1), waited(until, WaitReason::BackOff, None));
    assert_eq!(world.next(), Some(id(2)));
    world.start(id(2));
    world.now.boot_ms += 100;
    assert_eq!(world.next(), None, "its wait is over, and the turn is another one's");
    assert_eq!(
        world.reason(id(1)),
        Some(Reason::BackOff),
        "as long as nobody looks at the clock for it"
    );
    world.end(id(2), Event::Released);
    assert_eq!(world.next(), Some(id(1)));
    world.must(id(1), Event::Paused);
    assert_eq!(world.next(), Some(id(2)), "one that is paused has no turn either");
}

#[test]
fn a_group_that_becomes_serialized_or_parallel_does_so_for_what_is_queued_and_what_runs() {
    let mut world = World::new(4, 0);
    for number in 1..=4 {
        world.create_in("group", number, ("app", "h", Priority::Default));
    }
    world.start(id(1));
    world.start(id(2));
    assert_eq!(world.next(), Some(id(3)));
    world.set_group("group", TransferBehavior::Serialized);
    assert_eq!(world.next(), None);
    world.end(id(1), Event::Ended(Outcome::Canceled));
    assert_eq!(world.next(), None, "one of them still runs");
    world.end(id(2), Event::Ended(Outcome::Canceled));
    assert_eq!(world.next(), Some(id(3)));
    world.start(id(3));
    assert_eq!(world.next(), None);
    world.set_group("group", TransferBehavior::Parallel);
    assert_eq!(world.next(), Some(id(4)));
}

#[test]
fn what_is_made_current_goes_first_with_all_behind_it_and_those_before_it_come_last() {
    for behavior in [TransferBehavior::Serialized, TransferBehavior::Parallel] {
        let order_after = |moves: &[u64], later: Option<Priority>| {
            let mut world = World::new(1, 0);
            world.set_group("group", behavior);
            for number in 1..=5 {
                world.create_in("group", number, ("app", "h", Priority::Default));
            }
            for number in moves {
                world.make_current(*number);
            }
            if let Some(priority) = later {
                world.create_in("group", 6, ("app", "h", priority));
            }
            // An eighth start is the turn of the oldest.
            world.one_by_one(6)
        };
        assert_eq!(order_after(&[3], None), [3, 4, 5, 1, 2], "{behavior:?}");
        assert_eq!(order_after(&[3, 1], None), [1, 2, 3, 4, 5], "{behavior:?}");
        assert_eq!(order_after(&[3, 5, 4], None), [4, 5, 1, 2, 3], "{behavior:?}");
        assert_eq!(order_after(&[1], None), [1, 2, 3, 4, 5], "the first stays where it is");
        let last = order_after(&[4], Some(Priority::Default));
        assert_eq!(last, [4, 5, 1, 2, 3, 6], "who comes new is the last");
    }
}

#[test]
fn what_is_made_current_goes_before_those_of_higher_priority_in_a_serialized_group() {
    let mut world = World::new(1, 0);
    world.set_group("group", TransferBehavior::Serialized);
    world.create_in("group", 1, ("app", "h", Priority::High));
    world.create_in("group", 2, ("app", "h", Priority::Default));
    world.create_in("group", 3, ("app", "h", Priority::Low));
    world.make_current(3);
    assert_eq!(world.one_by_one(3), [3, 1, 2]);
}

// ---- against a scheduler that looks at everything ----

#[derive(Default)]
struct Naive {
    starts: u64,
    /// Last start of each app that was ever seen.
    last: HashMap<String, u64>,
    running: HashMap<TransferId, (String, String)>,
    held: BTreeSet<TransferId>,
    only: Option<BTreeSet<TransferId>>,
    per_host_max: usize,
    /// Which of the groups are serialized, and who is at work in any.
    serialized: BTreeSet<String>,
    at_work: HashMap<TransferId, String>,
}

impl Naive {
    /// Whether others of its serialized group go before an operation that may start.
    fn is_behind(&self, all: &[Operation], operation: &Operation, now: Now) -> bool {
        let in_group = |other: &Operation| (other.spec.app.clone(), other.spec.group.clone());
        let Some(group) = operation
            .spec
            .group
            .as_ref()
            .filter(|group| self.serialized.contains(*group))
        else {
            return false;
        };
        if operation.spec.app != "app" {
            return false;
        }
        let place = |one: &Operation| {
            let rank = one.promoted.map_or(3 - one.spec.priority as u8, |_| 0);
            let order = one.promoted.map_or(i128::from(one.order), |lsn| -1 - i128::from(lsn));
            (rank, order, one.id)
        };
        let mut others = all.iter().filter(|one| in_group(one) == in_group(operation));
        self.at_work.values().any(|other| other == group)
            || others.any(|one| self.rank(one, now).is_some() && place(one) < place(operation))
    }

    /// Rank and moment of an operation that may start.
    fn rank(&self, operation: &Operation, now: Now) -> Option<(u8, u64)> {
        let is_out = self.held.contains(&operation.id) || operation.wish != Wish::Run;
        if is_out || self.only.as_ref().is_some_and(|only| !only.contains(&operation.id)) {
            return None;
        }
        match operation.phase {
            Phase::Waiting { until, .. } if until.boot_ms() <= now.boot_ms => Some((0, until.boot_ms())),
            Phase::Blocked { probe_at, .. } if probe_at.boot_ms() <= now.boot_ms => Some((0, probe_at.boot_ms())),
            Phase::Ready => Some((3 - operation.spec.priority as u8, 0)),
            _ => None,
        }
    }

    fn next(&mut self, table: &Table, now: Now) -> Option<TransferId> {
        let operations: Vec<Operation> = table.in_order().map(Cow::into_owned).collect();
        let mut candidates = Vec::new();
        for operation in &operations {
            let Some((rank, moment)) = self.rank(operation, now) else {
                continue;
            };
            let (app, host) = (&operation.spec.app, operation.host());
            if self.is_behind(&operations, operation, now) {
                continue;
            }
            let last = *self.last.entry(app.clone()).or_insert(self.starts);
            let at_host = self.running.values().filter(|(_, other)| other == host).count();
            if self.per_host_max > 0 && at_host >= self.per_host_max {
                continue;
            }
            let of_app = self.running.values().filter(|(other, _)| other == app).count();
            let order = operation
                .promoted
                .map_or(i128::from(operation.order), |lsn| -1 - i128::from(lsn));
            candidates.push((rank, of_app, last, moment, order, operation.id));
        }
        let is_turn = (self.starts + 1).is_multiple_of(TURN);
        let olds = candidates.iter().filter(|candidate| is_turn && candidate.0 > 0);
        let oldest = olds
            .map(|candidate| (0, candidate.1, candidate.2, 0, candidate.4, candidate.5))
            .min();
        oldest
            .or_else(|| candidates.iter().min().copied())
            .map(|candidate| candidate.5)
    }

    fn start(&mut self, operation: &Operation) {
        self.starts += 1;
        self.last.insert(operation.spec.app.clone(), self.starts);
        self.held.insert(operation.id);
        let place = (operation.spec.app.clone(), operation.host().to_owned());
        self.running.insert(operation.id, place);
        if let Some(group) = operation.spec.group.as_ref().filter(|_| operation.spec.app == "app") {
            self.at_work.insert(operation.id, group.clone());
        }
    }

    fn let_go(&mut self, id: TransferId) {
        self.held.remove(&id);
        self.at_work.remove(&id);
    }
}

/// A generator of numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> Option<T> {
        let index = self.below(values.len().max(1) as u64);
        values.get(usize::try_from(index).unwrap_or(0)).copied()
    }
}

const PRIORITIES: [Priority; 3] = [Priority::Low, Priority::Default, Priority::High];

/// Something happens that is no start.
fn happen(world: &mut World, naive: &mut Naive, dice: &mut Dice, created: &mut u64) {
    let any = id(dice.below((*created).max(1)));
    let (app, host) = (dice.one_of(&["app", "b", "c"]), dice.one_of(&["x", "y", "mirror:8080"]));
    let priority = dice.one_of(&PRIORITIES).unwrap_or_default();
    let asked = (app.unwrap_or("app"), host.unwrap_or("x"), priority);
    match dice.below(14) {
        0..=2 => {
            let spec = Spec {
                group: dice.one_of(&[None, Some("g"), Some("k")]).flatten().map(str::to_owned),
                ..spec(*created, asked)
            };
            world.create_spec(*created, spec, dice.below(4) > 0);
            *created += 1;
        }
        12 => {
            let name = dice.one_of(&["g", "k"]).unwrap_or("g");
            let is_serialized = dice.below(2) == 0;
            if is_serialized {
                naive.serialized.insert(name.into());
                world.set_group(name, TransferBehavior::Serialized);
            } else {
                naive.serialized.remove(name);
                world.set_group(name, TransferBehavior::Parallel);
            }
        }
        13 if world.table.find(any).is_some_and(|operation| operation.is_live()) => world.make_current(number(any)),
        3 => world.now.boot_ms += dice.below(2_000),
        4 => drop(world.apply(any, Event::Paused)),
        5 => drop(world.apply(any, Event::Resumed)),
        6 => {
            let old = world.table.find(any).map(|operation| operation.spec.clone());
            if let Some(old) = old.filter(|_| !naive.held.contains(&any)) {
                let spec = Shared::new(Spec {
                    priority,
                    ..(*old).clone()
                });
                let made = Amendment::Made {
                    spec,
                    sealed_revision: 0,
                };
                world.apply(any, Event::Amended(made));
            }
        }
        7 if dice.below(4) == 0 => {
            let chosen: BTreeSet<TransferId> = (0..*created).filter(|_| dice.below(2) == 0).map(id).collect();
            naive.only = Some(chosen).filter(|_| dice.below(2) == 0);
            world
                .table
                .restrict_to(naive.only.clone().map(|only| only.into_iter().collect()));
        }
        8 => {
            // One that no worker runs any more is let go by the publisher.
            let held: Vec<TransferId> = naive
                .held
                .iter()
                .filter(|id| !naive.running.contains_key(*id))
                .copied()
                .collect();
            if let Some(id) = dice.one_of(&held) {
                naive.let_go(id);
                world.table.set_busy(id, false);
            }
        }
        9 => drop(world.apply(any, Event::Ended(Outcome::Canceled))),
        _ => end_one(world, naive, dice),
    }
}

fn end_one(world: &mut World, naive: &mut Naive, dice: &mut Dice) {
    let Some(id) = dice.one_of(&world.running) else { return };
    let until = Deadline::after(world.now, dice.below(3_000));
    let next = u32::try_from(dice.below(2)).unwrap_or(0);
    let round = Round {
        next,
        ..Round::default()
    };
    let event = match dice.below(4) {
        0 => Event::Released,
        1 => Event::Ended(Outcome::Canceled),
        2 => Event::Blocked {
            condition: Condition::NoNetwork,
            probe_at: until,
            error: error(0),
            room_bytes: None,
            try_at: until,
        },
        _ => waited(until, WaitReason::BackOff, Some(round)),
    };
    world.apply(id, event);
    world.free(id);
    naive.running.remove(&id);
    if dice.below(3) > 0 {
        naive.let_go(id);
        world.table.set_busy(id, false);
    }
}

#[test]
fn the_indexes_decide_as_one_who_looks_at_everything_whatever_happens() {
    let mut decided = 0;
    for seed in 0..150 {
        let mut dice = Dice(seed);
        let per_host_max = usize::try_from(dice.below(4)).unwrap_or(0);
        let mut world = World::new(6, per_host_max);
        let mut naive = Naive {
            per_host_max,
            ..Naive::default()
        };
        let mut created = 0;
        for step in 0..300 {
            happen(&mut world, &mut naive, &mut dice, &mut created);
            let expected = naive.next(&world.table, world.now);
            let has_slot = world.running.len() < world.jobs_max;
            let found = world.next();
            assert_eq!(found, expected.filter(|_| has_slot), "seed {seed}, step {step}");
            if let Some(id) = found.filter(|_| dice.below(2) == 0) {
                let operation = world.table.find(id).expect("it was named").into_owned();
                naive.start(&operation);
                world.start(id);
                decided += 1;
            }
        }
    }
    assert!(decided > 3_000, "too little happened: {decided} starts");
}

// ---- every reason, and what ends it ----

/// What ends a wait. None of it is a look from time to time, but for the two whose moment is one.
#[derive(Debug)]
enum Wake {
    /// Commands of the application, one after the other.
    Commands(Vec<Event>),
    /// An engine opens the state directory.
    Engine,
    /// The moment that the plan names.
    Moment(u64),
    /// Another attempt ends, anywhere.
    Slot,
    /// Another attempt at the same host ends; one elsewhere does not do.
    HostSlot,
    /// The worker or publisher that holds it lets it go.
    LetGo,
    /// Another one of its group is let go by all who held it; the end of one elsewhere does not do, nor does a free slot.
    GroupTurn,
}

/// The list of what ends what; a new reason does not compile without its line.
fn wake_of(reason: Reason) -> Wake {
    let url = |url: &str| Spec {
        url: url.into(),
        ..spec(1, ("app", "h", Priority::Default))
    };
    let made = |url: Spec, sealed_revision| {
        Event::Amended(Amendment::Made {
            spec: Shared::new(url),
            sealed_revision,
        })
    };
    match reason {
        Reason::NotStarted => Wake::Commands(vec![Event::Started]),
        Reason::NoEngine => Wake::Engine,
        Reason::WaitingForSlot => Wake::Slot,
        Reason::WaitingForHostSlot => Wake::HostSlot,
        Reason::SerializedGroup => Wake::GroupTurn,
        Reason::BackOff | Reason::RetryAfter | Reason::ClockNotSet => Wake::Moment(2_000),
        Reason::NoNetwork | Reason::DiskFull => Wake::Moment(5_000),
        Reason::PausedByApplication => Wake::Commands(vec![Event::Resumed]),
        Reason::NeedsCredential => Wake::Commands(vec![made(url("http://h/1"), 1), Event::Resumed]),
        Reason::NeedsNewUrl => Wake::Commands(vec![made(url("http://h/2"), 0), Event::Resumed]),
        Reason::Verifying | Reason::Sweeping => Wake::LetGo,
    }
}

/// An operation, number 1, that does not move for this reason.
fn stopped_for(reason: Reason) -> World {
    let mut world = World::new(3, 2);
    let subject = id(1);
    world.create(1, ("app", "h", Priority::Default), reason != Reason::NotStarted);
    let until = Deadline::after(world.now, 2_000);
    let blocked = |condition| Event::Blocked {
        condition,
        probe_at: Deadline::after(NOW, 5_000),
        error: error(0),
        room_bytes: None,
        try_at: Deadline::after(NOW, 600_000),
    };
    let event = match reason {
        Reason::NotStarted | Reason::NoEngine => return world,
        Reason::WaitingForSlot | Reason::WaitingForHostSlot => {
            let hosts = match reason {
                Reason::WaitingForSlot => ["i", "j", "k"],
                _ => ["h", "h", "k"],
            };
            for (number, host) in (2..).zip(hosts) {
                world.create(number, ("other", host, Priority::High), true);
                world.start(id(number));
            }
            world.jobs_max += usize::from(reason == Reason::WaitingForHostSlot);
            return world;
        }
        Reason::SerializedGroup => {
            world.must(subject, Event::Ended(Outcome::Canceled));
            world.must(subject, Event::Removed);
            world.set_group("group", TransferBehavior::Serialized);
            for (number, priority) in [(1, Priority::Default), (2, Priority::High)] {
                world.create_in("group", number, ("app", "h", priority));
            }
            world.create(3, ("app", "i", Priority::High), true);
            world.start(id(2));
            world.start(id(3));
            return world;
        }
        Reason::PausedByApplication => {
            world.must(subject, Event::Paused);
            return world;
        }
        Reason::BackOff => waited(until, WaitReason::BackOff, None),
        Reason::RetryAfter => waited(until, WaitReason::RetryAfter, None),
        Reason::ClockNotSet => waited(until, WaitReason::ClockNotSet, None),
        Reason::NoNetwork => blocked(Condition::NoNetwork),
        Reason::DiskFull => blocked(Condition::DiskFull),
        Reason::NeedsCredential => Event::Amended(Amendment::Needed(error(401))),
        Reason::NeedsNewUrl => Event::Amended(Amendment::Needed(error(403))),
        Reason::Sweeping => Event::Ending(Outcome::Canceled),
        Reason::Verifying => Event::Publishing(Intent {
            generation: 0,
            final_name: b"1".to_vec(),
            device: 1,
            inode: 2,
            len_bytes: 3,
            crc32: 4,
            boot_id: [1; 16],
            directory_device: None,
            directory_inode: None,
        }),
    };
    world.start(subject);
    world.must(subject, event);
    world.free(subject);
    if !matches!(reason, Reason::Sweeping | Reason::Verifying) {
        world.table.set_busy(subject, false);
    }
    world
}

/// Ends the wait; before that, checks that nothing else does.
fn wake(world: &mut World, reason: Reason) {
    let still = |world: &mut World, wake_at_ms: Option<u64>| {
        let plan = world.plan();
        assert_eq!(
            plan,
            Plan {
                actions: Vec::new(),
                wake_at_ms
            },
            "{reason}"
        );
    };
    match wake_of(reason) {
        Wake::Moment(after_ms) => {
            let moment = NOW.boot_ms + after_ms;
            still(world, Some(moment));
            world.now.boot_ms = moment - 1;
            still(world, Some(moment));
            world.now.boot_ms = moment;
        }
        Wake::Commands(events) => {
            for event in events {
                still(world, None);
                world.must(id(1), event);
            }
        }
        Wake::Engine => world.table.reopened(world.now),
        Wake::Slot => {
            still(world, None);
            world.end(id(4), Event::Ended(Outcome::Canceled));
        }
        Wake::HostSlot => {
            still(world, None);
            world.end(id(4), Event::Ended(Outcome::Canceled));
            still(world, None);
            world.end(id(2), Event::Ended(Outcome::Canceled));
        }
        Wake::LetGo => {
            still(world, None);
            world.table.set_busy(id(1), false);
        }
        Wake::GroupTurn => {
            still(world, None);
            world.end(id(3), Event::Ended(Outcome::Canceled));
            still(world, None);
            world.free(id(2));
            still(world, None);
            world.must(id(2), Event::Ended(Outcome::Canceled));
            world.table.set_busy(id(2), false);
        }
    }
}

#[test]
fn every_reason_is_ended_by_its_own_wake_up_and_by_no_look_in_between() {
    for (reason, _) in Reason::all() {
        let mut world = stopped_for(*reason);
        let shown = match reason {
            Reason::NoEngine => world.table.find(id(1)).and_then(|subject| subject.reason(Lack::Engine)),
            _ => world.reason(id(1)),
        };
        assert_eq!(shown, Some(*reason));
        wake(&mut world, *reason);
        let expected = match reason {
            Reason::Verifying => Action::Finish(id(1)),
            Reason::Sweeping => Action::Sweep(id(1)),
            _ => Action::Start(id(1)),
        };
        assert_eq!(world.plan().actions, [expected], "{reason}");
    }
}
