//! Backends that keep to nothing: whatever one does, its own operation alone suffers, and no wrong file is published.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use backhaul::backend::{
    Backend, Capabilities, Digest, DigestAlgorithm, Failure, FailureKind, Head, HeaderFields, Interrupt, Request,
    Restart, Sink, Start, Validators, WebErrorStatus,
};
use backhaul::{Config, Connections, Engine, Environment, NewDownload, OperationView, TransferStatus, Until};

const LENGTH: usize = 256 << 10;
const HALF: usize = LENGTH / 2;
const OLD: u8 = b'a';
const NEW: u8 = b'b';

type Answer = Result<(), Failure>;
/// What is done instead of serving the resource, with what is held, in bytes.
type Lie = fn(&mut dyn Sink, u64) -> Answer;

/// Serves `lie:`. The first attempts are lies, one each; the others serve the new version, whole or from where it is proven.
/// One that has parts lies only where it is asked for one.
struct Liar {
    lies: Vec<Lie>,
    made: AtomicUsize,
    has_parts: bool,
}

fn head(version: u8, start: Start) -> Head {
    Head {
        start,
        validators: Validators {
            etag: Some(format!("\"{version}\"")),
            total_bytes: Some(LENGTH as u64),
            ..Validators::default()
        },
        actual_url: "lie://host/file".into(),
        status_code: 200,
        resumable: Some(true),
        provable: true,
        on_trust: false,
        content_type: None,
        modified: None,
        mirrors: Vec::new(),
        headers: HeaderFields::default(),
    }
}

fn digest() -> Digest {
    Digest::new(DigestAlgorithm::Sha256, [7; 32]).unwrap()
}

fn cut() -> Failure {
    Failure {
        kind: FailureKind::Transient { retry_after: None },
        status: WebErrorStatus::DISCONNECTED,
        code: None,
        message: "cut".into(),
    }
}

/// Sends so many bytes of a version, and does not hear what the sink says.
fn send(sink: &mut dyn Sink, version: u8, bytes: usize) {
    let run = [version; 4096];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(run.len());
        let _ = sink.write(&run[..now]);
        left -= now;
    }
}

impl Backend for Liar {
    fn schemes(&self) -> Vec<&str> {
        vec!["lie"]
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            resume: true,
            ranges: self.has_parts,
            ..Capabilities::default()
        }
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, _: &Interrupt) -> Answer {
        let offset = request.held.as_ref().map_or(0, |held| held.offset_bytes);
        let end = request.held.as_ref().and_then(|held| held.end_bytes);
        if (end.is_some() || !self.has_parts)
            && let Some(lie) = self.lies.get(self.made.fetch_add(1, Ordering::SeqCst))
        {
            return lie(sink, offset);
        }
        let now = head(NEW, Start::Beginning);
        let (start, _) = backhaul::backend::start(request, &now.validators, true);
        let from = match start {
            Start::Continue { offset_bytes } => usize::try_from(offset_bytes).unwrap(),
            _ => 0,
        };
        let until = end
            .filter(|_| from > 0)
            .map_or(LENGTH, |end| usize::try_from(end).unwrap());
        let refused = |_| Failure {
            kind: FailureKind::SinkRefused,
            ..cut()
        };
        sink.begin(&Head { start, ..now }).map_err(refused)?;
        for _ in (from..until).step_by(4096) {
            sink.write(&[NEW; 4096]).map_err(refused)?;
        }
        Ok(())
    }
}

/// Fetches with and without claims from the start on; what is published is the new version, and whole.
fn fetch(lies: &[Lie]) -> Vec<OperationView> {
    [false, true].map(|is_large| fetch_as(lies, is_large, 1)).into()
}

fn fetch_as(lies: &[Lie], is_large: bool, connections: usize) -> OperationView {
    let home = tempfile::tempdir().unwrap();
    let mut config = Config {
        connections: Connections {
            max: connections,
            at_once: true,
            bytes_min: 4 << 10,
            ..Connections::default()
        },
        ..Config::default()
    };
    config.retry.delay_first = Duration::from_millis(1);
    config.retry.delay_max = Duration::from_millis(8);
    config.window.short_path_bytes_max = if is_large { 16 << 10 } else { 1 << 20 };
    config.window.claim_bytes = 32 << 10;
    let liar = Arc::new(Liar {
        lies: lies.to_vec(),
        made: AtomicUsize::new(0),
        has_parts: connections > 1,
    });
    let state = home.path().join("state");
    let opened = Engine::open(&state, config, Environment::system(), vec![liar]);
    let engine = Arc::new(opened.unwrap());
    let destination = home.path().join("file");
    let download = NewDownload {
        url: "lie://host/file".into(),
        destination: destination.clone(),
        app: "app".into(),
        ..NewDownload::default()
    };
    let id = engine.create(&[download]).unwrap()[0];
    let (sender, ended) = mpsc::channel();
    let running = Arc::clone(&engine);
    std::thread::spawn(move || sender.send(running.run(Until::Idle, None, |_| ())));
    ended.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
    let view = engine.view(id).unwrap();
    if view.status == TransferStatus::Completed {
        let published = std::fs::read(&destination).unwrap();
        assert_eq!(published.len(), LENGTH, "{view:?}");
        assert!(published.iter().all(|byte| *byte == NEW), "{view:?}");
    } else {
        assert!(!destination.exists(), "{view:?}");
    }
    view
}

