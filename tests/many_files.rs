//! Many small files that become complete together are synced as the whole of their file system. What that cannot do, or
//! does not tell of each of them, is made up for.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use support::loop_disk::{LoopDisk, alone};
use support::nginx::Nginx;
use support::strace::injecting;
use support::{Ended, Home, Running, assert_same, left_out};

/// Enough for several batches.
const FILES: usize = 500;
/// So many are synced as one file system, at least.
const FILES_MIN: usize = 2;
/// A command is given again so often where another program had too much to write just then for a whole file system to be
/// synced.
const TRIES: u32 = 20;

/// A file system of its own, and what is to be fetched onto it.
struct Scene {
    disk: LoopDisk,
    nginx: Nginx,
    contents: Vec<Vec<u8>>,
}

/// A command that met what was done to its system calls.
struct Met {
    home: Home,
    folder: PathBuf,
    /// Where the files go, as an option says it.
    output: String,
    ended: Ended,
    /// The calls that were traced.
    log: String,
}

impl Scene {
    fn on(kind: &str) -> Option<Self> {
        Self::made_with(kind, &[])
    }

    fn made_with(kind: &str, options: &[&str]) -> Option<Self> {
        let disk = match LoopDisk::make_with(kind, options) {
            Ok(disk) => disk,
            Err(why) => {
                left_out(&format!("no {kind} can be mounted from a file here: {why}"));
                return None;
            }
        };
        let nginx = Nginx::start();
        let put = |number: usize| nginx.put_seeded(&number.to_string(), 1_000 + number);
        let contents = (0..FILES).map(put).collect();
        Some(Self { disk, nginx, contents })
    }

    /// Fetches all of it while something is done to system calls, which at least one of them has met.
    fn fetch(&self, calls: &str, what: &str) -> Met {
        for number in 0..TRIES {
            let folder = self.disk.path().join(format!("{calls}{what}{number}"));
            fs::create_dir_all(folder.join("files")).unwrap();
            let home = Home::with_state(folder.join("state"));
            let url = |number: usize| self.nginx.url(&format!("/{number}\n"));
            fs::write(home.path().join("list"), (0..FILES).map(url).collect::<String>()).unwrap();
            let log = home.path().join("log");
            let output = format!("{}/", folder.join("files").display());
            let arguments = ["get", "--quiet", "-i", "list", "-o", &output, "--jobs", "16"];
            rustix::fs::sync();
            let starter = injecting(calls, what, &log);
            let ended = Running::spawn(&mut home.command_under(&starter, &arguments)).finish();
            let is_killed = ended.status.signal() == Some(9);
            let log = fs::read_to_string(&log).unwrap();
            if is_killed || log.contains("(INJECTED)") {
                return Met {
                    home,
                    folder,
                    output,
                    ended,
                    log,
                };
            }
            ended.expect_code(0);
        }
        panic!("the command never made a call of {calls}");
    }
}

impl Met {
    /// How often each was begun.
    fn attempts(&self) -> Vec<u64> {
        let attempts = |shown: &serde_json::Value| shown["attempts"].as_u64().unwrap();
        self.home.listing().iter().map(attempts).collect()
    }

    /// All files are there and whole.
    fn all_are_there(&self, contents: &[Vec<u8>]) {
        for (number, content) in contents.iter().enumerate() {
            assert_same(&self.folder.join("files").join(number.to_string()), content);
        }
    }
}

#[test]
fn a_file_system_that_cannot_be_synced_as_a_whole_has_its_files_synced_one_by_one() {
    let name = "a_file_system_that_cannot_be_synced_as_a_whole_has_its_files_synced_one_by_one";
    alone(name, || {
        for kind in ["ext4", "xfs"] {
            let Some(scene) = Scene::on(kind) else { return };
            for (calls, error) in [
                ("?syncfs", "ENOSYS"),
                // Of some file, by whomever: the file system itself takes changes.
                ("?syncfs", "EIO"),
                ("?fchmod", "EPERM"),
                ("?syncfs", "EINTR:when=1..3"),
            ] {
                let met = scene.fetch(calls, &format!("error={error}"));
                assert_eq!(met.ended.code(), Some(0), "{kind}, {error}: {}", met.ended.stderr);
                assert!(met.attempts().iter().all(|count| *count == 1), "{kind}, {error}");
                met.all_are_there(&scene.contents);
            }
        }
    });
}

