//! An engine in this process, at work on threads of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backhaul_backends::Backend;

use super::left;
use super::methods::groups::report;
use super::monitor::{Stand, Waited};
use crate::config::Config;
use crate::engine::{Engine, Until, backends as built_in, with_environment_proxies};
use crate::environment::Environment;
use crate::error::Error;
use crate::operation::TransferId;
use crate::threads::{self, Role};

/// An engine, and the thread that keeps it at work where this is its owner.
pub(super) struct Embedded {
    pub(super) engine: Arc<Engine>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens the state directory and sets the engine to work. The backends come before those of this build.
    pub(super) fn open(directory: &Path, config: Config, registered: Vec<Arc<dyn Backend>>) -> Result<Self, Error> {
        let config = with_environment_proxies(config, |name| std::env::var_os(name))?;
        let mut backends = registered;
        backends.extend(built_in(&config, |name| std::env::var_os(name).map(PathBuf::from))?);
        let engine = Arc::new(Engine::open(directory, config, Environment::system(), backends)?);
        engine.report_by(report);
        let running = Arc::clone(&engine);
        let worker = threads::for_a(Role::Engine).spawn(move || {
            if let Err(error) = running.run(Until::Stopped, None, |_| ()) {
                log::error!("the engine has stopped: {error}");
            }
        });
        let worker = worker.map_err(|error| Error::io("start a thread for", "engine", error))?;
        Ok(Self {
            engine,
            worker: Mutex::new(Some(worker)),
        })
    }

    /// Lends an engine that somebody else keeps at work.
    pub(super) fn on(engine: &Arc<Engine>) -> Self {
        engine.report_by(report);
        Self {
            engine: Arc::clone(engine),
            worker: Mutex::new(None),
        }
    }

