//! Request bodies that come from another process.

use std::io;

use serde::{Deserialize, Serialize};

use super::super::Service;
use super::super::fault::Refused;
use super::super::message::PART_BYTES_MAX;
use super::Method;
use crate::engine::{Engine, SpooledBody};
use crate::error::Error;
use crate::wire;

/// A part of a request body. The first call has no id and gets one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spool {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// Where the part belongs: behind all that is there.
    pub(crate) offset: u64,
    #[serde(with = "wire::base64")]
    pub(crate) bytes: Vec<u8>,
    /// Nothing comes after it.
    pub(crate) last: bool,
}

/// The answer to [`Spool`].
#[derive(Serialize, Deserialize)]
pub(crate) struct SpooledSoFar {
    pub(crate) id: String,
    pub(crate) len_bytes: u64,
}

impl Method for Spool {
    const NAME: &'static str = "Spool";
    type Reply = SpooledSoFar;

    fn perform(self, engine: &Engine) -> Result<SpooledSoFar, Refused> {
        if self.bytes.len() > PART_BYTES_MAX {
            let shown = format!("{} bytes", self.bytes.len());
            let problem = format!("is too long; at most {PART_BYTES_MAX} bytes are taken at once");
            return Err(Error::invalid("bytes", shown, problem).into());
        }
        let (id, len_bytes) = engine.spool_part(self.id, self.offset, &self.bytes, self.last)?;
        Ok(SpooledSoFar { id, len_bytes })
    }
}

impl Service {
    /// Sends a request body to the engine of another process.
    pub(in super::super) fn spool_there(&self, reader: &mut dyn io::Read, len_max: u64) -> Result<SpooledBody, Error> {
        let (mut id, mut offset) = (None, 0);
        loop {
            let mut bytes = Vec::new();
            let mut part = io::Read::take(&mut *reader, PART_BYTES_MAX as u64);
            let read = io::Read::read_to_end(&mut part, &mut bytes);
            read.map_err(|error| Error::io("read", "request body", error))?;
            if offset + bytes.len() as u64 > len_max {
                return Err(Error::limit("bytes of a request body", len_max));
            }
            let last = bytes.len() < PART_BYTES_MAX;
            let so_far = self.call(Spool {
                id,
                offset,
                bytes,
                last,
            })?;
            if last {
                return Ok(SpooledBody::there(so_far.id, so_far.len_bytes));
            }
            (id, offset) = (Some(so_far.id), so_far.len_bytes);
        }
    }
}
