//! The table against a map of operations: whatever happens, in whatever order, both hold the same; and so does what a
//! snapshot gives that was written meanwhile, with the records behind it.

use std::collections::BTreeMap;

use super::*;
use crate::operation::{BatchId, Completion, CompletionAction, CompletionEvent, CompletionFact, CompletionGroupId};
use crate::operation::{Entry as Record, Group, GroupFact, Intent, TransferBehavior, WaitReason};
use crate::shelf;

/// A shelf that knows who asks for what was freed, and that moves now and then.
#[derive(Debug, Default)]
struct Strict {
    places: BTreeMap<u32, Vec<u8>>,
    next: u32,
    stale_below: Option<u32>,
}

impl Shelf for Strict {
    fn put(&mut self, bytes: &[u8]) -> shelf::Place {
        self.next += 1;
        self.places.insert(self.next, bytes.to_vec());
        shelf::Place(self.next)
    }

    fn get(&self, place: shelf::Place) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(&self.places[&place.0]))
    }

    fn free(&mut self, place: shelf::Place) {
        assert!(self.places.remove(&place.0).is_some(), "{place:?} was freed before");
    }

    fn begin_move(&mut self) -> bool {
        let begins = self.stale_below.is_none() && self.next.is_multiple_of(97);
        if begins {
            self.stale_below = Some(self.next);
        }
        begins
    }

    fn is_stale(&self, place: shelf::Place) -> bool {
        self.stale_below.is_some_and(|below| place.0 < below)
    }

    fn end_move(&mut self) {
        let below = self.stale_below.take().unwrap_or_default();
        self.places.retain(|place, _| *place >= below);
    }
}

/// Numbers that repeat with every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn of<T: Clone>(&mut self, some: &[T]) -> Option<T> {
        let at = self.below(some.len().max(1) as u64);
        some.get(usize::try_from(at).unwrap_or_default()).cloned()
    }
}

#[derive(Clone)]
enum Told {
    Fact(Fact),
    Group(GroupFact),
    Completion(CompletionFact),
    Commit(BatchId),
}

/// A snapshot that is being written: what it holds so far, and from which order on it goes on.
struct Shot {
    begin: usize,
    groups: Vec<(u64, Group)>,
    completions: Vec<(u64, Completion)>,
    entries: Vec<Vec<u8>>,
    next: u64,
}

struct World {
    chance: Chance,
    ids: u64,
    table: Table,
    all: BTreeMap<TransferId, (Operation, u64)>,
    lost: u64,
    log: Vec<Told>,
    batch: Option<BatchId>,
    shot: Option<Shot>,
    opened_max: usize,
}

const APPS: [&str; 3] = ["a", "b", "c"];
const GROUPS: [Option<&str>; 3] = [None, Some("one"), Some("other")];
const COMPLETION: CompletionGroupId = CompletionGroupId([7; 16]);

