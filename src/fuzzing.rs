//! Doors for the fuzz targets to what takes in bytes and text from outside. Only with the feature `fuzzing`.

use std::path::{Path, PathBuf};

use backhaul_backends::Method;
use backhaul_journal::{Lsn, Replay};

use crate::engine::Rebuilding;
use crate::history::Retention;
use crate::operation::{
    self, Amendment, BatchId, Claim, Collision, Condition, CostPolicy, Deadline, Event, Fact, Intent, Kind, Now,
    OperationError, Origin, Outcome, Priority, Response, Shared, Spec, StoredValidators, Stretch, TransferId,
    WaitReason,
};
use crate::{address, cli};

/// Chooses a number below a bound.
pub type Draw<'a> = &'a mut dyn FnMut(usize) -> usize;

/// Operations that drawn records speak of; few, so that records meet.
const IDS: usize = 3;

/// A journal record of the engine, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry(operation::Entry);

impl Entry {
    /// Reads a record; nothing where it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        operation::decode(bytes).ok().map(Self)
    }

    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encoded(&self.0)
    }
}

fn encoded(entry: &operation::Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    operation::encode(entry, &mut bytes);
    bytes
}

/// The table that a replay of the engine's records makes.
#[derive(Default)]
pub struct Replayed(Rebuilding);

/// Which operations a table offers for what, each list in its order.
#[derive(Debug, PartialEq, Eq)]
pub struct Offers {
    ready: Vec<TransferId>,
    timers: Vec<(u64, TransferId)>,
    sweepable: Vec<(u64, TransferId)>,
    finishable: Vec<(u64, TransferId)>,
    expired: Vec<TransferId>,
}

impl Replayed {
    /// Takes a record of a snapshot; false where it is refused.
    pub fn snapshot(&mut self, record: &[u8]) -> bool {
        self.0.snapshot(record).is_ok()
    }

    /// Takes a record of the log; false where it is refused.
    pub fn record(&mut self, lsn: u64, record: &[u8]) -> bool {
        self.0.record(Lsn(lsn), record).is_ok()
    }

    /// Records from `first` to before `next` were lost.
    pub fn gap(&mut self, first: u64, next: u64) {
        self.0.gap(Lsn(first), Lsn(next));
    }

    /// The records of a snapshot of everything below `as_of`, sorted by operation.
    #[must_use]
    pub fn records(&self, as_of: u64) -> Vec<Vec<u8>> {
        let table = &self.0.table;
        let mut ids = table.ids();
        ids.sort_unstable();
        let rows = ids.into_iter().map(|id| {
            let mut bytes = Vec::new();
            table.encode(id, &mut bytes);
            bytes
        });
        let totals = operation::Entry::Totals {
            unacknowledged_lost: table.unacknowledged_lost(),
            as_of,
        };
        let groups = table.groups().rows().into_iter();
        let groups = groups.map(|(as_of, group)| operation::Entry::Group { as_of, group });
        let completions = table.groups().completion_rows();
        let completions = completions.map(|(as_of, completion)| operation::Entry::Completion {
            as_of,
            completion: completion.clone(),
        });
        let groups = groups.chain(completions).map(|entry| encoded(&entry));
        groups.chain(rows).chain([encoded(&totals)]).collect()
    }

    /// Whether both hold the same operations as of the same records, also in what a snapshot might not hold.
    #[must_use]
    pub fn has_rows_of(&self, other: &Self) -> bool {
        let (table, other) = (&self.0.table, &other.0.table);
        let row = |table: &crate::table::Table, id| {
            let mut bytes = Vec::new();
            table.encode(id, &mut bytes);
            bytes
        };
        table.len() == other.len() && table.ids().into_iter().all(|id| row(table, id) == row(other, id))
    }

    /// What its indexes say.
    #[must_use]
    pub fn offers(&self) -> Offers {
        let table = &self.0.table;
        let keep_nothing = Retention {
            acknowledged_max: 0,
            unacknowledged_max: 0,
            ..Retention::default()
        };
        Offers {
            ready: table.ranked(),
            timers: table.timers().collect(),
            sweepable: table.sweepable().collect(),
            finishable: table.finishable().collect(),
            expired: table.expired(u64::MAX, &keep_nothing, usize::MAX),
        }
    }

    /// Makes it the table of an engine that starts.
    pub fn reopen(&mut self) {
        self.0.table.reopened(NOW);
    }
}

const NOW: Now = Now {
    boot_ms: 5_000,
    wall_ms: 1_000_000,
    boot_id: [3; 16],
};

