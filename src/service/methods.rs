//! What a client may ask for: one type for each method, which carries its parameters and does it. A service inside the
//! process calls the very same code as one behind a socket, so that both mean the same by construction.

pub(super) mod groups;
pub(super) mod reading;
pub(super) mod spooling;

use std::collections::HashMap;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::download::{Change, Download};
use super::fault::{Fault, Refused};
use super::message::{parse_parameters, reply};
use super::monitor::{Selection, UPDATE_MAX};
use crate::engine::{Body, CheckedDownload, Checks, Description, Engine, NewDownload, OperationView};
use crate::error::Error;
use crate::operation::{TransferId, TransferStatus};

/// One method of the interface.
pub(crate) trait Method: Serialize + DeserializeOwned {
    /// Its name within the interface.
    const NAME: &'static str;
    /// What it answers.
    type Reply: Serialize + DeserializeOwned;

    /// Does it. May take as long as a sync of the disk.
    fn perform(self, engine: &Engine) -> Result<Self::Reply, Refused>;
}

/// A method as the server calls it: parameters in, the bytes of the whole reply out.
pub(crate) type Perform = fn(&Engine, Option<&RawValue>) -> Result<Vec<u8>, Fault>;

/// Reads the parameters of a method and writes them again.
pub(crate) type Rewrite = fn(Option<&RawValue>) -> Result<Vec<u8>, Fault>;

fn rewrite<M: Method>(parameters: Option<&RawValue>) -> Result<Vec<u8>, Fault> {
    let method: M = parse_parameters(parameters)?;
    // What came from JSON has a JSON form.
    Ok(serde_json::to_vec(&method).unwrap_or_default())
}

fn perform<M: Method>(engine: &Engine, parameters: Option<&RawValue>) -> Result<Vec<u8>, Fault> {
    let method: M = parse_parameters(parameters)?;
    let answer = method.perform(engine)?;
    Ok(reply(&answer, false))
}

/// A method by its name within the interface. `Wait` and `Monitor`, which answer later, are the server's.
pub(crate) fn by_name(name: &str) -> Option<Perform> {
    METHODS
        .iter()
        .find(|(listed, ..)| *listed == name)
        .map(|(_, perform, _)| *perform)
}

/// Whether a method waits for bytes or for the end of attempts, and not only for a disk.
pub(crate) fn waits(name: &str) -> bool {
    [reading::Read::NAME, ForgetApp::NAME].contains(&name)
}

const fn row<M: Method>() -> (&'static str, Perform, Rewrite) {
    (M::NAME, perform::<M>, rewrite::<M>)
}

/// All of them.
pub(crate) const METHODS: &[(&str, Perform, Rewrite)] = &[
    row::<Describe>(),
    row::<Create>(),
    row::<Start>(),
    row::<Pause>(),
    row::<Resume>(),
    row::<Cancel>(),
    row::<Remove>(),
    row::<Acknowledge>(),
    row::<Set>(),
    row::<Attend>(),
    row::<ForgetApp>(),
    row::<Show>(),
    row::<List>(),
    row::<reading::Read>(),
    row::<reading::DownloadedRanges>(),
    row::<spooling::Spool>(),
    row::<groups::CreateGroup>(),
    row::<groups::SetGroup>(),
    row::<groups::RemoveGroup>(),
    row::<groups::Groups>(),
    row::<groups::MakeCurrent>(),
    row::<groups::CreateCompletionGroup>(),
    row::<groups::EnableCompletionGroup>(),
    row::<groups::AcknowledgeCompletionGroup>(),
    row::<groups::RemoveCompletionGroup>(),
    row::<groups::ShowCompletionGroup>(),
    row::<groups::CompletionGroups>(),
];

/// Nothing more to say than that it is done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {}

// ---- the service itself ----

/// What the service is, and on what it works.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Describe {}

impl Method for Describe {
    const NAME: &'static str = "Describe";
    type Reply = Description;

    fn perform(self, engine: &Engine) -> Result<Description, Refused> {
        Ok(engine.describe()?)
    }
}

// ---- creation ----

/// Creates downloads: all of them or none. They are durable when the answer comes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Create {
    pub(crate) downloads: Vec<Download>,
    /// Go on with what is stored already for the same URL and destination.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) go_on: bool,
    /// They belong to one list, of which each end is told by itself: with `go_on` also what completed and was told of is there
    /// already, while its file still stands where it was put.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) of_list: bool,
    /// Nothing is created: what would refuse the creation refuses the call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) check_only: bool,
}

/// One of the operations that a creation means, in the order asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Created {
    pub(crate) id: TransferId,
    /// It was there before.
    #[serde(default)]
    pub(crate) existed: bool,
    /// What was asked for otherwise than it was created with, which counts.
    #[serde(default)]
    pub(crate) differences: Vec<String>,
}

