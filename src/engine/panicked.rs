//! After a panic, which is a defect of this program and has been printed. It may have left a change half done, and that in
//! memory alone: the journal holds all that was promised, and the next start makes everything anew from it.
//!
//! Invariant: after a panic under the lock, or of a thread that works, nothing is recorded any more and no snapshot is
//! finished; the engine ends with an error, and nobody waits for it. A program that is built to abort on a panic ends as a
//! whole.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LockResult;

use super::core::{Core, Role, State};
use crate::error::Error;

impl Core {
    /// What is under the lock, however whoever had it before has left it.
    pub(super) fn despite_panic<T>(&self, locked: LockResult<T>) -> T {
        locked.unwrap_or_else(|poisoned| {
            self.note_panic();
            poisoned.into_inner()
        })
    }

    /// Does the work of a thread. Where that panics, the engine stops: what the thread had in hand nobody brings to an end.
    pub(super) fn stop_on_panic(&self, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.note_panic();
            if let Err(error) = self.trouble.check() {
                self.fail(error);
            }
        }
    }

    /// Whether a thread may leave an engine that stops. The publisher waits for the last attempt, unless one may never end.
    pub(super) fn may_leave(&self, state: &State, role: Role) -> bool {
        role == Role::Worker || (state.attempts.is_empty() && state.publishing == 0) || self.trouble.is_there()
    }

    fn note_panic(&self) {
        if self.trouble.is_there() {
            return;
        }
        let problem = "a thread of the engine panicked, which is a defect of this program; what was accepted is kept: close \
                       the engine, open it again, and report what was printed";
        let problem = io::Error::other(problem);
        self.trouble.note(Error::io("go on in", &self.state_directory, problem));
        // Whoever is to work finds out, and stops the engine.
        self.wake_all();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;
    use std::time::Duration;

    use backhaul_backends::{Backend, Capabilities, Failure, Interrupt, MemoryBackend, Request, Sink};
    use backhaul_journal::simulation::SimDisk;

    use crate::config::Config;
    use crate::engine::{Engine, NewDownload, Until};
    use crate::environment::FixedEnvironment;
    use crate::error::Error;
    use crate::operation::{CompletionAction, TransferId};
    use crate::vault::SealedName;

    const LONG: Duration = Duration::from_secs(60);

    fn open(disk: &SimDisk, backend: Arc<dyn Backend>) -> Arc<Engine> {
        let config = Config {
            jobs_max: 1,
            // Every change is reason enough for a snapshot.
            checkpoint_bytes: 1,
            ..Config::default()
        };
        let environment = FixedEnvironment::new(1).on(disk.storage());
        Arc::new(Engine::open(Path::new("/state"), config, environment, vec![backend]).unwrap())
    }

    fn memory() -> Arc<dyn Backend> {
        Arc::new(MemoryBackend::new())
    }

    fn create(engine: &Engine, scheme: &str, hold: bool) -> Vec<TransferId> {
        let download = |number| NewDownload {
            url: format!("{scheme}://host/{number}"),
            destination: format!("/data/{number}").into(),
            hold,
            ..NewDownload::default()
        };
        engine.create(&(0..3).map(download).collect::<Vec<_>>()).unwrap()
    }

    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        disk
    }

    /// Leaves a step of an operation half taken.
    fn panic_in_a_step(engine: &Arc<Engine>, id: TransferId) {
        let engine = Arc::clone(engine);
        let panicked = thread::spawn(move || {
            let mut state = engine.core.state();
            state.table.set_busy(id, true);
            state.table.lift(id);
            panic!("a panic that is asked for");
        });
        panicked.join().unwrap_err();
    }

    fn run(engine: &Arc<Engine>) -> Receiver<Result<(), Error>> {
        let (done, outcome) = channel();
        let (begun, has_begun) = channel();
        let engine = Arc::clone(engine);
        thread::spawn(move || {
            let watched = engine.run_watched(Until::Stopped, |_| {
                let _ = begun.send(());
                None
            });
            drop(engine);
            let _ = done.send(watched);
        });
        has_begun.recv_timeout(LONG).unwrap();
        outcome
    }

    fn assert_says(result: Result<(), Error>) {
        let text = result.unwrap_err().to_string();
        assert!(
            text.starts_with("cannot go on in '/state': a thread of the engine panicked"),
            "{text}"
        );
    }

    #[test]
    fn what_a_panic_left_half_done_gets_into_no_snapshot_and_the_next_start_has_everything() {
        let disk = disk();
        let engine = open(&disk, memory());
        let ids = create(&engine, "mem", true);
        engine.start(ids[2]).unwrap();
        panic_in_a_step(&engine, ids[1]);
        assert_says(engine.start(ids[0]));
        assert_says(engine.start(ids[1]));
        engine.core.checkpoint_if_due();
        drop(Arc::into_inner(engine).unwrap().close());
        let engine = open(&disk, memory());
        assert_eq!(engine.views().iter().map(|view| view.id).collect::<Vec<_>>(), ids);
        assert_eq!(engine.core.state().table.ranked(), ids[2..]);
        engine.start(ids[1]).unwrap();
    }

    #[test]
    fn an_engine_at_rest_stops_where_a_thread_of_somebody_else_panics_under_its_lock() {
        let disk = disk();
        let engine = open(&disk, memory());
        let ids = create(&engine, "mem", true);
        let outcome = run(&engine);
        panic_in_a_step(&engine, ids[0]);
        // Whoever comes next finds out.
        assert_says(engine.start(ids[1]));
        assert_says(outcome.recv_timeout(LONG).unwrap());
    }

    #[test]
    fn what_a_panic_left_half_created_has_its_secrets_where_it_comes_out_of_the_journal() {
        let disk = disk();
        let engine = open(&disk, memory());
        let _observer = engine.observe(Some(Box::new(|| panic!("a panic that is asked for"))));
        let download = NewDownload {
            url: "mem://host/0".into(),
            destination: "/data/0".into(),
            secret_headers: vec!["X-Token: hush".into()],
            hold: true,
            ..NewDownload::default()
        };
        catch_unwind(AssertUnwindSafe(|| drop(engine.create(&[download])))).unwrap_err();
        drop(Arc::into_inner(engine).unwrap().close());
        let engine = open(&disk, memory());
        let operation = engine.core.find(engine.views()[0].id).unwrap();
        engine.core.vault.open(SealedName::of(&operation)).unwrap();
    }

    #[test]
    fn a_report_that_panics_ends_the_run_that_waits_for_its_command() {
        let engine = open(&disk(), memory());
        let command = CompletionAction::Command(vec!["/bin/true".into()]);
        let group = engine.create_completion_group("app", None, command).unwrap();
        engine.report_by(|_, _, _| panic!("a panic that is asked for"));
        let outcome = run(&engine);
        engine.enable_completion_group(group).unwrap();
        assert_says(outcome.recv_timeout(LONG).unwrap());
    }

    /// A backend that panics when a thread that works asks what it can do.
    struct Wrong;

    impl Backend for Wrong {
        fn schemes(&self) -> Vec<&str> {
            vec!["wrong"]
        }

        fn capabilities(&self) -> Capabilities {
            assert_ne!(thread::current().name(), Some("worker"), "a panic that is asked for");
            Capabilities::default()
        }

        fn download(&self, _: &Request, _: &mut dyn Sink, _: &Interrupt) -> Result<(), Failure> {
            Ok(())
        }
    }

    #[test]
    fn a_worker_that_panics_ends_the_run_and_whoever_reads_what_it_was_to_bring_and_the_state_can_be_opened_again() {
        let disk = disk();
        let engine = open(&disk, Arc::new(Wrong));
        let ids = create(&engine, "wrong", false);
        let (told, read) = channel();
        let (reader, first) = (Arc::clone(&engine), ids[0]);
        thread::spawn(move || {
            let read = reader.read_at(first, 0, 1, LONG * 60).map(|_| ());
            drop(reader);
            let _ = told.send(read);
        });
        assert_says(run(&engine).recv_timeout(LONG).unwrap());
        assert_says(read.recv_timeout(LONG).unwrap());
        assert_says(engine.start(ids[0]));
        drop(Arc::into_inner(engine).unwrap().close());
        let engine = open(&disk, memory());
        assert_eq!(engine.core.state().table.ranked(), ids);
    }
}
