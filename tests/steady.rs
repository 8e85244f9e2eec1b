//! Nothing grows with time: a day of transfers through one engine, on a clock that the test moves. One test, so that
//! nobody else allocates meanwhile.

#[path = "support/held.rs"]
mod held;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backhaul::{Config, Engine, FixedEnvironment, NewDownload, Retention, TransferId};
use backhaul_backends::{
    Backend, Capabilities, Failure, Head, HeaderFields, Interrupt, Refused, Request, Sink, Start, Validators,
    WebErrorStatus,
};
use backhaul_journal::Disk;

use held::{Counting, HELD_BYTES};

/// Transfers in a day, each hour the same number of them but for what the division leaves.
const TRANSFERS: usize = 10_000;
const HOURS: usize = 24;
/// Most growth between hour 2 and hour 24, in hundredths.
const GROWTH_MAX: usize = 5;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Serves its own URL as the content of each resource, and remembers nothing.
struct Echo;

impl Backend for Echo {
    fn schemes(&self) -> Vec<&str> {
        vec!["echo"]
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, _: &Interrupt) -> Result<(), Failure> {
        let content = request.url.as_bytes();
        let refused = |Refused| Failure {
            kind: backhaul_backends::FailureKind::SinkRefused,
            status: WebErrorStatus::UNKNOWN,
            code: None,
            message: "refused".into(),
        };
        let head = Head {
            start: Start::Beginning,
            validators: Validators {
                total_bytes: Some(content.len() as u64),
                ..Validators::default()
            },
            actual_url: request.url.clone(),
            status_code: 200,
            resumable: Some(false),
            provable: false,
            on_trust: false,
            content_type: None,
            modified: None,
            mirrors: Vec::new(),
            headers: HeaderFields::default(),
        };
        sink.begin(&head).map_err(refused)?;
        sink.write(content).map_err(refused)
    }
}

/// What this process has of memory.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or(0, |kib: usize| kib << 10)
}

/// Some transfers, each made, waited for, acknowledged, and its file taken away.
fn hour(engine: &Engine, outside: &FixedEnvironment, data: &Path, numbers: std::ops::Range<usize>) {
    let count = u32::try_from(numbers.len()).expect("a small number");
    for number in numbers {
        let destination = data.join(format!("file-{number:06}"));
        let download = NewDownload {
            url: format!("echo://host-{}.example/file-{number:06}", number % 5),
            destination: destination.clone(),
            app: "some.app".into(),
            ..NewDownload::default()
        };
        let ids: Vec<TransferId> = engine.create(&[download]).expect("it is created");
        while engine.step() {}
        std::fs::remove_file(&destination).expect("it is published");
        // One of seven nobody acknowledges.
        if number % 7 > 0 {
            engine.acknowledge(&ids).expect("it has ended");
        }
        outside.advance(Duration::from_secs(3600) / count);
    }
}

#[test]
fn ten_thousand_transfers_in_a_day_leave_memory_as_it_was_after_two_hours() {
    for memory_limit in [None, Some(8 << 20)] {
        // In memory where there is such a place: syncs that reach a disk take minutes, and are not what this is about.
        let in_memory = tempfile::tempdir_in("/dev/shm");
        let home = in_memory.or_else(|_| tempfile::tempdir()).expect("a directory");
        let data = home.path().join("data");
        std::fs::create_dir(&data).expect("a directory");
        let outside = FixedEnvironment::new(1);
        let config = Config {
            memory_limit,
            retention: Retention {
                acknowledged_max: 500,
                acknowledged_for: Duration::from_secs(3600),
                unacknowledged_max: 100,
            },
            ..Config::default()
        };
        let environment = outside.on(Arc::new(Disk));
        let state = home.path().join("state");
        let engine = Engine::open(&state, config, environment, vec![Arc::new(Echo)]).expect("it opens");
        let mut held = Vec::with_capacity(HOURS + 1);
        held.push((0, 0));
        for number in 0..HOURS {
            let numbers = TRANSFERS * number / HOURS..TRANSFERS * (number + 1) / HOURS;
            hour(&engine, &outside, &data, numbers);
            held.push((HELD_BYTES.load(Ordering::Relaxed), resident_bytes()));
        }
        let ((heap_before, resident_before), (heap, resident)) = (held[2], held[HOURS]);
        let _ = writeln!(
            std::io::stderr(),
            "figure: after hours 2 and 24 of {TRANSFERS} transfers: {heap_before} and {heap} bytes of heap, \
             {resident_before} and {resident} resident (limit {memory_limit:?})"
        );
        assert!(heap * 100 <= heap_before * (100 + GROWTH_MAX), "{held:?}");
        assert!(resident * 100 <= resident_before * (100 + GROWTH_MAX), "{held:?}");
    }
}