/// The answer to [`Create`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AllCreated {
    pub(crate) operations: Vec<Created>,
}

impl Method for Create {
    const NAME: &'static str = "Create";
    type Reply = AllCreated;

    fn perform(self, engine: &Engine) -> Result<AllCreated, Refused> {
        let mut downloads = self.downloads;
        // Bodies go with the call that names them, all of them, whatever comes of it.
        let take = |download: &mut Download| Some(engine.take_upload(&download.body_spooled.take()?));
        let spooled: Vec<_> = downloads.iter_mut().map(take).collect();
        let downloads = downloads.into_iter().zip(spooled).enumerate();
        let mut downloads: Vec<NewDownload> = downloads
            .map(|(index, (download, spooled))| {
                let meant = spooled.transpose().and_then(|spooled| {
                    let mut meant = download.meant()?;
                    meant.body = spooled.map(Body::Spooled).or(meant.body);
                    Ok(meant)
                });
                meant.map_err(|error| (index, error))
            })
            .collect::<Result<_, _>>()?;
        let (count, parts) = (downloads.len(), &mut std::iter::once(0..downloads.len()));
        let mut check = |checks: &mut Checks<'_>, _| checks.check(&std::mem::take(&mut downloads));
        let asked = Asked {
            go_on: self.go_on,
            of_list: self.of_list,
            check_only: self.check_only,
        };
        let operations = create(engine, count, parts, &mut check, asked)?;
        Ok(AllCreated { operations })
    }
}

impl Created {
    fn fresh(id: TransferId) -> Self {
        Self {
            id,
            existed: false,
            differences: Vec::new(),
        }
    }

    /// One that is there, and what was asked for otherwise.
    fn found(engine: &Engine, id: TransferId, download: &CheckedDownload) -> Result<Self, Error> {
        if !engine.view(id)?.status.is_ended() {
            engine.check_expectations(id, download)?;
        }
        let differences = engine.differences(id, download)?.into_iter();
        Ok(Self {
            id,
            existed: true,
            differences: differences.map(str::to_owned).collect(),
        })
    }
}

/// Checks the downloads of a range; the position of what is refused is that within the range.
pub(super) type Check<'a> =
    &'a mut dyn FnMut(&mut Checks<'_>, Range<usize>) -> Result<Vec<CheckedDownload>, (usize, Error)>;

/// What a creation makes of operations that are there already, as [`Create`] has it.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) go_on: bool,
    pub(super) of_list: bool,
    pub(super) check_only: bool,
}

/// Creates so many downloads, which come in parts, all of them or none; with `go_on` but for those that are there already,
/// which go on. More than one part only where nobody else looks at the engine yet.
pub(super) fn create(
    engine: &Engine,
    count: usize,
    parts: &mut dyn Iterator<Item = Range<usize>>,
    check: Check<'_>,
    asked: Asked,
) -> Result<Vec<Created>, Refused> {
    let goes_on = asked.go_on;
    let done = if goes_on {
        engine.done(asked.of_list)
    } else {
        HashMap::new()
    };
    let mut created = Vec::with_capacity(count);
    let mut checks = engine.checks(count);
    let mut creation = None;
    for part in parts {
        let first = created.len();
        let at = |(index, error): (usize, Error)| (first + index, error);
        let checked = check(&mut checks, part).map_err(at)?;
        let (mut fresh, mut places) = (Vec::with_capacity(checked.len()), Vec::new());
        for (index, download) in checked.into_iter().enumerate() {
            let same = if goes_on { engine.same(&done, &download) } else { None };
            if let Some(id) = same {
                created.push(Created::found(engine, id, &download)?);
            } else {
                created.push(Created::fresh(download.id()));
                places.push(index);
                fresh.push(download);
            }
        }
        if creation.is_none() {
            creation = Some(engine.begin_creation(count).map_err(|error| (0, error))?);
        }
        if let Some(creation) = &mut creation {
            let place = |(index, error)| at((places.get(index).copied().unwrap_or(0), error));
            let result = if asked.check_only {
                creation.check(&fresh)
            } else {
                creation.add(&fresh, created.len() == count)
            };
            result.map_err(place)?;
        }
    }
    if asked.check_only {
        return Ok(Vec::new());
    }
    if let Some(creation) = creation {
        creation.finish().map_err(|error| (0, error))?;
    }
    for one in created.iter().filter(|one| one.existed) {
        go_on(engine, &engine.view(one.id)?)?;
    }
    if goes_on {
        // An engine that works on a chosen set only takes on top what somebody waits for.
        engine.attend(created.iter().map(|created| created.id));
    }
    Ok(created)
}

