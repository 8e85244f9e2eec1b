//! One download of one file by the real command, which a test can stop at an exact byte and take up again.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::relay::Relay;
use crate::server::Server;
use crate::support::{Ended, Home, Running, assert_same, names_in, until};

/// The most that one crash may cost, in bytes.
pub(crate) const WINDOW_BYTES: u64 = 16 << 20;

/// What is asked for once more and compared, for each attempt that goes on; bytes that were sent and never read.
const OVERLAP_BYTES: u64 = 64 << 10;

/// Bytes that passed and may not be in the part file yet when the command is ended.
const UNDER_WAY_BYTES: u64 = 128 << 10;

/// How a command is ended in the middle.
#[derive(Clone, Copy)]
pub(crate) enum Stop {
    /// SIGKILL: nothing can be tidied up.
    Kill,
    /// SIGTERM: all bytes that came are claimed.
    Terminate,
}

/// A file, a fresh device to fetch it to, and the relay between them.
pub(crate) struct Visit {
    pub(crate) home: Home,
    pub(crate) relay: Relay,
    pub(crate) url: String,
    destination: PathBuf,
    more: Vec<String>,
}

impl Visit {
    /// Of `/path` on the server; `path` is encoded.
    pub(crate) fn new(server: &Server, path: &str) -> Self {
        Self::with_login(server, &server.login(), path)
    }

    /// The same by whoever logs in as `login`, which is empty or ends with `@`.
    pub(crate) fn with_login(server: &Server, login: &str, path: &str) -> Self {
        let relay = Relay::to(server.address());
        let home = Home::new();
        Self {
            url: format!("ftp://{login}127.0.0.1:{}/{path}", relay.port()),
            destination: home.download("file"),
            more: Vec::new(),
            home,
            relay,
        }
    }

    /// With more options of `get`.
    pub(crate) fn with(mut self, more: &[&str]) -> Self {
        self.more.extend(more.iter().map(|&word| word.to_owned()));
        self
    }

    /// Starts `get`; given again it goes on with the same operation.
    pub(crate) fn start(&self) -> Running {
        let mut arguments = vec!["get", &self.url, "-o", self.destination.to_str().unwrap()];
        arguments.extend(self.more.iter().map(String::as_str));
        self.home.spawn(&arguments)
    }

    /// Runs `get` to its end.
    pub(crate) fn run(&self) -> Ended {
        self.start().finish()
    }

    /// Holds the data after so many bytes, waits until nearly all are in the part file, and ends the command. Returns how
    /// many are claimed.
    pub(crate) fn stop_after(&self, bytes: u64, stop: Stop) -> u64 {
        let mut running = self.hold_after(bytes);
        match stop {
            Stop::Kill => running.kill(),
            Stop::Terminate => {
                running.signal(Signal::TERM);
                running.finish();
            }
        }
        self.relay.cut();
        self.relay.release();
        self.home.operation()["bytes_done"].as_u64().unwrap()
    }

    /// Starts `get`, and holds the data after so many bytes, once nearly all are in the part file.
    pub(crate) fn hold_after(&self, bytes: u64) -> Running {
        self.relay.hold_after(bytes);
        let mut running = self.start();
        until("the held part of the file", || {
            assert!(
                !running.has_ended(),
                "ended before it was stopped: {}",
                self.home.operation()
            );
            (stored_bytes(&self.home) >= bytes - UNDER_WAY_BYTES).then_some(())
        });
        running
    }

    /// Runs `get` to its end, which must be good: exactly these bytes under the final name, and nothing beside it.
    /// Returns what `show --json` says.
    pub(crate) fn complete(&self, expected: &[u8]) -> Value {
        self.run().expect_code(0);
        self.check(expected)
    }

    /// The download is complete with exactly these bytes, and nothing lies beside it.
    pub(crate) fn check(&self, expected: &[u8]) -> Value {
        assert_same(&self.destination, expected);
        assert_eq!(
            names_in(&self.home.downloads()),
            ["file"],
            "partial data is left behind"
        );
        let shown = self.shown();
        assert_eq!(shown["status"], "Completed", "{shown}");
        assert_eq!(shown["bytes_done"], expected.len(), "{shown}");
        shown
    }

    /// What `show --json` says.
    pub(crate) fn shown(&self) -> Value {
        let id = self.home.operation()["id"].as_str().unwrap().to_owned();
        self.home.run(&["show", &id, "--json"]).expect_code(0).json()
    }

    /// Bytes that passed beyond one copy of the content.
    pub(crate) fn fetched_again(&self, content: &[u8]) -> u64 {
        self.relay.passed_bytes().saturating_sub(content.len() as u64)
    }
}

/// Bytes in the part files and files of a device.
pub(crate) fn stored_bytes(home: &Home) -> u64 {
    let sizes = names_in(&home.downloads())
        .into_iter()
        .map(|name| fs::metadata(home.download(&name)).map_or(0, |metadata| metadata.len()));
    sizes.sum()
}

/// The transfer went on where it was: no restart, and at most `allowed_bytes` came twice.
pub(crate) fn assert_continued(visit: &Visit, shown: &Value, content: &[u8], allowed_bytes: u64) {
    assert_eq!(
        (&shown["restarts"], &shown["bytes_wasted"]),
        (&0.into(), &0.into()),
        "{shown}"
    );
    let again = visit.fetched_again(content);
    assert!(
        again <= allowed_bytes + OVERLAP_BYTES + UNDER_WAY_BYTES,
        "{again} bytes again, at most {allowed_bytes}"
    );
}

/// The transfer began anew once, gave up what was claimed, and says so.
pub(crate) fn assert_restarted(shown: &Value, claimed: u64) {
    assert!(claimed > 0, "nothing was claimed that could be given up");
    assert_eq!(
        (&shown["restarts"], &shown["bytes_wasted"]),
        (&1.into(), &claimed.into()),
        "{shown}"
    );
}