/// All that follows from the operations of a table, and from nothing else.
fn indexes(table: &Table) -> impl PartialEq + std::fmt::Debug + use<> {
    let all: Vec<(Operation, Option<u64>)> = table
        .ids()
        .into_iter()
        .filter_map(|id| Some((table.find(id)?.into_owned(), table.rows.as_of(id))))
        .collect();
    let held: Vec<_> = all
        .iter()
        .map(|(operation, _)| {
            let spec = &operation.spec;
            let for_url = table.live_for_url(&spec.app, &spec.url).map(|one| one.id);
            let destined = table.live_for_destination(&spec.destination).map(|one| one.id);
            (destined, for_url.collect::<Vec<_>>())
        })
        .collect();
    let none = Retention {
        acknowledged_max: 0,
        acknowledged_for: Duration::MAX,
        unacknowledged_max: 0,
    };
    let history = (
        table.expired(0, &none, usize::MAX),
        table.history.unacknowledged().collect::<Vec<_>>(),
    );
    let pairs = APPS
        .iter()
        .flat_map(|app| GROUPS.iter().flatten().map(move |group| (*app, *group)));
    let groups: Vec<_> = pairs.map(|(app, group)| table.groups.live(app, group)).collect();
    let members = (table.groups.members(COMPLETION), table.groups.remaining(COMPLETION));
    let mut promoted: Vec<_> = table.promoted.iter().map(|(at, id)| (*at, *id)).collect();
    promoted.sort_unstable();
    let mut uncommitted: Vec<_> = table.uncommitted.iter().collect();
    uncommitted.sort_unstable_by_key(|(batch, _)| **batch);
    let uncommitted: Vec<(_, Vec<u64>)> = uncommitted
        .iter()
        .map(|(id, batch)| (**id, batch.orders.iter().collect()))
        .collect();
    let rest = (
        table.sweepable().collect::<Vec<_>>(),
        table.finishable().collect::<Vec<_>>(),
    );
    let waits = (table.ranked(), table.timers().collect::<Vec<_>>(), table.is_idle());
    let marks = (
        table.unsettled.iter().collect::<Vec<_>>(),
        table.in_doubt.clone(),
        table.attempts,
    );
    let counts = APPS.map(|app| table.count_of_app(app));
    let listed = filters()
        .iter()
        .map(|filter| table.rows.list(filter, None).count())
        .collect::<Vec<_>>();
    let kept = (all, held, history, groups, members);
    (kept, promoted, uncommitted, rest, waits, marks, (counts, listed))
}

/// A table with these operations and the groups of another, and with nothing that comes of how that came about.
fn fresh<'a>(like: &Table, all: impl IntoIterator<Item = &'a (Operation, u64)>) -> Table {
    let mut fresh = Table::default();
    for (as_of, group) in like.groups.rows() {
        fresh.restore_group(&group, as_of);
    }
    for (as_of, completion) in like.groups.completion_rows() {
        fresh.restore_completion(completion.clone(), as_of);
    }
    for (operation, as_of) in all {
        fresh.restore(operation.clone(), *as_of);
    }
    fresh
}

impl World {
    fn new(seed: u64, ids: u64) -> Self {
        let mut table = Table::on(Box::<Strict>::default());
        // At a host sometimes so many run, and sometimes less or more.
        table.limit_hosts(usize::try_from(ids / 9).ok().and_then(NonZeroUsize::new));
        Self {
            chance: Chance(seed),
            ids,
            table,
            all: BTreeMap::new(),
            lost: 0,
            log: Vec::new(),
            batch: None,
            shot: None,
            opened_max: 0,
        }
    }

    fn spec(&mut self, number: u64) -> Spec {
        let priorities = [Priority::High, Priority::Default, Priority::Low];
        let of = number.to_be_bytes()[7];
        Spec {
            url: format!("http://host{}/{number}", self.chance.below(3)),
            destination: PathBuf::from(format!("/data/{number}")),
            app: APPS[usize::from(of % 3)].into(),
            group: GROUPS[usize::from(of / 3 % 3)].map(str::to_owned),
            completion_group: of.is_multiple_of(5).then_some(COMPLETION),
            ..spec(0, self.chance.of(&priorities).unwrap_or(Priority::Low))
        }
    }

    fn next(&self) -> u64 {
        self.log.len() as u64
    }

    fn create(&mut self) {
        let number = self.chance.below(self.ids);
        let id = wide(number);
        if self.all.contains_key(&id) {
            return;
        }
        let (spec, started, lsn) = (Shared::new(self.spec(number)), self.chance.below(4) > 0, self.next());
        let (batch, at_ms) = (self.batch.filter(|_| self.chance.below(3) > 0), lsn * 10);
        let mut operation = Operation::created(id, spec.clone(), lsn, at_ms);
        (operation.batch, operation.wish) = (batch, if started { Wish::Run } else { Wish::Hold });
        let event = Event::Created { spec, started, batch };
        let fact = Fact { id, at_ms, event };
        assert_eq!(self.table.apply(fact.clone(), lsn), Ok(()));
        self.log.push(Told::Fact(fact));
        self.all.insert(id, (operation, lsn + 1));
    }

