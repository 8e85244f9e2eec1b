//! Seeded runs: a server that does what it likes, a client that is killed, and a judge.

use std::collections::BTreeMap;
use std::path::Path;

use backhaul::{OperationView, TransferStatus};

use crate::draw::{Expects, Plan};
use crate::lives::content::origin;
use crate::lives::life::Task;
use crate::server::{Record, Scene, Server};

/// What all runs came to.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) runs: u64,
    pub(crate) kills: u64,
    pub(crate) requests: u64,
    /// Parts with which a download was continued, right or not.
    pub(crate) parts: u64,
    /// Of those, parts that end where another connection's begins.
    pub(crate) pieces: u64,
    pub(crate) completed: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) restarts: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, record: &Record, kills: u32, view: &OperationView) {
        self.runs += 1;
        self.kills += u64::from(kills);
        self.requests += record.asked.len() as u64;
        self.parts += record.asked.iter().filter(|asked| asked.status == 206).count() as u64;
        self.pieces += record.pieces();
        self.restarts += u64::from(view.restarts);
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
pub(crate) fn run(seed: u64) -> (Record, u32, OperationView) {
    let plan = Plan::draw(seed);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(Scene {
        versions: plan.versions.clone(),
        page: plan.page.clone(),
        script: plan.script.clone(),
    });
    let task = Task::new(home.path(), server.url());
    let task = match plan.expects {
        Expects::Nothing => task,
        Expects::Length(version) => task.expecting_length_of(&plan.versions[version].bytes),
        Expects::Digest(version) => task.expecting_digest_of(&plan.versions[version].bytes),
    };
    let mut over = plan.connections.iter().copied();
    let mut next_life = || task.clone().over(over.next().unwrap_or(1));
    for kill in &plan.kills {
        let record = server.record();
        let kill = kill.counted_from(record.asked.len(), record.body_bytes);
        next_life().live_until_killed(server.killer(), kill);
        judge_file(seed, &plan, &server.record(), &task.file());
    }
    let view = next_life().live();
    let record = server.record();
    judge(seed, &plan, &record, &view, &task);
    (record, server.killer().kills(), view)
}

fn judge(seed: u64, plan: &Plan, record: &Record, view: &OperationView, task: &Task) {
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
            let error = view
                .error
                .as_ref()
                .unwrap_or_else(|| panic!("an error without a name: {view:?}"));
            assert!(error.status.name().is_some(), "an error without a name: {view:?}");
        }
        _ => panic!("it has not ended: {view:?}"),
    }
}

/// What stands under the final name, if anything does, is one whole representation that was served and expected. Gives
/// its length.
fn judge_file(seed: u64, plan: &Plan, record: &Record, path: &Path) -> Option<u64> {
    let bytes = std::fs::read(path).ok()?;
    let is_version = |version: usize| *plan.versions[version].bytes == bytes;
    let is_right = match plan.expects {
        Expects::Digest(version) => is_version(version),
        Expects::Length(version) => {
            bytes.len() == plan.versions[version].len() && record.served.iter().any(|served| is_version(*served))
        }
        Expects::Nothing => {
            let is_page = record.page_served && bytes == plan.page;
            is_page || record.served.iter().any(|served| is_version(*served))
        }
    };
    assert!(
        is_right,
        "published a file that is no version which was served ({:?} were): {}\n{:#?}\n{:#?}",
        record.served,
        origin(&bytes, seed, plan.versions.len()),
        record.asked,
        (
            &plan.versions,
            &plan.script,
            &plan.kills,
            plan.expects,
            &plan.connections
        ),
    );
    Some(bytes.len() as u64)
}
