//! The arguments as they are meant: which command does what.

use super::args::{App, Args, Command, Ids};
use super::context::Context;
use super::exit::Exit;
#[cfg(feature = "manual")]
use super::output;
use super::{Failure, daemon, get, group, journal, reading, transfer, watch};
use crate::{Error, OperationView, Service, TransferId, TransferStatus};

pub(super) fn run(args: Args) -> Result<Exit, Failure> {
    match &args.command {
        #[cfg(feature = "manual")]
        Command::Completions { shell } => return Ok(output::completions(*shell)),
        #[cfg(feature = "manual")]
        Command::Man => return Ok(output::manual()),
        Command::Daemon(daemon) => return daemon::run(args.global, daemon),
        _ => {}
    }
    let context = Context::new(args.global)?;
    match args.command {
        Command::Get {
            download,
            running,
            json,
            quiet,
        } => get::run(&context, &download, &running, json, quiet),
        Command::Add { download, hold } => transfer::add(&context, &download, hold),
        Command::Run {
            until_idle,
            salvage,
            running,
        } => transfer::run(&context, until_idle, salvage, &running),
        Command::Start(ids) => each(&context, &ids, Service::start, |view| {
            view.is_some_and(|view| view.status != TransferStatus::Idle)
        }),
        Command::Pause(ids) => each(&context, &ids, Service::pause, |view| {
            view.is_some_and(|view| view.status == TransferStatus::PausedByApplication)
        }),
        Command::Resume(ids) => each(&context, &ids, Service::resume, |view| {
            view.is_some_and(|view| view.status != TransferStatus::PausedByApplication)
        }),
        Command::Set { id, changes } => transfer::set(&context, id, changes),
        Command::Cancel(ids) => each(&context, &ids, Service::cancel, |view| {
            view.is_some_and(|view| view.status == TransferStatus::Canceled)
        }),
        Command::Remove(ids) => each(&context, &ids, Service::remove, |view| view.is_none()),
        Command::Ack(ids) => each(&context, &ids, Service::acknowledge, |view| {
            // The history may have had no more room for it.
            view.is_none_or(|view| view.acknowledged)
        }),
        Command::Group(command) => group::group(&context, &command),
        Command::Completion(command) => group::completion(&context, &command),
        Command::App(App::Forget { name }) => transfer::forget(&context, &name),
        Command::Watch { json, all_apps, since } => watch::run(&context, json, all_apps, since),
        Command::Wait { ids, timeout } => reading::wait(&context, &ids.ids, timeout),
        Command::List { json, all_apps, group } => reading::list(&context, json, all_apps, group),
        Command::Show { id, json } => reading::show(&context, id, json),
        Command::Explain { id } => reading::explain(&context, id),
        Command::Journal(command) => journal::run(&context, &command),
        #[cfg(feature = "manual")]
        Command::Completions { .. } | Command::Man => Ok(Exit::Success),
        Command::Daemon(_) => Ok(Exit::Success),
    }
}

/// Does one thing to several operations. An unknown id refuses all of them; the first that is refused by its state ends
/// it, and those before it are done. `is_done`: whether it shows in an operation, or in that there is none, that it was done.
fn each(
    context: &Context,
    ids: &Ids,
    act: impl Fn(&Service, &[TransferId]) -> Result<(), Error>,
    is_done: impl Fn(Option<&OperationView>) -> bool,
) -> Result<Exit, Failure> {
    let config = context.config_for_one_command();
    context.with_engine(&config, &[], |service, again| {
        if !again {
            return act(service, &ids.ids);
        }
        // To some of them the engine before may have done it, which refuses these and no other: so each by itself.
        ids.ids.iter().try_for_each(|id| match act(service, &[*id]) {
            Err(Error::NotNow { .. }) if is_done(Some(&service.view(*id)?)) => Ok(()),
            Err(Error::UnknownId(_)) if is_done(None) => Ok(()),
            result => result,
        })
    })?;
    Ok(Exit::Success)
}
