//! `group` and `completion`: operations that belong together, and what is done when all of them have ended.

use super::args::{BehaviorArg, Completion, Group};
use super::context::{Context, backends};
use super::exit::Exit;
use super::{Failure, output};
use crate::{CompletionAction, CompletionState, Error, Service};

pub(super) fn group(context: &Context, command: &Group) -> Result<Exit, Failure> {
    on_service(context, |service| {
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
            Group::Remove { name } => service.remove_group(name)?,
            Group::Current { id } => service.make_current(*id)?,
        }
        Ok(())
    })
}

pub(super) fn completion(context: &Context, command: &Completion) -> Result<Exit, Failure> {
    on_service(context, |service| {
        match command {
            Completion::Create { name, command } => {
                let action = if command.is_empty() {
                    CompletionAction::Event
                } else {
                    CompletionAction::Command(command.clone())
                };
                let id = service.create_completion_group(name.as_deref(), &action)?;
                output::line(&id.to_string());
            }
            Completion::Enable { id } => service.enable_completion_group(*id)?,
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
            Completion::Ack { id } => service.acknowledge_completion_group(*id)?,
            Completion::Remove { id } => service.remove_completion_group(*id)?,
        }
        Ok(())
    })
}

fn on_service(context: &Context, act: impl Fn(&Service) -> Result<(), Error>) -> Result<Exit, Failure> {
    let config = context.config_for_one_command();
    context.with_engine(&config, &backends(&config)?, |service, _| act(service))?;
    Ok(Exit::Success)
}

impl From<BehaviorArg> for crate::TransferBehavior {
    fn from(arg: BehaviorArg) -> Self {
        match arg {
            BehaviorArg::Parallel => Self::Parallel,
            BehaviorArg::Serialized => Self::Serialized,
        }
    }
}