    /// A list begins, counts, or comes to nothing.
    fn turn_batch(&mut self) {
        let Some(batch) = self.batch.take() else {
            self.batch = Some(BatchId(u128::from(self.next()).to_be_bytes()));
            return;
        };
        if self.chance.below(3) == 0 {
            self.table.drop_uncommitted();
            self.all.retain(|_, (operation, _)| operation.batch.is_none());
            return;
        }
        self.table.commit(batch);
        self.log.push(Told::Commit(batch));
        for (operation, _) in self.all.values_mut() {
            operation.batch = None;
        }
    }

    fn event(&mut self, operation: &Operation) -> Event {
        let error = || {
            Shared::new(OperationError {
                status: 0,
                code: None,
                message: "no".into(),
            })
        };
        let wait = Deadline::after(NOW, self.chance.below(900));
        let intent = Intent {
            generation: operation.generation,
            final_name: b"name".to_vec(),
            device: 1,
            inode: 2,
            len_bytes: 3,
            crc32: 4,
            boot_id: [5; 16],
            directory_device: None,
            directory_inode: None,
        };
        let amended = Spec {
            url: format!("http://host{}/{}", self.chance.below(3), self.chance.below(9)),
            priority: self
                .chance
                .of(&[Priority::High, Priority::Low])
                .unwrap_or(Priority::Low),
            ..Spec::clone(&operation.spec)
        };
        match self.chance.below(17) {
            0 => Event::Started,
            1 => Event::Paused,
            2 => Event::Resumed,
            3..=5 => Event::Claimed {
                attempts: operation.attempts + 1,
            },
            6 => Event::Released,
            7 => Event::Waited {
                until: wait,
                reason: WaitReason::BackOff,
                failures_in_row: 1,
                error: error(),
                round: None,
            },
            8 => Event::Publishing(intent),
            9 => Event::Ending(Outcome::Canceled),
            10..=11 => Event::Ended(
                self.chance
                    .of(&[Outcome::Completed, Outcome::Canceled])
                    .unwrap_or(Outcome::Canceled),
            ),
            12 => Event::Acknowledged,
            13 => Event::Removed,
            14 => Event::Forgotten,
            15 => Event::Promoted,
            _ => Event::Amended(Amendment::Made {
                spec: Shared::new(amended),
                sealed_revision: 0,
            }),
        }
    }

    /// Something happens to one that counts.
    fn happen(&mut self) {
        let ids: Vec<TransferId> = self.all.keys().copied().collect();
        let Some(id) = self.chance.of(&ids) else { return };
        let (operation, _) = self.all[&id].clone();
        if operation.batch.is_some() {
            return;
        }
        let (event, lsn) = (self.event(&operation), self.next());
        let (at_ms, lost) = (lsn * 10, operation.acknowledged_at_ms.is_none());
        let step = self.table.step(id, event.clone(), at_ms);
        let next = operation.apply(event.clone(), at_ms);
        let (Ok(step), Ok(mut next)) = (step, next) else {
            assert!(self.table.step(id, event.clone(), at_ms).is_err());
            return;
        };
        self.table.take_step(step, lsn);
        match event {
            Event::Removed | Event::Forgotten => {
                self.lost += u64::from(event == Event::Forgotten && lost);
                self.all.remove(&id);
            }
            _ => {
                if event == Event::Promoted {
                    next.promoted = Some(lsn);
                }
                self.all.insert(id, (next, lsn + 1));
            }
        }
        self.log.push(Told::Fact(Fact { id, at_ms, event }));
    }

