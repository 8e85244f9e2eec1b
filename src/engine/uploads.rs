//! Request bodies that come from another process, a part at a time.

use std::collections::HashMap;
use std::sync::PoisonError;

use super::Engine;
use super::spool::{SpooledBody, Spooling};
use crate::error::Error;

/// Bodies that are taken in, or wait for the creation of their operation, at a time.
const UPLOADS_MAX: usize = 64;
/// After so long without another part, or without an operation, a body is dropped.
const IDLE_MS_MAX: u64 = 10 * 60 * 1000;

/// All of them, by their ids.
#[derive(Default)]
pub(super) struct Uploads(HashMap<String, Upload>);

struct Upload {
    touched_ms: u64,
    stage: Stage,
}

enum Stage {
    Open(Spooling),
    /// A part is being written.
    Busy,
    Whole(SpooledBody),
}

impl Uploads {
    /// Drops what nobody comes back for, and what has its operation.
    fn sweep(&mut self, now_ms: u64) {
        self.0.retain(|_, upload| {
            let is_needed = match &upload.stage {
                Stage::Open(_) => true,
                Stage::Busy => return true,
                Stage::Whole(body) => body.is_free(),
            };
            is_needed && now_ms.saturating_sub(upload.touched_ms) < IDLE_MS_MAX
        });
    }
}

impl Engine {
    /// Takes in the next part of a request body, the first one where there is no id; gives its id, and how much is there.
    /// After the last part it is durable, and waits for 10 min for an operation that is created with it.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the id is unknown, or the part does not go on where the last one ended;
    /// [`Error::LimitReached`]; otherwise as [`Engine::spool`]: then it is dropped.
    pub(crate) fn spool_part(
        &self,
        id: Option<String>,
        offset_bytes: u64,
        bytes: &[u8],
        is_last: bool,
    ) -> Result<(String, u64), Error> {
        let now_ms = self.core.now().boot_ms;
        let mut spooling = self.upload(id, offset_bytes, now_ms)?;
        let id = spooling.id();
        let written = spooling.push(bytes);
        let len_bytes = spooling.len_bytes();
        let stage = written.and_then(|()| {
            Ok(if is_last {
                Stage::Whole(self.end_spool(spooling)?)
            } else {
                Stage::Open(spooling)
            })
        });
        let mut uploads = self.core.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        match stage {
            Ok(stage) => {
                let touched_ms = self.core.now().boot_ms;
                uploads.0.insert(id.clone(), Upload { touched_ms, stage });
                Ok((id, len_bytes))
            }
            Err(error) => {
                uploads.0.remove(&id);
                Err(error)
            }
        }
    }

    /// The body that a part belongs to; nobody else writes to it meanwhile.
    fn upload(&self, id: Option<String>, offset_bytes: u64, now_ms: u64) -> Result<Spooling, Error> {
        let fresh = match id {
            Some(_) => None,
            None => Some(self.begin_spool(u64::MAX)?),
        };
        let mut uploads = self.core.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.sweep(now_ms);
        let busy = Upload {
            touched_ms: now_ms,
            stage: Stage::Busy,
        };
        if let Some(fresh) = fresh {
            check_offset(offset_bytes, 0)?;
            if uploads.0.len() >= UPLOADS_MAX {
                return Err(Error::limit("request bodies that are taken in", UPLOADS_MAX as u64));
            }
            uploads.0.insert(fresh.id(), busy);
            return Ok(fresh);
        }
        let id = id.unwrap_or_default();
        let unknown = |problem: &str| Error::invalid("id", id.clone(), problem);
        let Some(upload) = uploads.0.get_mut(&id) else {
            return Err(unknown("is no body that is being taken in; begin anew, without an id"));
        };
        match std::mem::replace(upload, busy).stage {
            Stage::Open(spooling) => match check_offset(offset_bytes, spooling.len_bytes()) {
                Ok(()) => Ok(spooling),
                Err(error) => {
                    upload.stage = Stage::Open(spooling);
                    Err(error)
                }
            },
            Stage::Busy => Err(unknown("has a part under way; send the next one after that")),
            whole @ Stage::Whole(_) => {
                upload.stage = whole;
                Err(unknown("is whole already"))
            }
        }
    }
}

fn check_offset(offset_bytes: u64, there_bytes: u64) -> Result<(), Error> {
    if offset_bytes == there_bytes {
        return Ok(());
    }
    let problem = format!("is not where the next part belongs: {there_bytes} bytes are there");
    Err(Error::invalid("offset", offset_bytes.to_string(), problem))
}