#[test]
fn ext4_without_a_journal_is_not_synced_as_a_whole_for_that_empties_the_cache_of_its_device_too_early() {
    let name = "ext4_without_a_journal_is_not_synced_as_a_whole_for_that_empties_the_cache_of_its_device_too_early";
    alone(name, || {
        let Some(scene) = Scene::made_with("ext4", &["-O", "^has_journal"]) else {
            return;
        };
        // An interruption changes nothing.
        let met = scene.fetch("?fdatasync,?syncfs", "error=EINTR:when=1");
        assert_eq!(met.ended.code(), Some(0), "{}", met.ended.stderr);
        assert!(!met.log.contains("syncfs("), "it was synced as a whole");
        met.all_are_there(&scene.contents);
    });
}

#[test]
fn where_one_was_not_written_or_nothing_can_be_changed_any_more_all_that_were_synced_with_it_are_fetched_again() {
    let name =
        "where_one_was_not_written_or_nothing_can_be_changed_any_more_all_that_were_synced_with_it_are_fetched_again";
    alone(name, || {
        let Some(scene) = Scene::on("ext4") else { return };
        // fchmod(2) is the change that the sync of a whole file system ends with. After the first failure each file is synced by
        // itself, so that it does not matter if the others fail, too.
        for (calls, what) in [
            ("?sync_file_range", "error=EIO:when=5"),
            ("?sync_file_range", "error=ENOSPC:when=300"),
            ("?fchmod", "error=EIO:when=1"),
            ("?fchmod", "error=EIO:when=2"),
        ] {
            let met = scene.fetch(calls, what);
            let attempts = met.attempts();
            let again = attempts.iter().filter(|count| **count > 1).count();
            assert!((FILES_MIN..FILES).contains(&again), "{calls}: {again} fetched again");
            assert_eq!(attempts.iter().max(), Some(&2), "{calls}");
            assert_eq!(met.ended.code(), Some(0), "{calls}: {}", met.ended.stderr);
            met.all_are_there(&scene.contents);
        }
    });
}

#[test]
fn each_file_is_told_to_be_written_back_before_all_are_synced_for_ext4_tells_nobody_else_that_it_found_no_room() {
    let name =
        "each_file_is_told_to_be_written_back_before_all_are_synced_for_ext4_tells_nobody_else_that_it_found_no_room";
    alone(name, || {
        let Some(scene) = Scene::on("ext4") else { return };
        let met = scene.fetch("?sync_file_range,?syncfs", "error=ENOSPC:when=1");
        let first = met.log.lines().find(|line| line.contains("(INJECTED)")).unwrap();
        assert!(first.contains("sync_file_range("), "{first}");
        assert!(!met.log.contains("syncfs("), "it was synced all the same");
        assert_eq!(met.ended.code(), Some(0), "{}", met.ended.stderr);
        met.all_are_there(&scene.contents);
    });
}

#[test]
fn whichever_sync_fails_nothing_is_lost_and_the_next_start_completes_everything() {
    let name = "whichever_sync_fails_nothing_is_lost_and_the_next_start_completes_everything";
    alone(name, || {
        let Some(scene) = Scene::on("ext4") else { return };
        // The last of these are those behind the sync of a whole file system.
        for count in 1..=6 {
            let met = scene.fetch("?fsync", &format!("error=EIO:when={count}"));
            assert!(matches!(met.ended.code(), Some(0 | 1 | 6)), "{}", met.ended.stderr);
            if met.home.listing().is_empty() {
                let arguments = ["get", "--quiet", "-i", "list", "-o", &met.output, "--jobs", "16"];
                met.home.run(&arguments).expect_code(0);
            }
            let ended = met.home.run(&["run", "--until-idle", "--jobs", "16"]);
            assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
            // What met the fault as it was created or published may have ended by it, and was told then.
            let failed = met.home.ids_with("Error").len();
            assert_eq!(failed > 0, met.ended.code() == Some(1), "{}", met.ended.stderr);
            assert_eq!(met.home.ids_with("Completed").len() + failed, FILES);
            assert!(failed <= 1, "{failed} failed by one fault");
            if failed == 0 {
                met.all_are_there(&scene.contents);
            }
        }
    });
}

#[test]
fn killed_between_the_sync_of_all_and_their_names_nothing_is_lost() {
    let name = "killed_between_the_sync_of_all_and_their_names_nothing_is_lost";
    alone(name, || {
        let Some(scene) = Scene::on("ext4") else { return };
        for count in 1..=2 {
            let met = scene.fetch("?syncfs", &format!("signal=KILL:when={count}"));
            assert!(met.ended.code().is_none(), "{}", met.ended.stderr);
            let arguments = ["run", "--until-idle", "--jobs", "16"];
            met.home.run(&arguments).expect_code(0);
            met.all_are_there(&scene.contents);
            let names = support::names_in(Path::new(&met.folder.join("files")));
            assert_eq!(names.len(), FILES, "nothing is left behind");
        }
    });
}
