//! Kills and faults at the n-th system call of a kind, for every n, by strace.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use super::nginx::Nginx;
use super::{Ended, Home, Running, assert_same, names_in, number_from, until};

/// System calls that make something durable, visible or gone, or take room for it. Those of one line do the same.
const DECIDING_CALLS: [&str; 8] = [
    "?fsync",
    "?io_submit,?syncfs",
    "?fdatasync",
    "?pwrite64",
    "?rename,?renameat,?renameat2,?link,?linkat",
    "?unlink,?unlinkat",
    "?fallocate",
    "?ftruncate",
];
/// More calls of one kind by one thread than any of these commands makes.
const CALLS_MAX: u32 = 2_000;
/// Up to here every call counts. Beyond are only writes of a body, one like the other, and a quarter more of them is
/// skipped each time, unless `BACKHAUL_EVERY_CALL=1`.
const DENSE_CALLS: u32 = 24;

/// So many commands that do not make a single call of a kind show that none does.
const FIRST_TRIES: u32 = 8;

const ADD: [&str; 5] = ["add", "-i", "list", "-o", "downloads/"];

/// Program and options that start another program and do something to its system calls: `what` is in the words of
/// strace's option `inject`, and the log says where that was done. strace is a grandchild, so that signals and the end
/// are those of the program itself.
pub(crate) fn injecting(calls: &str, what: &str, log: &Path) -> Vec<String> {
    let log = log.to_str().expect("the paths of tests are text");
    let (traced, injected) = (format!("trace={calls}"), format!("inject={calls}:{what}"));
    let mut words = vec!["strace", "-D", "-f", "-qq", "-o", log, "-e", &traced, "-e", &injected];
    // Other calls are not slowed down then; but the signals of strace 6.1 get lost.
    if !what.contains("signal=") {
        words.push("--seccomp-bpf");
    }
    words.into_iter().map(str::to_owned).collect()
}

/// Waits until a command that strace starts is itself: strace tries the kernel on children of its own first, and killed
/// meanwhile it would leave them behind.
pub(crate) fn until_begun(running: &Running) {
    let name = format!("/proc/{}/comm", running.id());
    until("strace to start the command", || {
        (fs::read_to_string(&name).ok().as_deref() != Some("strace\n")).then_some(())
    });
}

/// What is done while system calls are tampered with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Add,
    Run,
    Get,
}

/// A list of resources of all the sizes that take different ways: with claims, at once, and empty.
pub(crate) struct Scene {
    nginx: Nginx,
    files: Vec<(&'static str, Vec<u8>)>,
}

/// One command that was tampered with.
pub(crate) struct Tampered {
    pub(crate) home: Home,
    pub(crate) ended: Ended,
    /// strace did what it was asked to.
    pub(crate) is_touched: bool,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let nginx = Nginx::start();
        let files = [
            ("big.bin", 9 << 20),
            ("small.bin", 200_000),
            ("tiny.bin", 100),
            ("empty.bin", 0),
        ];
        let files = files.map(|(name, length)| (name, nginx.put_seeded(name, length)));
        Self {
            nginx,
            files: files.to_vec(),
        }
    }

    /// Does `what` at the n-th call of a kind, for each kind of call and every n, until a command ends untouched.
    /// Counts in each thread of the command; the first to get there is touched first. `case` looks at the outcome.
    /// Gives the number of commands that were touched, for each kind of call.
    pub(crate) fn at_every_call(
        &self,
        workers: usize,
        work: Work,
        what: impl Fn(u32) -> String + Sync,
        case: impl Fn(&Tampered, &str) + Sync,
    ) -> Vec<(&'static str, u32)> {
        let next = DECIDING_CALLS.map(|_| (AtomicU32::new(1), AtomicBool::new(false)));
        let touched = DECIDING_CALLS.map(|_| AtomicU32::new(0));
        let is_dense = number_from("BACKHAUL_EVERY_CALL") == Some(1);
        let run_through = |first: usize| {
            for index in (first..first + next.len()).map(|index| index % next.len()) {
                let (calls, (next, is_over)) = (DECIDING_CALLS[index], &next[index]);
                while !is_over.load(Ordering::Relaxed) {
                    let count = nth(next.fetch_add(1, Ordering::Relaxed), is_dense);
                    assert!(count <= CALLS_MAX, "{calls}: no end of calls");
                    let what = what(count);
                    let mut tampered = self.tamper(work, calls, &what);
                    // Whether there is a first call may be a matter of who is faster, as with files that are synced together.
                    let tries = if count == 1 { FIRST_TRIES } else { 1 };
                    for _ in 1..tries {
                        if tampered.is_touched {
                            break;
                        }
                        tampered.ended.expect_code(0);
                        tampered = self.tamper(work, calls, &what);
                    }
                    if !tampered.is_touched {
                        is_over.store(true, Ordering::Relaxed);
                        tampered.ended.expect_code(0);
                        break;
                    }
                    touched[index].fetch_add(1, Ordering::Relaxed);
                    case(&tampered, &format!("strace -f -e inject={calls}:{what}"));
                }
            }
        };
        let run_through = &run_through;
        thread::scope(|scope| {
            for worker in 0..workers {
                scope.spawn(move || run_through(worker * 3));
            }
        });
        let touched = touched.into_iter().map(AtomicU32::into_inner);
        DECIDING_CALLS.into_iter().zip(touched).collect()
    }

