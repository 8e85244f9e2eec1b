//! Request bodies that come from another process, a part at a time.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use super::Engine;
use super::core::Core;
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
    /// When the next one is to be dropped, if nobody comes back for it.
    fn due_ms(&self) -> Option<u64> {
        self.0.values().filter_map(Upload::due_ms).min()
    }

    /// Takes out what nobody came back for.
    fn take_stale(&mut self, now_ms: u64) -> Vec<(String, Upload)> {
        let is_stale = |_: &String, upload: &mut Upload| upload.due_ms().is_some_and(|due_ms| due_ms <= now_ms);
        self.0.extract_if(is_stale).collect()
    }
}

impl Upload {
    fn due_ms(&self) -> Option<u64> {
        let is_busy = matches!(self.stage, Stage::Busy);
        (!is_busy).then(|| self.touched_ms.saturating_add(IDLE_MS_MAX))
    }
}

impl Core {
    fn uploads(&self) -> MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the bodies that nobody came back for.
    pub(super) fn drop_stale_uploads(&self) {
        let stale = {
            let mut uploads = self.uploads();
            let stale = uploads.take_stale(self.now().boot_ms);
            self.plan_uploads(&uploads);
            stale
        };
        // Their files go with them, and nobody waits for that.
        drop(stale);
    }

    /// Has the publisher look when the next one is due, and not at all where there is none.
    fn plan_uploads(&self, uploads: &Uploads) {
        let due_ms = uploads.due_ms();
        let mut state = self.state();
        let before_ms = std::mem::replace(&mut state.uploads_due_ms, due_ms);
        let is_sooner = due_ms.is_some_and(|due_ms| before_ms.is_none_or(|before_ms| due_ms < before_ms));
        if is_sooner && state.asleep.publisher {
            self.publisher.notify_one();
        }
    }
}

impl Engine {
    /// Takes in the next part of a request body, the first one where there is no id; gives its id, and how much is there.
    /// After the last part it is durable, and waits for 10 min for [`Engine::take_upload`].
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
        let mut spooling = self.upload(id, offset_bytes)?;
        let id = spooling.id();
        let written = spooling.push(bytes);
        let len_bytes = spooling.len_bytes();
        let stage = written.and_then(|()| {
            Ok(if is_last {
                Stage::Whole(spooling.end()?)
            } else {
                Stage::Open(spooling)
            })
        });
        let touched_ms = self.core.now().boot_ms;
        let mut uploads = self.core.uploads();
        let result = match stage {
            Ok(stage) => {
                uploads.0.insert(id.clone(), Upload { touched_ms, stage });
                Ok((id, len_bytes))
            }
            Err(error) => {
                uploads.0.remove(&id);
                Err(error)
            }
        };
        self.core.plan_uploads(&uploads);
        result
    }

    /// A body that is whole, for the creation of its operation: whatever comes of that, nobody else gets it.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is none, or not all of it.
    pub(crate) fn take_upload(&self, id: &str) -> Result<SpooledBody, Error> {
        let mut uploads = self.core.uploads();
        match uploads.0.remove(id) {
            Some(Upload {
                stage: Stage::Whole(body),
                ..
            }) => {
                self.core.plan_uploads(&uploads);
                return Ok(body);
            }
            Some(partial) => drop(uploads.0.insert(id.to_owned(), partial)),
            None => {}
        }
        let problem = "is no whole body that waits for an operation; spool it once more";
        Err(Error::invalid("body", id, problem))
    }

    /// The body that a part belongs to; nobody else writes to it meanwhile.
    fn upload(&self, id: Option<String>, offset_bytes: u64) -> Result<Spooling, Error> {
        let fresh = match id {
            Some(_) => None,
            None => Some(self.begin_spool(u64::MAX)?),
        };
        let touched_ms = self.core.now().boot_ms;
        let mut uploads = self.core.uploads();
        let busy = Upload {
            touched_ms,
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use backhaul_journal::simulation::SimDisk;

    use super::*;
    use crate::config::Config;
    use crate::environment::FixedEnvironment;

    #[test]
    fn a_body_that_nobody_goes_on_with_is_dropped_after_ten_minutes_although_nobody_calls() {
        let (disk, outside) = (SimDisk::new(), FixedEnvironment::new(1));
        let environment = outside.on(disk.storage());
        let engine = Engine::open(Path::new("/state"), Config::default(), environment, Vec::new());
        let engine = engine.expect("it opens");
        let there = || {
            while engine.step() {}
            disk.names(Path::new("/state/spool")).len()
        };
        let is_awaited = || engine.core.state().uploads_due_ms.is_some();
        assert!(!is_awaited(), "an idle engine would wake up");
        let begin = |is_last| engine.spool_part(None, 0, b"a part", is_last).expect("there is room").0;
        let (open, whole, taken) = (begin(false), begin(true), begin(true));
        let body = engine.take_upload(&taken).expect("it is whole");
        assert!(engine.take_upload(&open).is_err(), "a part of a body was given");
        outside.advance(Duration::from_millis(IDLE_MS_MAX - 1));
        assert_eq!(there(), 3);
        engine
            .spool_part(Some(open.clone()), 6, b", and more", false)
            .expect("it is there still");
        outside.advance(Duration::from_millis(1));
        assert_eq!(there(), 2, "nobody has come back for the whole one");
        assert!(engine.take_upload(&whole).is_err());
        outside.advance(Duration::from_millis(IDLE_MS_MAX - 1));
        assert_eq!(there(), 1, "nobody has gone on with the open one");
        assert!(!is_awaited(), "an idle engine would wake up");
        drop(body);
        assert_eq!(there(), 0);
    }
}