/// One of a few operations.
fn id(draw: Draw<'_>) -> TransferId {
    TransferId([u8::try_from(draw(IDS)).unwrap_or_default(); 16])
}

/// A record that creates an operation, perhaps as one of a batch.
#[must_use]
pub fn creation(number: u8, batch: Option<u8>, draw: Draw<'_>) -> Vec<u8> {
    let event = Event::Created {
        spec: Shared::new(spec(draw)),
        started: draw(2) == 1,
        batch: batch.map(|number| BatchId([number; 16])),
    };
    fact(TransferId([number; 16]), draw, event)
}

fn spec(draw: Draw<'_>) -> Spec {
    Spec {
        kind: Kind::Download,
        url: format!("http://h/{}", draw(2)),
        destination: PathBuf::from(format!("/d/{}", draw(3))),
        app: String::new(),
        owner_uid: 0,
        group: None,
        headers: Vec::new(),
        has_secrets: false,
        sha256: None,
        expected_bytes: [None, Some(9)][draw(2)],
        collision: Collision::Fail,
        priority: [Priority::Default, Priority::Low, Priority::High][draw(3)],
        expected_type: None,
        recoverable: Vec::new(),
        digests: Vec::new(),
        mirrors: Vec::new(),
        cost_policy: [CostPolicy::Default, CostPolicy::UnrestrictedOnly, CostPolicy::Always][draw(3)],
        random_access: false,
        proxy: None,
        method: [Method::GET, Method::POST][draw(2)].clone(),
        body: None,
        completion_group: None,
    }
}

/// A record that makes a batch count.
#[must_use]
pub fn commit(batch: u8) -> Vec<u8> {
    encoded(&operation::Entry::Committed {
        batch: BatchId([batch; 16]),
    })
}

/// A record of something that happened to one of a few operations.
#[must_use]
pub fn happening(draw: Draw<'_>) -> Vec<u8> {
    let id = id(draw);
    let event = event(draw);
    fact(id, draw, event)
}

fn fact(id: TransferId, draw: Draw<'_>, event: Event) -> Vec<u8> {
    let at_ms = draw(100) as u64;
    encoded(&operation::Entry::Fact(Fact { id, at_ms, event }))
}

fn event(draw: Draw<'_>) -> Event {
    let error = || OperationError {
        status: 1,
        code: None,
        message: "no".into(),
    };
    let generation = |draw: Draw<'_>| u32::try_from(draw(3)).unwrap_or_default();
    match draw(22) {
        0 => Event::Started,
        1 => Event::Paused,
        2 => Event::Resumed,
        3 | 4 => Event::Claimed {
            attempts: generation(draw),
        },
        5 => Event::Responded(Shared::new(Response::of("http://h/"))),
        6 => Event::Progressed(Shared::new(claim(draw))),
        7 => Event::Restarted {
            generation: generation(draw),
            restarts: generation(draw),
            bytes_wasted: draw(9) as u64,
            cause: "changed".into(),
        },
        8 => Event::Released,
        9 => Event::Waited {
            until: Deadline::after(NOW, draw(9) as u64),
            reason: [WaitReason::BackOff, WaitReason::RetryAfter, WaitReason::ClockNotSet][draw(3)],
            failures_in_row: generation(draw),
            error: Shared::new(error()),
            round: None,
        },
        10 => Event::Blocked {
            condition: [Condition::NoNetwork, Condition::DiskFull][draw(2)],
            probe_at: Deadline::after(NOW, draw(9) as u64),
            error: Shared::new(error()),
            room_bytes: None,
            try_at: Deadline::after(NOW, draw(9) as u64),
        },
        11 | 12 => Event::Publishing(Intent {
            generation: generation(draw),
            final_name: b"f".to_vec(),
            device: 1,
            inode: 1,
            len_bytes: draw(9) as u64,
            crc32: 0,
            boot_id: [3; 16],
            directory_device: Some(1),
            directory_inode: Some(2),
        }),
        13 => Event::Ending(outcome(draw, error())),
        14 | 15 => Event::Ended(outcome(draw, error())),
        16 => Event::Acknowledged,
        17 => Event::Removed,
        18 => Event::Forgotten,
        19 => Event::Amended(Amendment::Needed(Shared::new(error()))),
        20 => Event::Amended(Amendment::Made {
            spec: Shared::new(spec(draw)),
            sealed_revision: generation(draw),
        }),
        _ => Event::Examined { unplaced: draw(2) == 1 },
    }
}

