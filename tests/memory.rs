//! What queued operations take of memory, by an allocator that counts. One test, so that nobody else allocates meanwhile.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backhaul::{Config, Engine, Environment, NewDownload};
use backhaul_backends::MemoryBackend;

/// Just below what doubles the table of ids: the count at which each operation's share is neither flattered nor spoilt.
const QUEUED: usize = 50_000;
/// What one queued operation may take of the heap, indexes and all, with a URL of 60 bytes and a destination of 60: 64 MiB
/// hold 100,000 of them, with a third to spare for the rest of the process and for what an allocator wastes.
const BYTES_EACH_MAX: usize = 420;

struct Counting;

static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe by its nature")]
// SAFETY: every call is handed on to the system's allocator as it came; only a number is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the rules of this very method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn open(state: &std::path::Path) -> Engine {
    let backend = Arc::new(MemoryBackend::new());
    Engine::open(state, Config::default(), Environment::system(), vec![backend]).expect("it opens")
}

#[test]
fn a_queued_operation_costs_a_few_hundred_bytes_when_created_and_after_a_restart() {
    let home = tempfile::tempdir().expect("a directory");
    let (state, data) = (home.path().join("state"), home.path().join("data"));
    std::fs::create_dir(&data).expect("a directory");
    let digits = 60 - data.as_os_str().len().min(50);
    let engine = open(&state);
    let before = HELD_BYTES.load(Ordering::Relaxed);
    for first in (0..QUEUED).step_by(10_000) {
        let download = |number: usize| NewDownload {
            url: format!("mem://host.example.org/some/directory/{number:021}"),
            destination: data.join(format!("{number:0digits$}")),
            app: "some.app".into(),
            ..NewDownload::default()
        };
        let list: Vec<NewDownload> = (first..first + 10_000).map(download).collect();
        engine.create(&list).expect("all are created");
    }
    let created = (HELD_BYTES.load(Ordering::Relaxed) - before) / QUEUED;
    engine.close().expect("it closes");
    let before = HELD_BYTES.load(Ordering::Relaxed);
    let engine = open(&state);
    let opened = (HELD_BYTES.load(Ordering::Relaxed) - before) / QUEUED;
    drop(engine);
    let _ = writeln!(
        std::io::stderr(),
        "figure: a queued operation holds {created} bytes of heap, and {opened} after a restart"
    );
    assert!(
        created <= BYTES_EACH_MAX && opened <= BYTES_EACH_MAX,
        "{created} and {opened}"
    );
}
