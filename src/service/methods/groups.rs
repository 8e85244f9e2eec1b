//! Transfer groups and completion groups.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::super::Service;
use super::super::download::DEFAULT_APP;
use super::super::fault::Refused;
use super::{Done, Method};
use crate::engine::{CompletionGroupView, CompletionState, Engine, OperationView};
use crate::error::Error;
use crate::groups::GroupView;
use crate::operation::{CompletionAction, CompletionGroupId, TransferBehavior, TransferId};
use crate::wire;

fn or_default(app: Option<String>) -> String {
    app.unwrap_or_else(|| DEFAULT_APP.to_owned())
}

/// A method that says of which app it speaks, and answers with one transfer group.
macro_rules! on_group {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* } => $reply:ty = $perform:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub(crate) app: Option<String>,
            $(pub(crate) $field: $type,)*
        }

        impl Method for $name {
            const NAME: &'static str = stringify!($name);
            type Reply = $reply;

            fn perform(self, engine: &Engine) -> Result<$reply, Refused> {
                let Self { app, $($field),* } = self;
                let perform: fn(&Engine, &str, $($type),*) -> Result<$reply, Error> = $perform;
                Ok(perform(engine, &or_default(app), $($field),*)?)
            }
        }
    )*};
}

/// One transfer group.
#[derive(Serialize, Deserialize)]
pub(crate) struct OneGroup {
    pub(crate) group: GroupView,
}

on_group! {
    /// The transfer group of this name, which is made where it is missing.
    CreateGroup { name: String, behavior: Option<TransferBehavior> } => OneGroup = |engine, app, name, behavior| {
        engine.create_group(app, &name, behavior).map(|group| OneGroup { group })
    };
    /// Changes how the operations of a transfer group run.
    SetGroup { name: String, behavior: TransferBehavior } => OneGroup = |engine, app, name, behavior| {
        engine.set_group_behavior(app, &name, behavior).map(|group| OneGroup { group })
    };
    /// Removes a transfer group all of whose operations have ended.
    RemoveGroup { name: String } => Done = |engine, app, name| {
        engine.remove_group(app, &name).map(|()| Done {})
    };
}

/// The transfer groups of an app, or of all apps.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Groups {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) all_apps: bool,
}

/// The answer to [`Groups`].
#[derive(Serialize, Deserialize)]
pub(crate) struct AllGroups {
    pub(crate) groups: Vec<GroupView>,
}

impl Method for Groups {
    const NAME: &'static str = "Groups";
    type Reply = AllGroups;

    fn perform(self, engine: &Engine) -> Result<AllGroups, Refused> {
        let app = app_meant(self.app, self.all_apps)?;
        let groups = engine.groups(app.as_deref());
        Ok(AllGroups { groups })
    }
}

fn app_meant(app: Option<String>, all_apps: bool) -> Result<Option<String>, Error> {
    match app {
        Some(app) if all_apps => {
            let problem = "is given together with all_apps; give one of the two";
            Err(Error::invalid("app", app, problem))
        }
        app => Ok((!all_apps).then(|| or_default(app))),
    }
}

/// Moves an operation to the front of its transfer group.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MakeCurrent {
    pub(crate) id: TransferId,
}

impl Method for MakeCurrent {
    const NAME: &'static str = "MakeCurrent";
    type Reply = Done;

    fn perform(self, engine: &Engine) -> Result<Done, Refused> {
        engine.make_current(self.id)?;
        Ok(Done {})
    }
}

// ---- completion groups ----

/// What a completion group has got to, on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CompletionStage {
    Open,
    Sealed,
    Fired,
    Running,
    Done,
    Failed,
}

/// A completion group on the wire.
#[derive(Serialize, Deserialize)]
pub(crate) struct CompletionGroup {
    id: CompletionGroupId,
    app: String,
    name: Option<String>,
    command: Option<Vec<String>>,
    state: CompletionStage,
    /// How many of its operations have not ended; counted where it is sealed.
    remaining: usize,
    members: Vec<TransferId>,
    runs: u32,
    problem: Option<String>,
    #[serde(rename = "next_run_at", with = "wire::maybe_time")]
    next_run_at_ms: Option<u64>,
    #[serde(rename = "created_at", with = "wire::time")]
    created_at_ms: u64,
    #[serde(rename = "sealed_at", with = "wire::maybe_time")]
    sealed_at_ms: Option<u64>,
    #[serde(rename = "fired_at", with = "wire::maybe_time")]
    fired_at_ms: Option<u64>,
    #[serde(rename = "closed_at", with = "wire::maybe_time")]
    closed_at_ms: Option<u64>,
}

