//! A server that no test can forget: killed and reaped when the test lets go of it, and also when this process dies.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs a server in a session of its own. A process that waits for the end of the standard input, which comes when the
/// test lets go of the pipe or dies, then kills it. Whatever the server leaves of its session or its debris goes too.
const SCRIPT: &str = r#"
    debris=$1; shift; PATH="$PATH:/usr/sbin"; exec 3<&0
    setsid "$@" </dev/null 3<&- & server=$!
    { read -r line <&3; kill -KILL "$server"; } & watcher=$!
    wait "$server"; kill -KILL "-$server"; kill "$watcher"
    [ -z "$debris" ] || rm -f "$debris"*"#;

/// A running server.
pub(crate) struct Keeper(Child);

impl Keeper {
    /// Starts `words` in `folder`; what it prints goes to `out` there. `debris` is how the paths of files begin that it
    /// makes elsewhere; empty where it makes none.
    pub(crate) fn start<Word: AsRef<OsStr>>(
        folder: &Path,
        words: impl IntoIterator<Item = Word>,
        debris: &str,
        environment: &[(&str, &OsStr)],
    ) -> Self {
        let out = fs::File::create(folder.join("out")).unwrap();
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "sh", debris])
            .args(words)
            .current_dir(folder)
            // Some look for a home even where they are told to keep nothing there.
            .env("HOME", folder)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("sh can be started");
        Self(child)
    }

    /// The server has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Lets servers that give up root get through to a folder.
pub(crate) fn open_for_others(folder: &Path) {
    set_mode(folder, 0o755);
    for above in folder.ancestors() {
        let mode = fs::metadata(above).unwrap().mode();
        assert!(
            mode & 0o001 != 0,
            "{} is closed to other accounts, as which the servers work: give it mode 711, or set TMPDIR elsewhere",
            above.display()
        );
    }
}