fn claim(draw: Draw<'_>) -> Claim {
    let generation = u32::try_from(draw(3)).unwrap_or_default();
    let durable_bytes = draw(9) as u64;
    let first = durable_bytes + 1 + draw(9) as u64;
    let end = first + 1 + draw(9) as u64;
    let beyond = vec![Stretch { first, end, crc32: 0 }];
    Claim {
        generation,
        durable_bytes,
        crc32: 0,
        validators: StoredValidators::default(),
        beyond: (draw(3) == 0).then_some(beyond),
        on_trust: (draw(3) == 0).then_some(true),
        origin: Origin::default(),
    }
}

fn outcome(draw: Draw<'_>, error: OperationError) -> Outcome {
    match draw(3) {
        0 => Outcome::Completed,
        1 => Outcome::Canceled,
        _ => Outcome::Failed(error),
    }
}

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1.
    pub number: usize,
    /// As it stands there.
    pub url: String,
    /// Where it is to go, if that stands there.
    pub destination: Option<PathBuf>,
}

/// The lines of a list, and the numbers of those that repeat an earlier one.
#[must_use]
pub fn list(text: &str) -> (Vec<Line>, Vec<usize>) {
    let list = cli::input::parse(text);
    let lines = list.lines.into_iter().map(|line| Line {
        number: line.number,
        url: line.url,
        destination: line.destination,
    });
    (lines.collect(), list.repeated)
}

/// A checked URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// As it may be shown and stored.
    pub shown: String,
    /// As it is requested, where that is not what is shown.
    pub secret_url: Option<String>,
    /// User name and password.
    pub credential: Option<(String, String)>,
    /// The file name that it suggests.
    pub file_name: String,
}

/// Checks a URL of a scheme that every build has a backend for.
///
/// # Errors
/// What is wrong with it, as it is shown.
pub fn url(text: &str) -> Result<Address, String> {
    url_after(None, text)
}

/// The same in a list, right behind another URL.
///
/// # Errors
/// As [`url`].
pub fn url_after(before: Option<&str>, text: &str) -> Result<Address, String> {
    let web = backhaul_backends::Capabilities::default();
    let served = [("http", web), ("https", web)];
    let mut neighbour = address::Neighbour::default();
    // What is refused is not known afterwards.
    let _ = before.map(|before| neighbour.parse(before, &served));
    let address = neighbour.parse(text, &served).map_err(|error| error.to_string())?;
    Ok(Address {
        file_name: address.file_name().into_owned(),
        shown: address.shown,
        secret_url: address.secret_url,
        credential: address
            .credential
            .map(|credential| (credential.user, credential.password)),
    })
}

/// A URL that a server named, as it may be stored and shown.
#[must_use]
pub fn shown_url(url: &str) -> String {
    address::shown_url(url)
}

/// Checks a request header: its name, its value, and whether the name alone makes it a secret.
///
/// # Errors
/// As [`url`].
pub fn header(text: &str) -> Result<(String, String, bool), String> {
    let (header, is_secret) = address::parse_header("header", text).map_err(|error| error.to_string())?;
    Ok((header.name, header.value, is_secret))
}

/// Reads a digest with its algorithm; gives it as it is shown.
///
/// # Errors
/// As [`url`].
pub fn digest(text: &str) -> Result<String, String> {
    address::parse_digest(text)
        .map(|digest| digest.to_string())
        .map_err(|error| error.to_string())
}

/// Reads a digest.
///
/// # Errors
/// As [`url`].
pub fn sha256(text: &str) -> Result<[u8; 32], String> {
    address::parse_sha256(text).map_err(|error| error.to_string())
}

/// Checks a media type that is expected.
///
/// # Errors
/// As [`url`].
pub fn media_type(text: &str) -> Result<String, String> {
    address::parse_media_type(text).map_err(|error| error.to_string())
}

/// Checks a destination, seen from a current directory.
///
/// # Errors
/// As [`url`].
pub fn destination(path: &Path, current: &Path) -> Result<PathBuf, String> {
    address::parse_destination(path, current).map_err(|error| error.to_string())
}

/// What a server makes of the bytes of a client that come in these pieces, where a message has at most so many bytes.
pub fn control<'a>(pieces: impl Iterator<Item = &'a [u8]>, message_bytes_max: usize) -> Vec<Heard> {
    crate::service::heard::heard(pieces, message_bytes_max)
}

pub use crate::service::heard::Heard;