fn go_on(engine: &Engine, view: &OperationView) -> Result<(), Error> {
    match view.status {
        TransferStatus::Idle => engine.start(view.id),
        // What is queued, is being published or has ended needs no push.
        TransferStatus::Queued | TransferStatus::Running => Ok(()),
        status if status.is_ended() => Ok(()),
        _ => engine.resume(view.id),
    }
}

// ---- one thing done to several operations ----

/// Does one thing to several operations. An unknown id refuses all of them; the first that is refused by its state ends
/// it, and those before it are done.
fn each(
    engine: &Engine,
    ids: &[TransferId],
    act: impl Fn(&Engine, TransferId) -> Result<(), Error>,
) -> Result<Done, Refused> {
    for (index, id) in ids.iter().enumerate() {
        engine.view(*id).map_err(|error| (index, error))?;
    }
    for (index, id) in ids.iter().enumerate() {
        act(engine, *id).map_err(|error| (index, error))?;
    }
    Ok(Done {})
}

/// A method that does one thing to several operations.
macro_rules! on_each {
    ($($(#[$doc:meta])* $name:ident = $act:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            pub(crate) ids: Vec<TransferId>,
        }

        impl Method for $name {
            const NAME: &'static str = stringify!($name);
            type Reply = Done;

            fn perform(self, engine: &Engine) -> Result<Done, Refused> {
                each(engine, &self.ids, $act)
            }
        }
    )*};
}

on_each! {
    /// Starts operations that were created on hold.
    Start = Engine::start;
    /// Asks operations to stand still; each attempt ends in under a second.
    Pause = Engine::pause;
    /// Lets paused operations go on.
    Resume = Engine::resume;
    /// Cancels operations and removes their part files.
    Cancel = Engine::cancel;
    /// Removes the records of operations that have ended.
    Remove = Engine::remove;
}

/// Acknowledges ends.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acknowledge {
    pub(crate) ids: Vec<TransferId>,
}

impl Method for Acknowledge {
    const NAME: &'static str = "Acknowledge";
    type Reply = Done;

    fn perform(self, engine: &Engine) -> Result<Done, Refused> {
        engine.acknowledge(&self.ids)?;
        Ok(Done {})
    }
}

/// Changes an operation that does not run.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Set {
    pub(crate) id: TransferId,
    pub(crate) changes: Change,
}

impl Method for Set {
    const NAME: &'static str = "Set";
    type Reply = Done;

    fn perform(self, engine: &Engine) -> Result<Done, Refused> {
        engine.set(self.id, &self.changes.into())?;
        Ok(Done {})
    }
}

/// An engine that works on a chosen set of operations works on these, too, from now on.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attend {
    pub(crate) ids: Vec<TransferId>,
}

impl Method for Attend {
    const NAME: &'static str = "Attend";
    type Reply = Done;

    fn perform(self, engine: &Engine) -> Result<Done, Refused> {
        for (index, id) in self.ids.iter().enumerate() {
            engine.view(*id).map_err(|error| (index, error))?;
        }
        engine.attend(self.ids.into_iter());
        Ok(Done {})
    }
}

/// Cancels all operations of an app and removes all that belongs to it but its complete files.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForgetApp {
    pub(crate) app: String,
}

/// The answer to [`ForgetApp`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Forgotten {
    /// Operations that are gone.
    pub(crate) operations: u64,
}

impl Method for ForgetApp {
    const NAME: &'static str = "ForgetApp";
    type Reply = Forgotten;

    fn perform(self, engine: &Engine) -> Result<Forgotten, Refused> {
        let operations = engine.forget_app(&self.app)?;
        Ok(Forgotten { operations })
    }
}

// ---- looking ----

/// One operation.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Show {
    pub(crate) id: TransferId,
}

/// The answer to [`Show`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) operation: OperationView,
}

impl Method for Show {
    const NAME: &'static str = "Show";
    type Reply = Shown;

    fn perform(self, engine: &Engine) -> Result<Shown, Refused> {
        let operation = engine.view(self.id)?;
        Ok(Shown { operation })
    }
}

/// Operations in the order of their creation, a part at a time.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct List {
    #[serde(default)]
    pub(crate) selection: Selection,
    /// Where an earlier part ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<u64>,
    /// At most so many; never more than 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max: Option<usize>,
}

/// The answer to [`List`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) operations: Vec<OperationView>,
    /// What to give as `after` for the next part, if there may be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<u64>,
}

impl Method for List {
    const NAME: &'static str = "List";
    type Reply = Listed;

    fn perform(self, engine: &Engine) -> Result<Listed, Refused> {
        let max = self.max.unwrap_or(UPDATE_MAX).clamp(1, UPDATE_MAX);
        let page = engine.list(&self.selection.meant()?, self.after, max);
        Ok(Listed {
            operations: page.views,
            next: page.next,
        })
    }
}
