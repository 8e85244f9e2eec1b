//! How the engine of a client is set up: with the HTTP backend, and in haste.

use std::sync::Arc;
use std::time::Duration;

use backhaul::{Backend, Config, Connections, Limits, RetryPolicy, TransferStatus, Window};

use crate::lives::life::Task;
use crate::resource::Version;
use crate::server::{Scene, Server};

/// The test that a child process runs.
pub(crate) const CHILD: &str = "client::a_client_completes_what_an_honest_server_gives";

pub(crate) fn backends(config: &Config) -> Vec<Arc<dyn Backend>> {
    backhaul::backends(config, |_| None).unwrap()
}

/// Claims come early and often, nothing is waited for long, and little is worth a connection.
pub(crate) fn config(connections: usize) -> Config {
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
            connect: Duration::from_secs(10),
            response: Duration::from_secs(10),
            stall: Duration::from_secs(10),
        },
        window: Window {
            claim_bytes: 64 << 10,
            claim_after: ms(10),
            unclaimed_bytes_max: 128 << 10,
            unclaimed_age_max: ms(100),
            short_path_bytes_max: 16 << 10,
        },
        buffer_bytes: 16 << 10,
        connections: Connections {
            max: connections.max(1),
            at_once: true,
            bytes_min: 2 << 10,
            ..Connections::default()
        },
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
    let versions = vec![Version::new(1, 0, 300_000).tagged("\"a\"")];
    let server = Server::start(Scene {
        versions: versions.clone(),
        page: Vec::new(),
        script: Vec::new(),
    });
    for connections in [1, 4] {
        let home = tempfile::tempdir().unwrap();
        let task = Task::new(home.path(), server.url()).expecting_digest_of(&versions[0].bytes);
        let view = task.over(connections).live();
        assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        assert_eq!(
            std::fs::read(home.path().join("files/file")).unwrap(),
            *versions[0].bytes
        );
        assert_eq!(server.record().pieces() > 0, connections > 1);
    }
}
