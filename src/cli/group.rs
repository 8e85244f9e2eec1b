//! `group` and `completion`: operations that belong together, and what is done when all of them have ended.

use super::args::{BehaviorArg, Completion, Group};
use super::context::{Context, backends};
use super::exit::Exit;
use super::{Failure, output};
use crate::{CompletionAction, CompletionGroupView, CompletionState, Error, Service};

pub(super) fn group(context: &Context, command: &Group) -> Result<Exit, Failure> {
    on_service(context, |service, again| {
        match command {
            Group::Create { name, behavior } => {
                let group = service.create_group(name, behavior.map(Into::into))?;
                output::group(&group);
            }
            Group::List { json: true } => {
                output::json(&service.groups()?);
            }
            Group::List { json: false } => service.groups()?.iter().for_each(output::group),
            Group::Set { name, behavior } => {
                let group = service.set_group_behavior(name, (*behavior).into())?;
                output::group(&group);
            }
            Group::Remove { name } => unless_done(service.remove_group(name), again, |error| {
                matches!(error, Error::UnknownGroup { .. })
            })?,
            Group::Current { id } => service.make_current(*id)?,
        }
        Ok(())
    })
}

pub(super) fn completion(context: &Context, command: &Completion) -> Result<Exit, Failure> {
    on_service(context, |service, again| {
        match command {
            Completion::Create { .. } if again => {
                let problem = "the engine ended that was to create it, and may have done so; see 'completion list', and give the \
                               command again where it is not there";
                return Err(Error::Service(problem.into()));
            }
            Completion::Create { name, command } => {
                let action = if command.is_empty() {
                    CompletionAction::Event
                } else {
                    CompletionAction::Command(command.clone())
                };
                let id = service.create_completion_group(name.as_deref(), &action)?;
                output::line(&id.to_string());
            }
            Completion::Enable { id } => unless_done(service.enable_completion_group(*id), again, |error| {
                matches!(error, Error::CompletionGroupNotNow { .. })
            })?,
            Completion::List { json: true } => {
                output::json(&service.completion_groups_as_sent()?);
            }
            Completion::List { json: false } => {
                for group in service.completion_groups()? {
                    let state = match &group.state {
                        CompletionState::Open => "open".to_owned(),
                        CompletionState::Sealed { remaining } => format!("waits for {remaining} of its operations"),
                        CompletionState::Fired => "fired".to_owned(),
                        CompletionState::Running => "runs its command".to_owned(),
                        CompletionState::Done => "done".to_owned(),
                        CompletionState::Failed(problem) => format!("failed: {problem}"),
                    };
                    let name = group.name.as_deref().unwrap_or_default();
                    output::line(format!("{}  {state:<32}  {name}", group.id).trim_end());
                }
            }
            Completion::Ack { id } => unless_done(service.acknowledge_completion_group(*id), again, |_| {
                let done = |group: &CompletionGroupView| group.id == *id && group.state == CompletionState::Done;
                service.completion_groups().is_ok_and(|groups| groups.iter().any(done))
            })?,
            Completion::Remove { id } => unless_done(service.remove_completion_group(*id), again, |error| {
                matches!(error, Error::UnknownCompletionGroup(_))
            })?,
        }
        Ok(())
    })
}

/// `act` is told whether an engine before has ended in the middle.
fn on_service(context: &Context, act: impl Fn(&Service, bool) -> Result<(), Error>) -> Result<Exit, Failure> {
    let config = context.config_for_one_command();
    context.with_engine(&config, &backends(&config)?, act)?;
    Ok(Exit::Success)
}

/// That something is done already is no error where the engine before may have done it.
fn unless_done(result: Result<(), Error>, again: bool, is_done: impl Fn(&Error) -> bool) -> Result<(), Error> {
    match result {
        Err(error) if again && is_done(&error) => Ok(()),
        result => result,
    }
}

impl From<BehaviorArg> for crate::TransferBehavior {
    fn from(arg: BehaviorArg) -> Self {
        match arg {
            BehaviorArg::Parallel => Self::Parallel,
            BehaviorArg::Serialized => Self::Serialized,
        }
    }
}
