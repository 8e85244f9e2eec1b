//! A real file system on a loop device, whose power can be cut: what was not synced is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{left_out, until};

/// XFS makes nothing smaller than 300 MiB; the image is sparse.
const IMAGE_BYTES: u64 = 512 << 20;

/// A mounted file system, unmounted when the test lets go of it.
pub(crate) struct LoopDisk {
    folder: TempDir,
}

impl LoopDisk {
    /// Makes and mounts one of this kind, or says why it cannot be mounted here.
    ///
    /// # Panics
    /// If it cannot be made: `tests/run --prepare` installs what that takes.
    pub(crate) fn make(kind: &str) -> Result<Self, String> {
        Self::make_with(kind, &[])
    }

    /// The same, with options for the program that makes it.
    pub(crate) fn make_with(kind: &str, options: &[&str]) -> Result<Self, String> {
        let disk = Self {
            folder: TempDir::with_prefix("backhaul-loop-").unwrap(),
        };
        fs::create_dir(disk.path()).unwrap();
        fs::File::create(disk.image()).unwrap().set_len(IMAGE_BYTES).unwrap();
        let force = if kind == "xfs" { "-f" } else { "-F" };
        run(Command::new(format!("mkfs.{kind}"))
            .args(["-q", force])
            .args(options)
            .arg(disk.image()))
        .unwrap();
        disk.mount()?;
        Ok(disk)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Nothing reaches the disk any more, and what was not synced never will; the log of the file system is not flushed.
    pub(crate) fn cut(&self) {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(self.path())).unwrap();
    }

    /// Makes everything durable that was done so far.
    pub(crate) fn sync(&self) {
        run(Command::new("sync").arg("-f").arg(self.path())).unwrap();
    }

    /// The power is back: the file system recovers by its log. No process may hold a file on it.
    pub(crate) fn power_on(&self) {
        // A process that was killed lets go of its files a moment later where another thread of it was in a system call.
        until("the file system to be unmounted", || self.unmount().ok());
        self.mount().unwrap();
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(self.image())
            .arg(self.path()))
    }

    fn unmount(&self) -> Result<(), String> {
        run(Command::new("umount").arg(self.path()))
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // After a panic a command may still be dying; the kernel then unmounts it when that is over.
        if self.unmount().is_err() {
            let _ = run(Command::new("umount").arg("-l").arg(self.path()));
        }
    }
}

/// Puts a file of our own over the identity of this boot, for all processes of this mount namespace: a cut of the power
/// then is followed by another boot, as it would be.
pub(crate) fn cover_boot_id(file: &Path) -> Result<(), String> {
    run(Command::new("mount")
        .arg("--bind")
        .arg(file)
        .arg("/proc/sys/kernel/random/boot_id"))
}

/// Runs a test in a mount namespace of its own: however it ends, nothing stays mounted, and it alone sees other boots.
pub(crate) fn alone(name: &str, work: impl FnOnce()) {
    const INSIDE: &str = "BACKHAUL_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return work();
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        command
    };
    let allowed = unshare().arg("true").output().expect("unshare can be started");
    if !allowed.status.success() {
        return left_out("mounting takes root (CAP_SYS_ADMIN)");
    }
    let mut inner = unshare();
    inner
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"]);
    // What the inner harness counts is counted here already.
    inner.env(INSIDE, "1").stdout(Stdio::null());
    assert!(inner.status().unwrap().success(), "see above");
}

/// Runs a program that prints nothing where all is well.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    ask(command).map(|_| ())
}

/// What a program prints, without the end of its last line.
pub(crate) fn ask(command: &mut Command) -> Result<String, String> {
    // These live in directories that are not on every user's PATH.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let command = command.env("PATH", path).stdin(Stdio::null());
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{program}: {}", text(&output.stderr).replace('\n', "; ")))
}