/// Half of the old version.
const HALF_OF_OLD: Lie = |sink, _| {
    let _ = sink.begin(&head(OLD, Start::Beginning));
    send(sink, OLD, HALF);
    Err(cut())
};

const CONTINUED: fn(u64) -> Start = |offset_bytes| Start::Continue { offset_bytes };

#[test]
fn a_backend_that_ends_well_without_a_response_has_brought_nothing() {
    fetch(&[|_, _| Ok(())]);
    let views = fetch(&[HALF_OF_OLD, |_, held| {
        assert_eq!(held, HALF as u64);
        Ok(())
    }]);
    assert!(views.iter().all(|view| view.status == TransferStatus::Completed));
}

#[test]
fn bytes_that_come_before_a_response_or_after_one_that_was_refused_go_nowhere() {
    let lies: [Lie; 5] = [
        |sink, held| {
            send(sink, NEW, LENGTH - usize::try_from(held).unwrap());
            Ok(())
        },
        |sink, _| {
            send(sink, NEW, 4096);
            Err(cut())
        },
        |sink, held| {
            send(sink, NEW, 4096);
            let _ = sink.begin(&head(OLD, CONTINUED(held + 4096)));
            send(sink, OLD, 4096);
            Err(cut())
        },
        |sink, held| {
            let _ = sink.begin(&head(OLD, CONTINUED(held + 1)));
            send(sink, NEW, LENGTH - usize::try_from(held).unwrap());
            Ok(())
        },
        |sink, _| {
            let _ = sink.begin(&head(NEW, Start::Beginning));
            send(sink, NEW, LENGTH);
            Err(cut())
        },
    ];
    for lie in lies {
        for view in fetch(&[HALF_OF_OLD, lie]) {
            assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        }
    }
}

#[test]
fn a_length_that_no_file_can_have_is_an_error_that_names_it_and_no_want_of_room() {
    let lies: [Lie; 2] = [
        |sink, _| {
            let mut endless = head(NEW, Start::Beginning);
            endless.validators.total_bytes = Some(1 << 63);
            assert!(sink.begin(&endless).is_err());
            Err(cut())
        },
        |sink, _| {
            let mut endless = head(NEW, Start::Beginning);
            endless.validators.total_bytes = Some(u64::MAX);
            assert!(sink.begin(&endless).is_err());
            Err(cut())
        },
    ];
    for (lie, length) in lies.into_iter().zip([1 << 63, u64::MAX]) {
        for view in fetch(&[lie]) {
            assert_eq!(view.status, TransferStatus::Error, "{view:?}");
            let error = view.error.unwrap();
            assert_eq!(error.status, WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE);
            assert!(
                error.message.contains(&format!("announces {length} bytes")),
                "{}",
                error.message
            );
        }
    }
}

#[test]
fn a_response_begins_once() {
    let lies: [Lie; 4] = [
        |sink, held| {
            let _ = sink.begin(&head(OLD, CONTINUED(held)));
            send(sink, OLD, 4096);
            let _ = sink.begin(&head(NEW, CONTINUED(held + 4096)));
            send(sink, NEW, LENGTH - 4096 - usize::try_from(held).unwrap());
            Ok(())
        },
        |sink, held| {
            let _ = sink.begin(&head(OLD, CONTINUED(held)));
            send(sink, OLD, 65536);
            let _ = sink.begin(&head(NEW, Start::Restart(Restart::Changed)));
            send(sink, NEW, LENGTH);
            Ok(())
        },
        |sink, _| {
            let _ = sink.begin(&head(OLD, Start::Restart(Restart::Changed)));
            send(sink, OLD, 65536);
            let _ = sink.begin(&head(NEW, CONTINUED(65536)));
            send(sink, NEW, 65536);
            Err(cut())
        },
        |sink, _| {
            let _ = sink.begin(&head(OLD, Start::Restart(Restart::Changed)));
            send(sink, OLD, 65536);
            let _ = sink.begin(&head(NEW, Start::Beginning));
            send(sink, NEW, 65536);
            Err(cut())
        },
    ];
    for lie in lies {
        for view in fetch(&[HALF_OF_OLD, lie]) {
            assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        }
    }
}

