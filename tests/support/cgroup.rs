//! A group of processes that may take so much memory together and no more, the cache of their files included.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::left_out;

/// How many this process has made: each has a name of its own.
static MADE: AtomicUsize = AtomicUsize::new(0);

const VERSION_1: &str = "/sys/fs/cgroup/memory";
const VERSION_2: &str = "/sys/fs/cgroup";

/// A memory cgroup, removed when the test lets go of it, after its processes.
pub(crate) struct MemoryGroup {
    path: PathBuf,
    is_version_2: bool,
}

impl MemoryGroup {
    /// Makes one. `None` where this takes root, which we are not, and `BACKHAUL_TEST_NO_ROOT=1` says that it may be left out;
    /// and where the system has no memory controller.
    ///
    /// # Panics
    /// If it is refused, and nobody said that this may be left out.
    pub(crate) fn make(limit_bytes: u64) -> Option<Self> {
        let controllers = fs::read_to_string(Path::new(VERSION_2).join("cgroup.controllers"));
        let is_version_2 = controllers.is_ok_and(|names| names.split_whitespace().any(|name| name == "memory"));
        let root = Path::new(if is_version_2 { VERSION_2 } else { VERSION_1 });
        if !is_version_2 && !root.join("memory.limit_in_bytes").exists() {
            left_out("this system has no memory cgroups");
            return None;
        }
        if is_version_2 {
            // Refused where it is so already, or where this is not for us to say; then the limit below is missing.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("backhaul-test-{}-{number}", std::process::id()));
        let group = Self { path, is_version_2 };
        let limit = if is_version_2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        let made = fs::create_dir(&group.path).and_then(|()| group.write(limit, &limit_bytes.to_string()));
        if let Err(error) = made {
            let opted_out = std::env::var("BACKHAUL_TEST_NO_ROOT").is_ok_and(|value| value == "1");
            assert!(
                opted_out,
                "{}: {error}: this test makes a memory cgroup, which takes root. Run it as root, or leave it out on \
                 purpose with BACKHAUL_TEST_NO_ROOT=1.",
                group.path.display()
            );
            left_out("BACKHAUL_TEST_NO_ROOT=1 is set and a memory cgroup was refused");
            return None;
        }
        // Where there is no swap there is nothing to be forbidden.
        let swap = if is_version_2 {
            ("memory.swap.max", 0)
        } else {
            ("memory.memsw.limit_in_bytes", limit_bytes)
        };
        let _ = group.write(swap.0, &swap.1.to_string());
        Some(group)
    }

    fn write(&self, name: &str, value: &str) -> std::io::Result<()> {
        fs::write(self.path.join(name), value)
    }

    /// What a program is started by, so that it is in the group from its first moment on.
    pub(crate) fn starter(&self) -> Vec<String> {
        let script = "echo $$ > \"$0\" && exec \"$@\"";
        let procs = self.path.join("cgroup.procs").display().to_string();
        ["sh", "-c", script, &procs].map(str::to_owned).to_vec()
    }

    /// How many processes of the group were killed because it had no memory left.
    pub(crate) fn killed(&self) -> u64 {
        let name = if self.is_version_2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(self.path.join(name)).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.map_or(0, |count| count.trim().parse().unwrap())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}