    /// Somebody takes one into his hands, mostly for an attempt, or lets it go, also one that was removed meanwhile.
    fn hand(&mut self) {
        let held: Vec<TransferId> = self.table.busy.iter().copied().collect();
        let counts = self.all.iter().filter(|(_, (operation, _))| operation.batch.is_none());
        let free = counts.map(|(id, _)| *id).filter(|id| !self.table.is_busy(*id));
        let mut all: Vec<TransferId> = free.chain(held).collect();
        all.sort_unstable();
        let Some(id) = self.chance.of(&all) else { return };
        let takes = !self.table.is_busy(id);
        if takes {
            self.table.set_busy(id, true);
            if self.chance.below(3) > 0 {
                self.table.set_running(id, true);
            }
        } else {
            self.table.set_running(id, false);
            if self.chance.below(3) > 0 {
                self.table.set_busy(id, false);
            }
        }
    }

    fn regroup(&mut self) {
        let lsn = self.next();
        if self.chance.below(3) == 0 {
            let event = match self.table.groups.completion(COMPLETION) {
                Some(_) => CompletionEvent::Removed,
                None => CompletionEvent::Created {
                    app: "a".into(),
                    name: None,
                    action: CompletionAction::Event,
                },
            };
            let fact = CompletionFact {
                id: COMPLETION,
                at_ms: lsn,
                event,
            };
            self.table.apply_completion(fact.clone(), lsn);
            self.log.push(Told::Completion(fact));
            return;
        }
        let behaviors = [TransferBehavior::Serialized, TransferBehavior::Parallel];
        let group = Group {
            app: self.chance.of(&APPS).unwrap_or_default().into(),
            name: self.chance.of(&["one", "other"]).unwrap_or_default().into(),
            behavior: self.chance.of(&behaviors).unwrap_or_default(),
        };
        self.table.apply_group(GroupFact::Set(group.clone()), lsn);
        self.log.push(Told::Group(GroupFact::Set(group)));
    }

    fn restrict(&mut self) {
        let some: Vec<TransferId> = self.table.ids();
        let only = self.chance.below(2) == 0;
        let chosen = some.into_iter().filter(|_| self.chance.below(2) == 0).collect();
        self.table.restrict_to(only.then_some(chosen));
    }

    /// A part of a snapshot is written, and the last one is read back with the records from its beginning on.
    fn shoot(&mut self) {
        let begin = self.log.len();
        let shot = self.shot.get_or_insert_with(|| Shot {
            begin,
            groups: self.table.groups.rows(),
            completions: (self.table.groups.completion_rows())
                .map(|(as_of, one)| (as_of, one.clone()))
                .collect(),
            entries: Vec::new(),
            next: 0,
        });
        let some: Vec<(u64, TransferId)> = self.table.ids_from(shot.next).take(5).collect();
        for (_, id) in &some {
            let mut bytes = Vec::new();
            self.table.encode(*id, &mut bytes);
            shot.entries.push(bytes);
        }
        if let Some((last, _)) = some.last().filter(|_| some.len() == 5) {
            shot.next = last + 1;
        } else if let Some(shot) = self.shot.take() {
            self.replay(&shot);
        }
    }

    fn replay(&self, shot: &Shot) {
        let mut again = Table::on(Box::<Strict>::default());
        for (as_of, group) in &shot.groups {
            again.restore_group(group, *as_of);
        }
        for (as_of, completion) in &shot.completions {
            again.restore_completion(completion.clone(), *as_of);
        }
        for entry in &shot.entries {
            let Ok(Record::Operation { as_of, operation }) = decode(entry) else {
                panic!("it was there");
            };
            again.restore(*operation, as_of);
        }
        again.restore_totals(self.table.unacknowledged_lost(), self.next());
        for (lsn, told) in (0..).zip(&self.log).skip(shot.begin) {
            match told.clone() {
                // What was removed when its entry was written comes with its creation, and goes again.
                Told::Fact(fact) => again.apply(fact, lsn).unwrap_or_else(|rejected| panic!("{rejected}")),
                Told::Group(fact) => again.apply_group(fact, lsn),
                Told::Completion(fact) => again.apply_completion(fact, lsn),
                Told::Commit(batch) => again.commit(batch),
            }
        }
        again.reopened(NOW);
        again.rows.check(&again.busy);
        let mut expected = fresh(&self.table, self.all.values());
        expected.reopened(NOW);
        assert_eq!(indexes(&again), indexes(&expected));
        assert_eq!(again.unacknowledged_lost(), self.lost);
    }

