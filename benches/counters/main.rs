//! What the engine asks of the disk and of the allocator, counted on one thread, so that it is the same in every run.
//!
//! ```text
//! counters DIRECTORY CA-FILE NAME=URL,URL...
//! ```
//!
//! It prints lines of a name and a number, which `benches/gates` holds against `benches/ceilings`. Each NAME is given two
//! URLs whose contents have 64 and 128 MiB: the difference of what they take is what 64 MiB take, however they begin.
//! A program of its own, because it counts what every thread takes from the allocator.

#![expect(clippy::print_stdout, reason = "printing the counts is its purpose")]

#[path = "../../journal/tests/counting.rs"]
mod counting;
mod disk;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backhaul::{Config, Engine, FixedEnvironment, NewDownload, backends};
use backhaul_backends::{Backend, MemoryBackend, Resource};

use counting::{Counting, measure};
use disk::{Asked, CountingDisk};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// One of each way that a file can go: tiny, the largest of the short path, one claim, and many.
const SIZES: [(&str, usize); 4] = [("1KiB", KIB), ("1MiB", MIB), ("8MiB", 8 * MIB), ("64MiB", 64 * MIB)];
/// Files of a list.
const LISTED: usize = 1_000;

/// An engine on a disk of its own, below a folder that is gone again at the end.
struct Lab {
    _home: tempfile::TempDir,
    disk: CountingDisk,
    engine: Engine,
    /// Downloads so far; each has a name of its own.
    asked_for: Cell<usize>,
}

impl Lab {
    fn new(directory: &Path, config: Config, backends: Vec<Arc<dyn Backend>>) -> Self {
        let home = tempfile::tempdir_in(directory).expect("a folder can be made");
        std::fs::create_dir(home.path().join("data")).expect("a folder can be made");
        let disk = CountingDisk::new(home.path());
        let outside = FixedEnvironment::new(1).on(Arc::new(disk.clone()));
        let engine = Engine::open(Path::new("/state"), config, outside, backends).expect("the engine opens");
        Self {
            _home: home,
            disk,
            engine,
            asked_for: Cell::new(0),
        }
    }

    /// Downloads all of them; gives what it took of the disk, and calls of the allocator.
    fn get(&self, urls: &[String]) -> (Asked, usize) {
        let wanted: Vec<NewDownload> = urls.iter().map(|url| self.download(url)).collect();
        self.disk.take();
        let (ids, created, _) = measure(|| self.engine.create(&wanted).expect("all are created"));
        let ((), worked, _) = measure(|| while self.engine.step() {});
        let asked = self.disk.take();
        for id in &ids {
            let status = self.engine.view(*id).map(|view| view.status);
            assert_eq!(status.ok(), Some(backhaul::TransferStatus::Completed), "{urls:?}");
        }
        (asked, created + worked)
    }

    fn download(&self, url: &str) -> NewDownload {
        let number = self.asked_for.replace(self.asked_for.get() + 1);
        NewDownload {
            url: url.to_owned(),
            destination: PathBuf::from(format!("/data/file-{number:06}")),
            app: "counters".into(),
            ..NewDownload::default()
        }
    }
}

fn print(group: &str, asked: &Asked) {
    println!("{group}.journal-bytes {}", asked.journal_bytes);
    println!("{group}.journal-writes {}", asked.journal_writes);
    println!("{group}.journal-syncs {}", asked.journal_syncs);
    println!("{group}.writes {}", asked.writes);
    println!("{group}.syncs {}", asked.syncs);
    println!("{group}.directory-syncs {}", asked.directory_syncs);
    println!("{group}.names {}", asked.names);
    println!("{group}.disk-calls {}", asked.calls);
}

/// One operation of each size in a running engine, which has done one of that size before; and a list.
fn in_memory(directory: &Path) {
    let server = Arc::new(MemoryBackend::new());
    let lab = Lab::new(directory, Config::default(), vec![Arc::clone(&server) as _]);
    for (name, len) in SIZES {
        let urls = ["a", "b"].map(|which| format!("mem://host.example/{which}-{name}"));
        for url in &urls {
            server.put(url, Resource::new(vec![7; len], "tag"));
        }
        lab.get(&urls[..1]);
        let (asked, allocations) = lab.get(&urls[1..]);
        print(&format!("operation.{name}"), &asked);
        println!("operation.{name}.allocations {allocations}");
        for url in &urls {
            server.remove(url);
        }
    }
    let urls: Vec<String> = (0..LISTED)
        .map(|number| format!("mem://host.example/listed-{number:04}"))
        .collect();
    for url in &urls {
        server.put(url, Resource::new(vec![7; KIB], "tag"));
    }
    let (asked, allocations) = lab.get(&urls);
    print("list", &asked);
    println!("list.allocations {allocations}");
}

/// What 64 MiB more take of the allocator. A first download of each has opened the connection, and the lists that begin or grow
/// only once.
fn over_a_network(directory: &Path, ca_bundle: PathBuf, name: &str, urls: &[String]) {
    let config = Config {
        ca_bundle: Some(ca_bundle),
        ..Config::default()
    };
    let backends = backends(&config, |_| None).expect("the bundle is right");
    let lab = Lab::new(directory, config, backends);
    let [_, _, shorter, longer] = [0, 1, 0, 1].map(|which| lab.get(&urls[which..=which]).1);
    println!("{name}.allocations {}", longer.saturating_sub(shorter));
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(directory), Some(ca_bundle)) = (arguments.next(), arguments.next()) else {
        println!("counters DIRECTORY CA-FILE NAME=URL,URL...");
        return;
    };
    let directory = Path::new(&directory);
    in_memory(directory);
    for argument in arguments {
        let (name, urls) = argument.split_once('=').expect("NAME=URL,URL");
        let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
        over_a_network(directory, PathBuf::from(&ca_bundle), name, &urls);
    }
}
