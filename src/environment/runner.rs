//! Runs the commands of completion groups.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::Duration;

use crate::threads::{self, Role};
use backhaul_backends::Interrupt;
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// With exit status 0.
    Well,
    /// It was told to, as the engine stops.
    Stopped,
    /// Otherwise, as this says.
    Failed(String),
}

/// What a command finds on its standard input.
pub(crate) struct Input<'a> {
    /// Writes it; once more from its beginning where the first file took no more.
    pub(crate) write: &'a dyn Fn(&mut dyn Write) -> io::Result<()>,
    /// The directory of the file without a name that holds it; `None` for memory.
    pub(crate) directory: Option<&'a Path>,
}

/// Runs programs.
pub(crate) trait Runner: Send + Sync {
    /// Runs a command to its end, with `input` on its standard input, for at most `limit`, or until `stop` is raised. The
    /// first part is the absolute path of the program.
    fn run(&self, command: &[String], input: &Input<'_>, limit: Duration, stop: &Interrupt) -> Ran;
}

/// How long a command has to end by itself once the engine stops.
const GRACE: Duration = Duration::from_secs(1);

/// Runs them as processes, each in a process group of its own, in the root directory, with its output thrown away.
pub(crate) struct Processes;

impl Runner for Processes {
    fn run(&self, command: &[String], input: &Input<'_>, limit: Duration, stop: &Interrupt) -> Ran {
        let Some((program, arguments)) = command.split_first() else {
            return Ran::Failed("there is no command".into());
        };
        let input = match input.as_file() {
            Ok(input) => input,
            Err(error) => return Ran::Failed(format!("its standard input could not be written: {error}")),
        };
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/").process_group(0);
        command.stdin(input).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(mut child) => await_end(&mut child, limit, stop),
            Err(error) => Ran::Failed(format!("'{program}' could not be run: {error}")),
        }
    }
}

impl Input<'_> {
    /// A file that has no name: a command that does not read it holds up nobody.
    fn as_file(&self) -> io::Result<File> {
        if let Some(directory) = self.directory {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let made = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR).and_then(|file| {
                // A command that gives up its rights opens /dev/stdin all the same, as it can one in memory.
                rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444))?;
                Ok(file)
            });
            match made.map_err(io::Error::from).and_then(|file| self.fill(file.into())) {
                Ok(file) => return Ok(file),
                // A disk that is full, most of all, or one that knows no such files. What it may cost then is memory.
                Err(error) => log::warn!(
                    "the standard input of a command stands in memory, as '{}' takes no file for it: {error}",
                    directory.display()
                ),
            }
        }
        self.fill(memfd_create("report", MemfdFlags::CLOEXEC)?.into())
    }

    fn fill(&self, file: File) -> io::Result<File> {
        let mut writer = BufWriter::new(file);
        (self.write)(&mut writer)?;
        let mut file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }
}

fn await_end(child: &mut Child, limit: Duration, stop: &Interrupt) -> Ran {
    let group = Pid::from_child(child);
    let (has_ended, ended, woken) = (AtomicBool::new(false), Interrupt::new(), stop.child());
    let reason = scope(|scope| {
        let wait = || {
            // It stays a zombie until all signals are sent: its number must not be another one's by then.
            while let Err(rustix::io::Errno::INTR) =
                waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            {}
            has_ended.store(true, Ordering::SeqCst);
            ended.raise();
            woken.raise();
        };
        let waiting = threads::for_a(Role::Waiter).spawn_scoped(scope, wait);
        if let Err(error) = waiting {
            signal(group, Signal::KILL);
            return Some(Ran::Failed(format!("it could not be waited for: {error}")));
        }
        let is_woken = woken.sleep(limit);
        if has_ended.load(Ordering::SeqCst) {
            return None;
        }
        if is_woken {
            signal(group, Signal::TERM);
            if ended.sleep(GRACE) {
                return Some(Ran::Stopped);
            }
        }
        signal(group, Signal::KILL);
        Some(if is_woken {
            Ran::Stopped
        } else {
            Ran::Failed(format!("it was killed after {} s", limit.as_secs()))
        })
    });
    let status = child.wait();
    reason.unwrap_or_else(|| of_status(status))
}