    fn tamper(&self, work: Work, calls: &str, what: &str) -> Tampered {
        let home = Home::new();
        self.write_list(&home, |_| true);
        if work == Work::Run {
            home.run(&ADD).expect_code(0);
        }
        let arguments: &[&str] = match work {
            Work::Add => &ADD,
            Work::Run => &["run", "--until-idle"],
            Work::Get => &["get", "-i", "list", "-o", "downloads/"],
        };
        let log = home.path().join("strace");
        let starter = injecting(calls, what, &log);
        let mut running = Running::spawn(&mut home.command_under(&starter, arguments));
        if work == Work::Run && what.contains("ENOSPC") {
            // Nobody makes room for what waits for it, so somebody ends the service.
            let waits = until("the end, or operations that wait for room", || {
                let has_ended = running.has_ended();
                (has_ended || home.only_waits_for_room()).then_some(!has_ended)
            });
            if waits {
                running.signal(rustix::process::Signal::TERM);
            }
        }
        let ended = running.finish();
        let is_killed = std::os::unix::process::ExitStatusExt::signal(&ended.status) == Some(9);
        let is_touched = is_killed || fs::read_to_string(log).unwrap().contains("(INJECTED)");
        Tampered {
            home,
            ended,
            is_touched,
        }
    }

    fn write_list(&self, home: &Home, is_wanted: impl Fn(&str) -> bool) {
        let wanted = self.files.iter().filter(|(name, _)| is_wanted(name));
        let list = wanted.map(|(name, _)| self.nginx.url(&format!("/{name}\n")));
        fs::write(home.path().join("list"), list.collect::<String>()).unwrap();
    }

    /// Asserts what holds right after whatever happened.
    pub(crate) fn check(&self, tampered: &Tampered, work: Work, place: &str) {
        let Tampered { home, ended, .. } = tampered;
        let listed = home.listing();
        let (count, all) = (listed.len(), self.files.len());
        assert!(
            count == all || (count == 0 && work != Work::Run),
            "{place}: {count} of {all} operations"
        );
        let verified = home.run(&["journal", "verify"]);
        // Before the first record there may be no journal yet.
        assert!(
            matches!(verified.code(), Some(0 | 1)) || (count == 0 && verified.code() == Some(6)),
            "{place}: {}{}",
            verified.stdout,
            verified.stderr
        );
        if work == Work::Add {
            let printed = ended.stdout.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            for id in printed.map(str::trim_end) {
                assert!(
                    listed.iter().any(|shown| shown["id"] == id),
                    "{place}: {id} was printed and is lost"
                );
            }
        }
        for (name, bytes) in &self.files {
            let shown = listed.iter().find(|shown| is_for(shown, name));
            let is_completed = shown.is_some_and(|shown| shown["status"] == "Completed");
            // What is under the final name is whole at any time.
            if is_completed || home.download(name).exists() {
                let found = fs::read(home.download(name)).unwrap_or_else(|error| panic!("{place}: {name}: {error}"));
                assert!(found == *bytes, "{place}: {name} is published and not whole");
            }
        }
    }

    /// Goes on without any tampering: everything completes, and nothing else is left. What had failed is added again.
    pub(crate) fn finish(&self, tampered: &Tampered, place: &str) {
        let home = &tampered.home;
        for id in home.ids_with("Error") {
            home.run(&["remove", &id]).expect_code(0);
        }
        for id in home.ids_with("PausedDiskFull") {
            home.run(&["resume", &id]).expect_code(0);
        }
        let listed = home.listing();
        let is_listed = |name: &str| listed.iter().any(|shown| is_for(shown, name));
        if listed.len() < self.files.len() {
            self.write_list(home, |name| !is_listed(name));
            home.run(&ADD).expect_code(0);
        }
        let ended = home.run(&["run", "--until-idle"]);
        assert_eq!(ended.code(), Some(0), "{place}: {}", ended.stderr);
        for (name, bytes) in &self.files {
            assert_same(&home.download(name), bytes);
        }
        let names = names_in(&home.downloads());
        assert_eq!(names.len(), self.files.len(), "{place}: {names:?}");
        let listed = home.listing();
        assert!(
            listed.iter().all(|shown| shown["status"] == "Completed"),
            "{place}: {listed:?}"
        );
        home.run(&["journal", "verify"]).expect_code(0);
    }
}

/// Which call the n-th case touches.
fn nth(case: u32, is_dense: bool) -> u32 {
    if is_dense || case <= DENSE_CALLS {
        return case;
    }
    (DENSE_CALLS..case).fold(DENSE_CALLS, |count, _| count + count / 4)
}

fn is_for(shown: &serde_json::Value, name: &str) -> bool {
    shown["url"].as_str().unwrap().ends_with(name)
}
