//! How the engine of a client is set up: with the FTP backend, and in haste.

use std::sync::Arc;
use std::time::Duration;

use backhaul::{Backend, Config, Limits, RetryPolicy, TransferStatus, Window};
use backhaul_backends::{FtpBackend, FtpConfig};

use crate::lives::life::Task;
use crate::resource::{Times, Version};
use crate::server::{Scene, Server};

/// The test that a child process runs.
pub(crate) const CHILD: &str = "client::a_client_completes_what_an_honest_server_gives";

/// What ends every silence.
const SILENCE: Duration = Duration::from_millis(400);

pub(crate) fn backends(_: &Config) -> Vec<Arc<dyn Backend>> {
    vec![Arc::new(FtpBackend::new(FtpConfig::default()).unwrap())]
}

/// Claims come early and often, and nothing is waited for long.
pub(crate) fn config(_connections: usize) -> Config {
    let ms = Duration::from_millis;
    Config {
        jobs_max: 1,
        retry: RetryPolicy {
            failures_max: 12,
            delay_first: ms(1),
            delay_max: ms(4),
            retry_after_min: ms(1),
            retry_after_max: ms(4),
            probe_every: ms(4),
            clock_probe_every: ms(4),
        },
        limits: Limits {
            connect: Duration::from_secs(2),
            response: SILENCE,
            stall: SILENCE,
        },
        window: Window {
            claim_bytes: 64 << 10,
            claim_after: ms(10),
            unclaimed_bytes_max: 128 << 10,
            unclaimed_age_max: ms(100),
            short_path_bytes_max: 16 << 10,
        },
        buffer_bytes: 16 << 10,
        ..Config::default()
    }
}

/// A child of the other tests lives its life in here.
#[test]
fn a_client_completes_what_an_honest_server_gives() {
    if let Some(task) = Task::of_this_process() {
        task.live();
        return;
    }
    for times in [Times::Distinct, Times::Now, Times::None] {
        let versions = vec![Version::new(1, 0, 300_000)];
        let server = Server::start(Scene {
            versions: versions.clone(),
            times,
            script: Vec::new(),
            is_free: false,
        });
        let home = tempfile::tempdir().unwrap();
        let task = Task::new(home.path(), server.url()).expecting_digest_of(&versions[0].bytes);
        let view = task.live();
        assert_eq!(
            view.status,
            TransferStatus::Completed,
            "{view:?}\n{:#?}",
            server.record().talk
        );
        assert_eq!(std::fs::read(task.file()).unwrap(), *versions[0].bytes);
        assert_eq!(view.attempts, 1, "{:#?}", server.record().talk);
    }
}