    /// The same without some records, of which the journal may know or not.
    fn replay_damaged(&mut self) {
        let mut again = Table::on(Box::<Strict>::default());
        let (first, end) = (self.chance.below(self.next() + 1), self.next());
        let next = first + 1 + self.chance.below(9);
        let is_known = self.chance.below(2) == 0;
        for (lsn, told) in (0..end).zip(&self.log) {
            if lsn == next && is_known {
                again.gap(first, next);
            }
            match told.clone() {
                _ if (first..next).contains(&lsn) => {}
                Told::Fact(fact) => again.apply(fact, lsn).unwrap_or_default(),
                Told::Group(fact) => again.apply_group(fact, lsn),
                Told::Completion(fact) => again.apply_completion(fact, lsn),
                Told::Commit(batch) => again.commit(batch),
            }
        }
        for is_open in [false, true] {
            if is_open {
                again.reopened(NOW);
            }
            again.rows.check(&again.busy);
            again.queue.check();
            let all: Vec<(Operation, u64)> = (again.ids().into_iter())
                .filter_map(|id| Some((again.find(id)?.into_owned(), again.rows.as_of(id)?)))
                .collect();
            assert_eq!(indexes(&again), indexes(&fresh(&again, &all)));
        }
        assert!(again.uncommitted.is_empty());
    }

    fn check(&self) {
        for (id, (operation, as_of)) in &self.all {
            assert_eq!(self.table.find(*id).as_deref(), Some(operation));
            assert_eq!(self.table.rows.as_of(*id), Some(*as_of));
        }
        assert_eq!(self.table.len(), self.all.len());
        let mut all = self.all.values();
        let has_live = all.any(|(operation, _)| operation.is_live() && operation.batch.is_none());
        assert_eq!(self.table.has_live(), has_live);
        self.table.rows.check(&self.table.busy);
        self.table.queue.check();
        let mut fresh = fresh(&self.table, self.all.values());
        fresh.restrict_to(self.table.chosen().cloned());
        for id in &self.table.busy {
            fresh.set_busy(*id, true);
        }
        assert_eq!(indexes(&self.table), indexes(&fresh));
        assert_eq!(self.table.unacknowledged_lost(), self.lost);
    }

    fn go(&mut self, steps: u64) {
        for step in 0..steps {
            match self.chance.below(100) {
                0..=14 => self.create(),
                15..=17 => self.turn_batch(),
                18..=69 => self.happen(),
                70..=94 => self.hand(),
                95 => self.regroup(),
                96 => self.restrict(),
                _ => self.shoot(),
            }
            self.opened_max = self.opened_max.max(self.table.rows.opened());
            if step.is_multiple_of(97) {
                self.check();
            }
            if step.is_multiple_of(997) {
                self.replay_damaged();
            }
        }
        self.check();
    }
}

#[test]
fn whatever_happens_the_table_and_what_a_restart_makes_of_it_hold_what_a_map_holds() {
    for (seed, ids) in [(1, 12), (2, 60), (3, 60), (4, 500)] {
        let mut world = World::new(seed, ids);
        world.go(6_000);
        assert!(world.log.len() > 500, "{}", world.log.len());
        if ids == 500 {
            assert!(world.opened_max > 128, "{}", world.opened_max);
        }
    }
}