impl From<CompletionGroupView> for CompletionGroup {
    fn from(view: CompletionGroupView) -> Self {
        let (state, remaining) = match &view.state {
            CompletionState::Open => (CompletionStage::Open, 0),
            CompletionState::Sealed { remaining } => (CompletionStage::Sealed, *remaining),
            CompletionState::Fired => (CompletionStage::Fired, 0),
            CompletionState::Running => (CompletionStage::Running, 0),
            CompletionState::Done => (CompletionStage::Done, 0),
            CompletionState::Failed(_) => (CompletionStage::Failed, 0),
        };
        Self {
            id: view.id,
            app: view.app,
            name: view.name,
            command: match view.action {
                CompletionAction::Command(command) => Some(command),
                CompletionAction::Event => None,
            },
            state,
            remaining,
            members: view.members,
            runs: view.runs,
            problem: view.problem,
            next_run_at_ms: view.next_run_at_ms,
            created_at_ms: view.created_at_ms,
            sealed_at_ms: view.sealed_at_ms,
            fired_at_ms: view.fired_at_ms,
            closed_at_ms: view.closed_at_ms,
        }
    }
}

impl From<CompletionGroup> for CompletionGroupView {
    fn from(group: CompletionGroup) -> Self {
        let state = match group.state {
            CompletionStage::Open => CompletionState::Open,
            CompletionStage::Sealed => CompletionState::Sealed {
                remaining: group.remaining,
            },
            CompletionStage::Fired => CompletionState::Fired,
            CompletionStage::Running => CompletionState::Running,
            CompletionStage::Done => CompletionState::Done,
            CompletionStage::Failed => CompletionState::Failed(group.problem.clone().unwrap_or_default()),
        };
        Self {
            id: group.id,
            app: group.app,
            name: group.name,
            action: group.command.map_or(CompletionAction::Event, CompletionAction::Command),
            state,
            members: group.members,
            runs: group.runs,
            problem: group.problem,
            next_run_at_ms: group.next_run_at_ms,
            created_at_ms: group.created_at_ms,
            sealed_at_ms: group.sealed_at_ms,
            fired_at_ms: group.fired_at_ms,
            closed_at_ms: group.closed_at_ms,
        }
    }
}

/// Completion groups among other things on the wire.
pub(crate) mod told_groups {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{CompletionGroup, CompletionGroupView};

    pub(crate) fn serialize<S: Serializer>(groups: &[CompletionGroupView], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(groups.iter().cloned().map(CompletionGroup::from))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<CompletionGroupView>, D::Error> {
        let groups = Option::<Vec<CompletionGroup>>::deserialize(deserializer)?;
        Ok(groups.into_iter().flatten().map(Into::into).collect())
    }
}

/// Writes the report for the command of a completion group: one JSON object, download by download.
pub(crate) fn report(
    group: &CompletionGroupView,
    downloads: &mut dyn Iterator<Item = OperationView>,
    to: &mut dyn Write,
) -> io::Result<()> {
    let group = serde_json::to_vec(&CompletionGroup::from(group.clone()))?;
    to.write_all(&[b"{\"completion_group\":", &group[..], b",\"downloads\":["].concat())?;
    for (index, download) in downloads.enumerate() {
        if index > 0 {
            to.write_all(b",")?;
        }
        to.write_all(&serde_json::to_vec(&download)?)?;
    }
    to.write_all(b"]}")
}

/// Makes a completion group.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateCompletionGroup {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// What is run when all have ended; without it the group is shown as fired until somebody acknowledges that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) command: Option<Vec<String>>,
}

/// The answer to [`CreateCompletionGroup`].
#[derive(Serialize, Deserialize)]
pub(crate) struct CreatedCompletionGroup {
    pub(crate) id: CompletionGroupId,
}

impl Method for CreateCompletionGroup {
    const NAME: &'static str = "CreateCompletionGroup";
    type Reply = CreatedCompletionGroup;

    fn perform(self, engine: &Engine) -> Result<CreatedCompletionGroup, Refused> {
        let action = self.command.map_or(CompletionAction::Event, CompletionAction::Command);
        let id = engine.create_completion_group(&or_default(self.app), self.name, action)?;
        Ok(CreatedCompletionGroup { id })
    }
}

/// A method on one completion group.
macro_rules! on_completion_group {
    ($($(#[$doc:meta])* $name:ident => $reply:ty = $perform:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            pub(crate) id: CompletionGroupId,
        }

        impl Method for $name {
            const NAME: &'static str = stringify!($name);
            type Reply = $reply;

            fn perform(self, engine: &Engine) -> Result<$reply, Refused> {
                let perform: fn(&Engine, CompletionGroupId) -> Result<$reply, Error> = $perform;
                Ok(perform(engine, self.id)?)
            }
        }
    )*};
}

/// One completion group.
#[derive(Serialize, Deserialize)]
pub(crate) struct OneCompletionGroup {
    pub(crate) group: CompletionGroup,
}

on_completion_group! {
    /// Seals a completion group.
    EnableCompletionGroup => Done = |engine, id| engine.enable_completion_group(id).map(|()| Done {});
    /// Takes note that a completion group has fired.
    AcknowledgeCompletionGroup => Done = |engine, id| engine.acknowledge_completion_group(id).map(|()| Done {});
    /// Removes a completion group.
    RemoveCompletionGroup => Done = |engine, id| engine.remove_completion_group(id).map(|()| Done {});
    /// One completion group, with its operations.
    ShowCompletionGroup => OneCompletionGroup = |engine, id| {
        let group = engine.completion_group(id)?.into();
        Ok(OneCompletionGroup { group })
    };
}

