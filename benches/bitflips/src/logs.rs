//! The logs that are compared: how each is written, and what it gives back.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::{RECORDS, record};

pub(crate) struct Log {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Writes all records, each synced, and leaves without a clean end.
    pub(crate) write: fn(&Path),
    /// Opens for writing; the records in order.
    pub(crate) open: fn(&Path) -> Result<Vec<Vec<u8>>, Box<dyn Error>>,
    /// Whether a file of this name holds the log.
    pub(crate) is_log: fn(&str) -> bool,
}

pub(crate) const LOGS: &[Log] = &[
    Log {
        name: "backhaul",
        title: "backhaul-journal",
        write: backhaul_write,
        open: backhaul_open,
        is_log: |name| name.ends_with(".seg"),
    },
    Log {
        name: "okaywal",
        title: "okaywal 0.3.1",
        write: okaywal_write,
        open: okaywal_open,
        is_log: |name| name.starts_with("wal"),
    },
    Log {
        name: "fjall",
        title: "fjall 3.1.13",
        write: fjall_write,
        open: fjall_open,
        is_log: |name| name.ends_with(".jnl"),
    },
    Log {
        name: "sqlite",
        title: "SQLite WAL, FULL",
        write: sqlite_write,
        open: sqlite_open,
        is_log: |name| name.ends_with("-wal"),
    },
];

struct Collect(Vec<Vec<u8>>);

impl backhaul_journal::Replay for Collect {
    fn snapshot(&mut self, _: &[u8]) -> Result<(), backhaul_journal::ReplayError> {
        Ok(())
    }

    fn record(&mut self, _: backhaul_journal::Lsn, record: &[u8]) -> Result<(), backhaul_journal::ReplayError> {
        self.0.push(record.to_vec());
        Ok(())
    }
}

fn backhaul_journal(directory: &Path) -> Result<(backhaul_journal::Journal, Vec<Vec<u8>>), Box<dyn Error>> {
    let disk: Arc<dyn backhaul_journal::Storage> = Arc::new(backhaul_journal::Disk);
    let lock = backhaul_journal::Lock::acquire(&disk, &directory.join("LOCK"), false)?;
    let mut collect = Collect(Vec::new());
    let options = backhaul_journal::Options::default();
    let (journal, _) = backhaul_journal::Journal::open(disk, &directory.join("log"), lock, options, &mut collect)?;
    Ok((journal, collect.0))
}

fn backhaul_write(directory: &Path) {
    let (journal, _) = backhaul_journal(directory).expect("a journal can be made");
    for number in 0..RECORDS {
        let lsn = journal
            .append(&record(number), backhaul_journal::Urgency::Normal)
            .expect("a record can be added");
        journal.sync(lsn).expect("a record can be synced");
    }
}

fn backhaul_open(directory: &Path) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    Ok(backhaul_journal(directory)?.1)
}

#[derive(Debug, Clone, Default)]
struct OkayManager(Arc<Mutex<Vec<Vec<u8>>>>);

impl okaywal::LogManager for OkayManager {
    fn recover(&mut self, entry: &mut okaywal::Entry<'_>) -> std::io::Result<()> {
        if let Some(chunks) = entry.read_all_chunks()? {
            self.0.lock().expect("nobody panics").extend(chunks);
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _: okaywal::EntryId,
        _: &mut okaywal::SegmentReader,
        _: &okaywal::WriteAheadLog,
    ) -> std::io::Result<()> {
        Ok(())
    }
}

fn okaywal_write(directory: &Path) {
    let log =
        okaywal::WriteAheadLog::recover(directory.join("log"), OkayManager::default()).expect("a log can be made");
    for number in 0..RECORDS {
        let mut entry = log.begin_entry().expect("an entry can be begun");
        entry.write_chunk(&record(number)).expect("a chunk can be written");
        entry.commit().expect("an entry can be committed");
    }
    // Without its shutdown, as in a crash.
    std::mem::forget(log);
}

fn okaywal_open(directory: &Path) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let manager = OkayManager::default();
    let log = okaywal::WriteAheadLog::recover(directory.join("log"), manager.clone())?;
    std::mem::forget(log);
    Ok(std::mem::take(&mut *manager.0.lock().expect("nobody panics")))
}

fn fjall_keyspace(directory: &Path) -> Result<(fjall::Database, fjall::Keyspace), Box<dyn Error>> {
    let database = fjall::Database::builder(directory.join("log")).open()?;
    let keyspace = database.keyspace("records", fjall::KeyspaceCreateOptions::default)?;
    Ok((database, keyspace))
}

fn fjall_write(directory: &Path) {
    let (database, keyspace) = fjall_keyspace(directory).expect("a database can be made");
    for number in 0..RECORDS {
        keyspace
            .insert(number.to_be_bytes(), record(number))
            .expect("a record can be added");
        database
            .persist(fjall::PersistMode::SyncAll)
            .expect("a record can be synced");
    }
    std::mem::forget((database, keyspace));
}

fn fjall_open(directory: &Path) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let (database, keyspace) = fjall_keyspace(directory)?;
    let mut records = Vec::new();
    for item in keyspace.iter() {
        records.push(item.value()?.to_vec());
    }
    std::mem::forget((database, keyspace));
    Ok(records)
}

fn sqlite_connection(directory: &Path) -> rusqlite::Result<rusqlite::Connection> {
    let connection = rusqlite::Connection::open(directory.join("log.db"))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;
         CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY, bytes BLOB);",
    )?;
    Ok(connection)
}

fn sqlite_write(directory: &Path) {
    let connection = sqlite_connection(directory).expect("a database can be made");
    for number in 0..RECORDS {
        connection
            .execute("INSERT INTO records VALUES (?1, ?2)", (number as i64, record(number)))
            .expect("a record can be added");
    }
    // Closing would empty the log.
    std::mem::forget(connection);
}

fn sqlite_open(directory: &Path) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let connection = sqlite_connection(directory)?;
    let mut statement = connection.prepare("SELECT bytes FROM records ORDER BY number")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
