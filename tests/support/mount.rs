//! A small file system of its own, for full and read-only disks.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::left_out;

/// A mounted tmpfs, unmounted when the test lets go of it.
pub(crate) struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one. `None` only where `BACKHAUL_TEST_NO_MOUNT=1` says that this may be left out.
    ///
    /// # Panics
    /// If it cannot be mounted, and nobody said that this may be left out.
    pub(crate) fn mount(size_bytes: u64) -> Option<Self> {
        let disk = Self {
            folder: TempDir::with_prefix("backhaul-disk-").unwrap(),
        };
        let options = format!("size={size_bytes},mode=0755");
        if run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs"], disk.folder.path()) {
            return Some(disk);
        }
        let opted_out = std::env::var("BACKHAUL_TEST_NO_MOUNT").is_ok_and(|value| value == "1");
        assert!(
            opted_out,
            "this test mounts a small tmpfs, which takes root (CAP_SYS_ADMIN). Run it as root, or leave it out on \
             purpose with BACKHAUL_TEST_NO_MOUNT=1."
        );
        left_out("BACKHAUL_TEST_NO_MOUNT=1 is set and mount was refused");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all room but about so many bytes; the file returned gives it back when removed.
    pub(crate) fn fill_but(&self, free_bytes: u64) -> PathBuf {
        let ballast = self.path().join("ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        let page = vec![0; 4096];
        while file.write_all(&page).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length - free_bytes).unwrap();
        ballast
    }

    pub(crate) fn make_read_only(&self) {
        assert!(run("mount", &["-o", "remount,ro"], self.path()));
    }

    pub(crate) fn make_writable(&self) {
        assert!(run("mount", &["-o", "remount,rw"], self.path()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a command under test that is still being killed may hold a file on it.
        run("umount", &["-l"], self.folder.path());
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
