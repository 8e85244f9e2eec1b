//! Seeded runs: a server that does what it likes, a client whose lives end, and a judge.

use std::collections::BTreeMap;
use std::path::Path;

use backhaul::{OperationView, TransferStatus};

use crate::draw::{Ending, Expects, Plan};
use crate::lives::content::origin;
use crate::lives::life::{Stop, Task};
use crate::resource::Times;
use crate::server::{Record, Scene, Server};

/// What one run came to.
pub(crate) struct Outcome {
    record: Record,
    view: OperationView,
    endings: Vec<&'static str>,
}

/// What all runs came to.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) runs: u64,
    pub(crate) completed: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) endings: BTreeMap<&'static str, u64>,
    pub(crate) sessions: u64,
    pub(crate) commands: u64,
    pub(crate) refused: u64,
    /// Transfers from another byte than the first.
    pub(crate) rests: u64,
    pub(crate) restarts: u64,
    pub(crate) longest_answer: u64,
    pub(crate) faults: BTreeMap<&'static str, u64>,
}

impl Totals {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        let Outcome { record, view, endings } = outcome;
        self.runs += 1;
        self.sessions += record.sessions as u64;
        self.commands += record.commands as u64;
        self.refused += record.refused;
        self.rests += record.rests;
        self.restarts += u64::from(view.restarts);
        self.longest_answer = self.longest_answer.max(record.longest_answer);
        for (fault, count) in &record.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        for ending in endings {
            *self.endings.entry(ending).or_default() += 1;
        }
        match &view.error {
            Some(error) => *self.errors.entry(error.status.to_string()).or_default() += 1,
            None => self.completed += 1,
        }
    }
}

/// Does what a seed says and judges what came of it.
///
/// # Panics
/// Where anything but one whole version was published, or anything else was promised and not kept.
pub(crate) fn run(seed: u64) -> Outcome {
    let plan = Plan::draw(seed);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(Scene {
        versions: plan.versions.clone(),
        times: plan.times,
        script: plan.script.clone(),
        is_free: matches!(plan.expects, Expects::Digest(_)),
    });
    let task = Task::new(home.path(), server.url());
    let task = match plan.expects {
        Expects::Nothing => task,
        Expects::Length(version) => task.expecting_length_of(&plan.versions[version].bytes),
        Expects::Digest(version) => task.expecting_digest_of(&plan.versions[version].bytes),
    };
    let mut endings = Vec::new();
    for Ending { kill, stop } in &plan.endings {
        let record = server.record();
        let kill = kill.counted_from(record.commands, record.body_bytes);
        let before = server.killer().kills();
        match stop {
            Some(stop) => task.live_until(*stop, server.killer(), kill),
            None => task.live_until_killed(server.killer(), kill),
        }
        if server.killer().kills() > before {
            endings.push(match stop {
                Some(Stop::Closed) => "closed",
                Some(Stop::Dropped) => "dropped",
                Some(Stop::Paused) => "paused",
                None => "killed",
            });
        }
        judge_file(seed, &plan, &server.record(), &task.file());
    }
    let view = task.live();
    let record = server.record();
    judge(seed, &plan, &record, &view, &task);
    Outcome { record, view, endings }
}

fn judge(seed: u64, plan: &Plan, record: &Record, view: &OperationView, task: &Task) {
    let said = &record.talk;
    assert!(
        !record.went_elsewhere,
        "it went where the server had no business to send it: {said:#?}"
    );
    let files: Vec<_> = std::fs::read_dir(task.files())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    match view.status {
        TransferStatus::Completed => {
            assert_eq!(files, ["file"], "more than the file is left; {view:?}");
            let length = judge_file(seed, plan, record, &task.file());
            assert_eq!(Some(view.bytes_done), length, "{view:?}");
            assert_eq!(view.error, None, "{view:?}");
        }
        TransferStatus::Error => {
            assert!(files.is_empty(), "{files:?} is left after {view:?}");
            let error = view.error.as_ref();
            let error = error.unwrap_or_else(|| panic!("an error without a name: {view:?}"));
            assert!(error.status.name().is_some(), "an error without a name: {view:?}");
            // Of the errors of this side, a server can bring about only that of a length that no file has.
            let may_be = match error.status.to_string().as_str() {
                "Unknown" => false,
                "FileAccess" => error.message.contains("too large"),
                _ => true,
            };
            assert!(may_be, "an error of no class, or of this side: {view:?}, {said:#?}");
        }
        _ => panic!("it has not ended: {view:?}, {said:#?}"),
    }
}

/// What stands under the final name, if anything does, is one whole version that was there and expected. Gives its
/// length.
fn judge_file(seed: u64, plan: &Plan, record: &Record, path: &Path) -> Option<u64> {
    let bytes = std::fs::read(path).ok()?;
    let is_version = |version: usize| *plan.versions[version].bytes == bytes;
    let was_served = record.served.iter().any(|served| is_version(*served));
    let is_right = match plan.expects {
        Expects::Digest(version) => is_version(version),
        Expects::Length(version) => was_served && bytes.len() == plan.versions[version].len(),
        Expects::Nothing => was_served,
    };
    let times = if plan.times == Times::Now {
        ", in one second or a few"
    } else {
        ""
    };
    assert!(
        is_right,
        "published a file that is no version which was served ({:?} were{times}): {}\n{:#?}\n{plan:#?}",
        record.served,
        origin(&bytes, seed, plan.versions.len()),
        record.talk,
    );
    Some(bytes.len() as u64)
}
