//! One process of a helper: in a group of its own, and gone at the end of its attempt, whatever it does.

use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::Interrupt;

/// Variables of the environment that a helper has; others may hold what is not for it.
const ENVIRONMENT: &[&str] = &[
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// How long a killed process is waited for. One that hangs in the kernel is left to the next attempt.
const DEATH_MAX: Duration = Duration::from_secs(1);
pub(super) const LOOK_MIN: Duration = Duration::from_millis(1);
pub(super) const LOOK_MAX: Duration = Duration::from_millis(50);

/// Most processes that were killed and are not gone.
const UNREAPED_MAX: usize = 64;

static UNREAPED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// A helper that was started. Dropping it kills it, and all it has started within its group.
pub(super) struct Process {
    child: Option<Child>,
}

/// A helper, our end of its standard input and output, and what it writes to its standard error.
pub(super) struct Started {
    pub(super) process: Process,
    pub(super) socket: UnixStream,
    pub(super) complaints: PipeReader,
}

/// Starts a helper: without arguments, in the root directory, with an environment that has nothing of the request.
pub(super) fn start(program: &Path) -> io::Result<Started> {
    reap();
    let (socket, far) = UnixStream::pair()?;
    let (complaints, complain) = io::pipe()?;
    let far = OwnedFd::from(far);
    let mut command = Command::new(program);
    command.env_clear().current_dir("/").process_group(0);
    command.envs(
        ENVIRONMENT
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?))),
    );
    command.stdin(far.try_clone()?).stdout(far).stderr(complain);
    let child = Some(command.spawn()?);
    let process = Process { child };
    Ok(Started {
        process,
        socket,
        complaints,
    })
}

impl Process {
    /// Waits for its end, so long at most and not beyond an interrupt; how it ended, if it has. It is not gone before it is
    /// dropped: its number stays its own.
    pub(super) fn await_end(&mut self, limit: Duration, interrupt: &Interrupt) -> bool {
        let start = Instant::now();
        let mut look = LOOK_MIN;
        loop {
            if self.is_over() {
                return true;
            }
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() || interrupt.sleep(look.min(left)) {
                return false;
            }
            look = (look * 2).min(LOOK_MAX);
        }
    }

    /// Whether it has ended, whatever it has started.
    pub(super) fn is_over(&self) -> bool {
        self.child.as_ref().is_none_or(has_ended)
    }

    /// Kills it with all it has started, and says how it ended by itself, if it did.
    pub(super) fn end(mut self) -> Option<ExitStatus> {
        let own_end = self.child.as_ref().is_some_and(has_ended);
        self.kill().filter(|_| own_end)
    }

    fn kill(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        // As long as it was not waited for, no other process or group has its number. One that is gone needs no signal.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let start = Instant::now();
        let mut look = LOOK_MIN;
        while start.elapsed() < DEATH_MAX {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Err(_) => return None,
                Ok(None) => std::thread::sleep(look),
            }
            look = (look * 2).min(LOOK_MAX);
        }
        let mut unreaped = UNREAPED.lock().unwrap_or_else(PoisonError::into_inner);
        if unreaped.len() < UNREAPED_MAX {
            unreaped.push(child);
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // What cannot be asked for is gone.
    waitid(WaitId::Pid(Pid::from_child(child)), options).map_or(true, |ended| ended.is_some())
}

/// Waits for those that were killed earlier and have gone since.
fn reap() {
    let mut unreaped = UNREAPED.lock().unwrap_or_else(PoisonError::into_inner);
    unreaped.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}
