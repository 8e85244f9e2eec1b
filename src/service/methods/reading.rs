//! Reading a download while it is fetched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::client::{Client, Connection};
use super::super::embedded::Embedded;
use super::super::fault::Refused;
use super::super::{Link, Service, left};
use super::Method;
use crate::engine::{Engine, ReadOutcome};
use crate::error::Error;
use crate::operation::TransferId;
use crate::wire;

/// Most bytes that one call reads.
pub(crate) const READ_BYTES_MAX: usize = 256 << 10;
/// How long one call waits for bytes; whoever waits longer calls again.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How long the answer may take beyond that.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// Reads of a download, from an offset on. Where nothing is yet, waits for that, and has it fetched first where random access
/// is required.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Read {
    pub(crate) id: TransferId,
    pub(crate) offset: u64,
    /// At most so many bytes; never more than 256 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max: Option<usize>,
    /// Longest wait in milliseconds; never more than 1 s. Without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wait_ms: Option<u64>,
}

/// The answer to [`Read`].
#[derive(Serialize, Deserialize)]
pub(crate) struct HasRead {
    /// Base64. Empty where none came in time, and at the end.
    #[serde(with = "wire::base64")]
    pub(crate) bytes: Vec<u8>,
    /// How often it began again from zero: bytes of different generations are not of one file.
    pub(crate) generation: u32,
    /// The offset lies at the end or beyond it.
    pub(crate) end_of_file: bool,
}

impl Method for Read {
    const NAME: &'static str = "Read";
    type Reply = HasRead;

    fn perform(self, engine: &Engine) -> Result<HasRead, Refused> {
        let max = self.max.unwrap_or(READ_BYTES_MAX).min(READ_BYTES_MAX);
        if max == 0 {
            return Err(Error::invalid("max", "0", "reads nothing; give 1 or more").into());
        }
        let wait = self.wait_ms.map_or(Duration::ZERO, Duration::from_millis).min(WAIT_MAX);
        let outcome = engine.read_at(self.id, self.offset, max, wait)?;
        Ok(HasRead {
            bytes: outcome.bytes,
            generation: outcome.generation,
            end_of_file: outcome.end_of_file,
        })
    }
}

/// What is there of a download.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DownloadedRanges {
    pub(crate) id: TransferId,
}

/// The answer to [`DownloadedRanges`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Downloaded {
    pub(crate) generation: u32,
    /// `[first, end)` of each, in order.
    pub(crate) ranges: Vec<(u64, u64)>,
}

impl Method for DownloadedRanges {
    const NAME: &'static str = "DownloadedRanges";
    type Reply = Downloaded;

    fn perform(self, engine: &Engine) -> Result<Downloaded, Refused> {
        let (generation, ranges) = engine.downloaded_ranges(self.id)?;
        Ok(Downloaded { generation, ranges })
    }
}

impl Service {
    /// Reads of a download, from an offset on and up to `max_bytes`; where nothing is there yet, waits until something is, or
    /// until `wait` is over. From another process at most 256 KiB come at once.
    ///
    /// # Errors
    /// As [`Engine::read_at`].
    pub fn read_at(
        &self,
        id: TransferId,
        offset_bytes: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<ReadOutcome, Error> {
        self.reading().read_at(id, offset_bytes, max_bytes, wait)
    }

    /// What of a download can be read now: its generation, and `[first, end)` of all that is there, in order.
    ///
    /// # Errors
    /// As [`Engine::downloaded_ranges`].
    pub fn downloaded_ranges(&self, id: TransferId) -> Result<(u32, Vec<(u64, u64)>), Error> {
        let downloaded = self.call(DownloadedRanges { id })?;
        Ok((downloaded.generation, downloaded.ranges))
    }

    /// A way to read that holds up no other call.
    pub(crate) fn reading(&self) -> Reading {
        match &self.link {
            Link::Embedded(embedded) => Reading(Way::Embedded(Arc::clone(embedded))),
            Link::Remote(client) => Reading(Way::Remote {
                client: client.clone(),
                connection: None,
            }),
        }
    }
}

/// One who reads. From another process he has a connection of his own, as his calls wait.
pub(crate) struct Reading(Way);

enum Way {
    Embedded(Arc<Embedded>),
    Remote {
        client: Client,
        connection: Option<Connection>,
    },
}

impl Reading {
    pub(crate) fn read_at(
        &mut self,
        id: TransferId,
        offset_bytes: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<ReadOutcome, Error> {
        let end = Instant::now().checked_add(wait);
        let (client, connection) = match &mut self.0 {
            Way::Embedded(embedded) => return embedded.engine.read_at(id, offset_bytes, max_bytes, wait),
            Way::Remote { client, connection } => (client, connection),
        };
        loop {
            let time = left(end).unwrap_or(WAIT_MAX).min(WAIT_MAX);
            let read = Read {
                id,
                offset: offset_bytes,
                max: Some(max_bytes),
                wait_ms: u64::try_from(time.as_millis()).ok().filter(|time| *time > 0),
            };
            let found = ask(client, connection, &read)?;
            let is_over = end.is_some_and(|end| Instant::now() >= end);
            if !found.bytes.is_empty() || found.end_of_file || is_over {
                return Ok(ReadOutcome {
                    bytes: found.bytes,
                    generation: found.generation,
                    end_of_file: found.end_of_file,
                });
            }
        }
    }
}

fn ask(client: &Client, kept: &mut Option<Connection>, read: &Read) -> Result<HasRead, Error> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => client.another()?,
    };
    connection.send(Read::NAME, read, false)?;
    let (found, _) = connection.receive(Some(WAIT_MAX + ANSWER_MAX))?;
    // One that has failed is not kept.
    *kept = Some(connection);
    Ok(found)
}