/// The completion groups of an app, or of all apps, without their operations.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompletionGroups {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) all_apps: bool,
}

/// The answer to [`CompletionGroups`].
#[derive(Serialize, Deserialize)]
pub(crate) struct AllCompletionGroups {
    pub(crate) groups: Vec<CompletionGroup>,
}

impl Method for CompletionGroups {
    const NAME: &'static str = "CompletionGroups";
    type Reply = AllCompletionGroups;

    fn perform(self, engine: &Engine) -> Result<AllCompletionGroups, Refused> {
        let app = app_meant(self.app, self.all_apps)?;
        let groups = engine.completion_groups(app.as_deref()).into_iter();
        // With ten thousand operations each they would fit no message.
        let groups = groups.map(|mut group| {
            group.members.clear();
            group.into()
        });
        Ok(AllCompletionGroups {
            groups: groups.collect(),
        })
    }
}

// ---- the same for programs ----

impl Service {
    /// The transfer group of this app with this name: as it is, or a new one.
    ///
    /// # Errors
    /// As [`Engine::create_group`].
    pub fn create_group(&self, name: &str, behavior: Option<TransferBehavior>) -> Result<GroupView, Error> {
        let (app, name) = (Some(self.app().to_owned()), name.to_owned());
        Ok(self.call(CreateGroup { app, name, behavior })?.group)
    }

    /// The transfer groups of this app, by name.
    ///
    /// # Errors
    /// [`Error::Disconnected`] where the engine has stopped.
    pub fn groups(&self) -> Result<Vec<GroupView>, Error> {
        let (app, all_apps) = (Some(self.app().to_owned()), false);
        Ok(self.call(Groups { app, all_apps })?.groups)
    }

    /// Changes how the operations of a transfer group run.
    ///
    /// # Errors
    /// As [`Engine::set_group_behavior`].
    pub fn set_group_behavior(&self, name: &str, behavior: TransferBehavior) -> Result<GroupView, Error> {
        let (app, name) = (Some(self.app().to_owned()), name.to_owned());
        Ok(self.call(SetGroup { app, name, behavior })?.group)
    }

    /// Removes a transfer group all of whose operations have ended.
    ///
    /// # Errors
    /// As [`Engine::remove_group`].
    pub fn remove_group(&self, name: &str) -> Result<(), Error> {
        let (app, name) = (Some(self.app().to_owned()), name.to_owned());
        self.done(RemoveGroup { app, name })
    }

    /// Moves an operation to the front of its transfer group, together with all that is queued behind it.
    ///
    /// # Errors
    /// As [`Engine::make_current`].
    pub fn make_current(&self, id: TransferId) -> Result<(), Error> {
        self.done(MakeCurrent { id })
    }

    /// Makes a completion group of this app.
    ///
    /// # Errors
    /// As [`Engine::create_completion_group`].
    pub fn create_completion_group(
        &self,
        name: Option<&str>,
        action: &CompletionAction,
    ) -> Result<CompletionGroupId, Error> {
        let (app, name) = (Some(self.app().to_owned()), name.map(str::to_owned));
        let command = match action {
            CompletionAction::Command(command) => Some(command.clone()),
            CompletionAction::Event => None,
        };
        Ok(self.call(CreateCompletionGroup { app, name, command })?.id)
    }

    /// Seals a completion group.
    ///
    /// # Errors
    /// As [`Engine::enable_completion_group`].
    pub fn enable_completion_group(&self, id: CompletionGroupId) -> Result<(), Error> {
        self.done(EnableCompletionGroup { id })
    }

    /// Takes note that a completion group has fired.
    ///
    /// # Errors
    /// As [`Engine::acknowledge_completion_group`].
    pub fn acknowledge_completion_group(&self, id: CompletionGroupId) -> Result<(), Error> {
        self.done(AcknowledgeCompletionGroup { id })
    }

    /// Removes a completion group; its operations stay.
    ///
    /// # Errors
    /// As [`Engine::remove_completion_group`].
    pub fn remove_completion_group(&self, id: CompletionGroupId) -> Result<(), Error> {
        self.done(RemoveCompletionGroup { id })
    }

    /// One completion group.
    ///
    /// # Errors
    /// [`Error::UnknownCompletionGroup`].
    pub fn completion_group(&self, id: CompletionGroupId) -> Result<CompletionGroupView, Error> {
        Ok(self.call(ShowCompletionGroup { id })?.group.into())
    }

    /// The completion groups of this app in the order of their creation, without their operations.
    ///
    /// # Errors
    /// [`Error::Disconnected`] where the engine has stopped.
    pub fn completion_groups(&self) -> Result<Vec<CompletionGroupView>, Error> {
        let groups = self.completion_groups_as_sent()?;
        Ok(groups.into_iter().map(Into::into).collect())
    }

    /// The same in their JSON form.
    pub(crate) fn completion_groups_as_sent(&self) -> Result<Vec<CompletionGroup>, Error> {
        let (app, all_apps) = (Some(self.app().to_owned()), false);
        Ok(self.call(CompletionGroups { app, all_apps })?.groups)
    }
}