    pub(super) fn wait(&self, ids: &[TransferId], until: Stand, time: Option<Duration>) -> Result<Waited, Error> {
        // A time that no clock reaches is none.
        let end = time.and_then(|time| Instant::now().checked_add(time));
        let observer = self.engine.observe(None);
        let mut open = BTreeSet::new();
        open.extend(ids);
        loop {
            for id in open.clone() {
                if until.is_reached(&self.engine.view(id)?) {
                    open.remove(&id);
                }
            }
            if open.is_empty() {
                // One that did not run when it was looked at may run by now.
                for id in ids {
                    if !until.is_reached(&self.engine.view(*id)?) {
                        open.insert(*id);
                    }
                }
            }
            let timed_out = end.is_some_and(|end| Instant::now() >= end);
            if open.is_empty() || timed_out {
                let views = ids.iter().map(|id| self.engine.view(*id));
                return Ok(Waited {
                    operations: views.collect::<Result<_, _>>()?,
                    timed_out: timed_out && !open.is_empty(),
                });
            }
            if observer.wait(left(end)).stopped {
                return Err(Error::Disconnected(Arc::from("it has stopped")));
            }
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            self.engine.stop();
            // A panic in it has been printed.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use backhaul_backends::MemoryBackend;

    use super::*;
    use crate::engine::{Filter, NewDownload};
    use crate::service::Service;

    #[test]
    fn nobody_waits_for_an_engine_that_has_stopped() {
        let home = tempfile::tempdir().unwrap();
        let backends = vec![Arc::new(MemoryBackend::new()) as _];
        let engine = Engine::open(
            &home.path().join("state"),
            Config::default(),
            Environment::system(),
            backends,
        );
        let engine = Arc::new(engine.unwrap());
        let held = NewDownload {
            url: "mem://host/a".into(),
            destination: home.path().join("a"),
            app: "app".into(),
            hold: true,
            ..NewDownload::default()
        };
        let id = engine.create(&[held]).unwrap()[0];
        let service = Service::on(&engine);
        let time = Duration::from_secs(60);
        std::thread::scope(|scope| {
            let early = [
                scope.spawn(|| service.wait(&[id], Some(time)).map(|_| ())),
                scope.spawn(|| service.read_at(id, 0, 1, time).map(|_| ())),
            ];
            engine.stop();
            engine.run(Until::Stopped, None, |_| ()).unwrap();
            for waiting in early {
                assert!(matches!(waiting.join().unwrap(), Err(Error::Disconnected(_))));
            }
        });
        // What stopped it may have been a fault, with handles still about.
        let stopped = service.wait(&[id], Some(time)).map(|_| ());
        assert!(matches!(stopped, Err(Error::Disconnected(_))), "{stopped:?}");
        let stopped = service.read_at(id, 0, 1, time).map(|_| ());
        assert!(matches!(stopped, Err(Error::Disconnected(_))), "{stopped:?}");
        let mut monitor = service.monitor_from_now(id).unwrap();
        assert_eq!(monitor.next_within(Some(time)).unwrap().unwrap().operations, []);
        let stopped = monitor.next_within(Some(time));
        assert!(matches!(stopped, Err(Error::Disconnected(_))), "{stopped:?}");
        assert!(service.read_at(id, 0, 1, Duration::ZERO).unwrap().bytes.is_empty());
    }

    #[test]
    fn until_none_runs_is_waited_for_although_each_did_not_run_at_some_time() {
        let home = tempfile::tempdir().unwrap();
        // It takes connections, and never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let config = Config::default();
        let backends = crate::backends(&config, |_| None).unwrap();
        let engine = Engine::open(&home.path().join("state"), config, Environment::system(), backends);
        let engine = Arc::new(engine.unwrap());
        let download = |name: &str, hold| NewDownload {
            url: format!("{url}{name}"),
            destination: home.path().join(name),
            app: "app".into(),
            hold,
            ..NewDownload::default()
        };
        let ids = engine.create(&[download("a", true), download("b", false)]).unwrap();
        let service = Service::on(&engine);
        let runs = |id| engine.view(id).unwrap().status == crate::TransferStatus::Running;
        std::thread::scope(|scope| {
            scope.spawn(|| engine.run(Until::Stopped, None, |_| ()).unwrap());
            until(|| runs(ids[1]).then_some(()));
            let (tell, told) = std::sync::mpsc::channel();
            let (service, ids) = (&service, &ids);
            let waiting = scope.spawn(move || {
                tell.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
                service.wait_until_still(ids, Some(Duration::from_secs(60)))
            });
            let thread = Path::new("/proc").join(told.recv().unwrap());
            // By then it has seen that the first one does not run.
            until(|| rests_after(0, &thread));
            engine.start(ids[0]).unwrap();
            until(|| runs(ids[0]).then_some(()));
            let before = until(|| rests_after(0, &thread));
            engine.pause(ids[1]).unwrap();
            until(|| (!runs(ids[1])).then_some(()));
            until(|| {
                waiting
                    .is_finished()
                    .then_some(0)
                    .or_else(|| rests_after(before, &thread))
            });
            engine.pause(ids[0]).unwrap();
            let still = waiting.join().unwrap().unwrap();
            engine.stop();
            assert!(still.iter().all(|view| view.status != crate::TransferStatus::Running));
        });
    }

    #[test]
    fn a_monitor_that_is_told_again_what_it_missed_says_so_until_all_of_that_is_told() {
        let home = tempfile::tempdir().unwrap();
        let backends = vec![Arc::new(MemoryBackend::new()) as _];
        let state = home.path().join("state");
        let engine = Engine::open(&state, Config::default(), Environment::system(), backends);
        let engine = Arc::new(engine.unwrap());
        let service = Service::on(&engine);
        let mut monitor = service.monitor(&Filter::default(), None).unwrap();
        let mut next = || monitor.next_within(Some(Duration::from_secs(60))).unwrap().unwrap();
        let first = next();
        assert!(first.caught_up && !first.missed);
        // More than is noted for one that does not read.
        let held = (0..4_200).map(|number| NewDownload {
            url: format!("mem://host/{number}"),
            destination: home.path().join(number.to_string()),
            app: "app".into(),
            hold: true,
            ..NewDownload::default()
        });
        let ids = engine.create(&held.collect::<Vec<_>>()).unwrap();
        engine.cancel(ids[0]).unwrap();
        while engine.step() {}
        engine.remove(ids[0]).unwrap();
        let mut told = 0;
        loop {
            let update = next();
            assert!(update.missed && update.removed.is_empty());
            told += update.operations.len();
            if update.caught_up {
                break;
            }
        }
        assert_eq!(told, ids.len() - 1);
        engine.start(ids[1]).unwrap();
        let update = next();
        assert!(update.caught_up && !update.missed);
        assert_eq!(update.operations[0].id, ids[1]);
    }

    fn until<T>(seen: impl Fn() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(seen) = seen() {
                return seen;
            }
            assert!(Instant::now() < end, "it does not come to that");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How often a thread has gone to sleep, where it sleeps and has done so more often than this.
    fn rests_after(times: u64, thread: &Path) -> Option<u64> {
        let status = std::fs::read_to_string(thread.join("status")).ok()?;
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
        };
        let now = value("voluntary_ctxt_switches:")?.parse().ok()?;
        (value("State:")?.starts_with('S') && now > times).then_some(now)
    }
}