#[test]
fn a_rest_of_a_resource_that_is_shorter_than_what_is_held_is_none() {
    fn of(total_bytes: u64, start: Start) -> Head {
        let mut short = head(OLD, start);
        short.validators.total_bytes = Some(total_bytes);
        short
    }
    let lies: [Lie; 3] = [
        |sink, held| {
            let _ = sink.begin(&of(10, CONTINUED(held)));
            send(sink, OLD, HALF);
            Ok(())
        },
        |sink, held| {
            let _ = sink.begin(&of(held - 1, CONTINUED(held)));
            Ok(())
        },
        |sink, held| {
            let _ = sink.begin(&of(0, CONTINUED(held)));
            Err(cut())
        },
    ];
    for lie in lies {
        for view in fetch(&[HALF_OF_OLD, lie]) {
            assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        }
    }
}

#[test]
fn more_bytes_than_were_announced_are_no_content() {
    let lies: [Lie; 3] = [
        |sink, _| {
            let _ = sink.begin(&head(OLD, Start::Beginning));
            send(sink, OLD, LENGTH + 1);
            Ok(())
        },
        |sink, _| {
            let _ = sink.begin(&head(OLD, Start::Beginning));
            send(sink, OLD, LENGTH + 8192);
            Err(cut())
        },
        |sink, _| {
            let _ = sink.begin(&head(OLD, Start::Beginning));
            send(sink, OLD, HALF);
            Ok(())
        },
    ];
    for lie in lies {
        for view in fetch(&[lie]) {
            assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        }
    }
}

#[test]
fn a_backend_that_panics_fails_its_own_operation() {
    let lies: [Lie; 2] = [
        |_, _| panic!("a panic that is asked for"),
        |sink, _| {
            let _ = sink.begin(&head(OLD, Start::Beginning));
            send(sink, OLD, HALF);
            panic!("a panic that is asked for")
        },
    ];
    for lie in lies {
        for view in fetch(&[lie]) {
            let error = view.error.unwrap();
            assert_eq!(view.status, TransferStatus::Error, "{error:?}");
            assert!(error.message.contains("panic"), "{error:?}");
        }
    }
}

#[test]
fn a_connection_of_several_that_lies_brings_nothing_and_does_not_go_on_for_ever() {
    let lies: [Lie; 5] = [
        |_, _| Ok(()),
        |_, _| panic!("a panic that is asked for"),
        |sink, _| {
            send(sink, OLD, 4096);
            Err(cut())
        },
        |sink, held| {
            let _ = sink.begin(&head(NEW, CONTINUED(held + 1)));
            send(sink, OLD, 4096);
            Ok(())
        },
        |sink, held| {
            let _ = sink.begin(&head(NEW, CONTINUED(held)));
            let _ = sink.begin(&head(OLD, CONTINUED(held)));
            send(sink, OLD, 4096);
            Ok(())
        },
    ];
    for lie in lies {
        // Fewer than the attempts that may fail in a row, of which each takes one lie at the least.
        let view = fetch_as(&[lie; 15], true, 4);
        let has_panicked = view
            .error
            .as_ref()
            .is_some_and(|error| error.message.contains("panicked"));
        assert!(view.status == TransferStatus::Completed || has_panicked, "{view:?}");
    }
}

#[test]
fn a_backend_that_says_more_than_a_record_holds_ends_no_engine() {
    let much: Lie = |sink, _| {
        let long = || "ä".repeat(1 << 20);
        let wordy = Head {
            validators: Validators {
                etag: Some(format!("\"{}\"", long())),
                last_modified: Some(long()),
                date: Some(long()),
                total_bytes: Some(LENGTH as u64),
                digests: vec![digest(); 5000],
            },
            actual_url: format!("lie://host/{}", long()),
            content_type: Some(long()),
            mirrors: vec![format!("lie://host/{}", "a".repeat(4000)); 5000],
            headers: std::iter::repeat_n(("X-Long", "b".repeat(4000)), 5000).collect(),
            ..head(OLD, Start::Beginning)
        };
        let _ = sink.begin(&wordy);
        send(sink, OLD, HALF);
        Err(Failure {
            message: long(),
            ..cut()
        })
    };
    for view in fetch(&[much]) {
        assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
    }
    for view in fetch(&[|_, _| {
        Err(Failure {
            kind: FailureKind::Permanent,
            message: "ä".repeat(1 << 20),
            ..cut()
        })
    }]) {
        assert_eq!(view.status, TransferStatus::Error, "{view:?}");
        assert!(view.error.unwrap().message.len() < 8192);
    }
}