fn of_status(status: io::Result<ExitStatus>) -> Ran {
    match status {
        Ok(status) if status.success() => Ran::Well,
        Ok(status) => Ran::Failed(format!("it ended with {status}")),
        Err(error) => {
            let hint = "; a process that ignores SIGCHLD is told of no end";
            Ran::Failed(format!("how it ended is not known: {error}{hint}"))
        }
    }
}

fn signal(group: Pid, signal: Signal) {
    // One that is gone needs none.
    let _ = kill_process_group(group, signal);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn run(script: &str, input: &[u8], limit: Duration, stop: &Interrupt) -> Ran {
        run_with(script, input, None, limit, stop)
    }

    fn run_with(script: &str, input: &[u8], directory: Option<&Path>, limit: Duration, stop: &Interrupt) -> Ran {
        let command = ["/bin/sh", "-c", script].map(String::from);
        let write = |to: &mut dyn Write| to.write_all(input);
        let write = &write;
        Processes.run(&command, &Input { write, directory }, limit, stop)
    }

    #[test]
    fn an_input_stands_in_a_file_of_the_directory_that_is_given_and_in_memory_where_it_takes_none() {
        let never = Interrupt::new();
        let home = tempfile::tempdir().unwrap();
        for (directory, place) in [
            (home.path().to_path_buf(), home.path().display().to_string()),
            (home.path().join("missing"), "/memfd:report".to_owned()),
        ] {
            let script =
                format!("case $(readlink /proc/self/fd/0) in '{place}'*) test \"$(cat)\" = report;; *) exit 9;; esac");
            let ran = run_with(&script, b"report", Some(&directory), LONG, &never);
            assert_eq!(ran, Ran::Well, "{place}");
        }
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "it has a name");
    }

    #[test]
    fn a_command_whose_input_cannot_be_written_is_not_run() {
        let write = |_: &mut dyn Write| Err(io::Error::other("no more"));
        let (write, directory) = (&write, None);
        let ran = Processes.run(
            &["/bin/true".into()],
            &Input { write, directory },
            LONG,
            &Interrupt::new(),
        );
        assert_eq!(
            ran,
            Ran::Failed("its standard input could not be written: no more".into())
        );
    }

    #[test]
    fn a_command_finds_its_input_and_tells_by_its_status_how_it_went() {
        let never = Interrupt::new();
        assert_eq!(run("test \"$(cat)\" = report", b"report", LONG, &never), Ran::Well);
        assert_eq!(
            run("exit 3", b"", LONG, &never),
            Ran::Failed("it ended with exit status: 3".into())
        );
        let (write, directory) = (&|_: &mut dyn Write| Ok(()), None);
        let missing = Processes.run(&["/no/such/program".into()], &Input { write, directory }, LONG, &never);
        assert!(matches!(missing, Ran::Failed(problem) if problem.contains("/no/such/program")));
    }

    #[test]
    fn a_command_that_reads_nothing_holds_up_nobody_however_much_there_is_to_read() {
        let never = Interrupt::new();
        assert_eq!(run("exit 0", &vec![b'x'; 4 << 20], LONG, &never), Ran::Well);
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed_with_all_it_has_started() {
        let never = Interrupt::new();
        let limit = Duration::from_millis(50);
        let ran = run("trap '' TERM; sleep 600 & wait", b"", limit, &never);
        assert_eq!(ran, Ran::Failed("it was killed after 0 s".into()));
    }

    #[test]
    fn a_command_is_stopped_with_the_engine() {
        let stop = Interrupt::new();
        stop.raise();
        assert_eq!(run("exec sleep 600", b"", LONG, &stop), Ran::Stopped);
    }
}
