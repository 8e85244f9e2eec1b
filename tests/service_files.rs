//! A service whose process has no file descriptor left.
//!
//! A program of its own, because the limit is one of the whole process.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod served;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use served::{Lab, Raw, until};

/// Files that this process may have open in this test.
const FILES_MAX: u64 = 256;

/// Where the system tells the processor time of the service's thread. It stays open: later nothing can be opened.
fn times() -> File {
    let mut threads = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|thread| thread.unwrap().path());
    let is_service = |thread: &PathBuf| std::fs::read_to_string(thread.join("comm")).unwrap().trim_end() == "service";
    let thread = threads.find(is_service).expect("the service has a thread");
    File::open(thread.join("schedstat")).unwrap()
}

fn spent(times: &File) -> Duration {
    let mut text = [0; 100];
    let length = times.read_at(&mut text, 0).unwrap();
    let text = std::str::from_utf8(&text[..length]).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn a_service_without_a_free_file_waits_for_one_without_spinning() {
    let limit = getrlimit(Resource::Nofile);
    let lowered = Rlimit {
        current: Some(FILES_MAX),
        ..limit
    };
    setrlimit(Resource::Nofile, lowered).unwrap();
    let lab = Lab::new();
    let mut served = lab.raw();
    assert!(served.call("List", &json!({}))["error"].is_null());
    let times = times();
    let mut held = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        held.push(file);
    }
    // Room for the client's end of one connection, and none for the service's.
    held.pop();
    let mut waits = lab.raw();
    waits.say(&json!({ "method": "org.varlink.service.GetInfo" }));
    let before = spent(&times);
    // As long as anything that spins would need to be seen.
    std::thread::sleep(Duration::from_millis(500));
    let spent = spent(&times).saturating_sub(before);
    assert!(spent < Duration::from_millis(100), "{spent:?} of 500 ms");
    assert!(
        served.call("List", &json!({}))["error"].is_null(),
        "those that are there are served"
    );
    drop(held);
    assert!(
        waits.hear().unwrap()["error"].is_null(),
        "who waits comes in when there is room"
    );
    // One that ends makes room at once.
    drop((served, waits));
    let serving = lab.serving.as_ref().unwrap();
    until("both are gone", || (serving.connections() == 0).then_some(()));
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut last = Raw::connect(&lab.socket());
    assert!(last.call("List", &json!({}))["error"].is_null());
}
