//! Commands that only read: `list`, `show`, `explain`, `wait`. They take no lock and change nothing; `wait`
//! acknowledges what it reports where nobody holds the lock.

use std::time::{Duration, Instant};

use super::context::Context;
use super::exit::Exit;
use super::{Failure, output};
use crate::config::Layout;
use crate::environment::engine_holder;
use crate::{Catalog, Engine, Error, OperationView, TransferId, TransferStatus, read_catalog};

/// How often `wait` looks at the journal.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn list(context: &Context, json: bool, all_apps: bool) -> Result<Exit, Failure> {
    let catalog = read_catalog(&context.state_directory, &context.environment)?;
    note_lost(&catalog);
    let mut views = catalog.operations;
    views.retain(|view| all_apps || view.app == context.app);
    if json {
        output::json_list(&views);
    } else {
        output::table(&views);
    }
    Ok(Exit::Success)
}

pub(super) fn show(context: &Context, id: TransferId, json: bool) -> Result<Exit, Failure> {
    let view = find(context, id)?;
    if json {
        output::json_object(&view);
    } else {
        output::details(&view);
    }
    Ok(Exit::Success)
}

pub(super) fn explain(context: &Context, id: Option<TransferId>) -> Result<Exit, Failure> {
    if let Some(id) = id {
        output::explanation(&find(context, id)?);
    } else {
        let catalog = read_catalog(&context.state_directory, &context.environment)?;
        note_lost(&catalog);
        for view in catalog
            .operations
            .iter()
            .filter(|view| view.app == context.app && !view.status.is_ended())
        {
            output::explanation(view);
        }
    }
    Ok(Exit::Success)
}

/// An end that nobody was told of must not go in silence, nor what was lost with a damaged journal.
fn note_lost(catalog: &Catalog) {
    if catalog.unacknowledged_lost > 0 {
        let count = catalog.unacknowledged_lost;
        output::note(&format!(
            "{count} ends went out of the history before they were acknowledged"
        ));
    }
    let damaged: Vec<String> = catalog
        .damaged_journals
        .iter()
        .map(|path| format!("'{}'", path.display()))
        .collect();
    if !damaged.is_empty() {
        output::note(&format!(
            "the journal was damaged and salvaged; operations may be missing here. The damaged one is kept in {}; this note \
             ends when that is moved away",
            damaged.join(", ")
        ));
    }
}

fn find(context: &Context, id: TransferId) -> Result<OperationView, Failure> {
    let views = read_catalog(&context.state_directory, &context.environment)?.operations;
    Ok(views
        .into_iter()
        .find(|view| view.id == id)
        .ok_or(Error::UnknownId(id))?)
}

pub(super) fn wait(context: &Context, ids: &[TransferId], timeout: Option<Duration>) -> Result<Exit, Failure> {
    let end = timeout.map(|timeout| Instant::now() + timeout);
    let lock = Layout::new(&context.state_directory).lock();
    loop {
        let views = read_catalog(&context.state_directory, &context.environment)?.operations;
        let named: Vec<&OperationView> = ids
            .iter()
            .map(|id| views.iter().find(|view| view.id == *id).ok_or(Error::UnknownId(*id)))
            .collect::<Result<_, _>>()?;
        if named.iter().all(|view| view.status.is_ended()) {
            return reported(context, &named);
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            let engine = if engine_holder(&lock).is_some() {
                "an engine is running"
            } else {
                "no engine is running; 'run' starts one"
            };
            let open = named.iter().filter(|view| !view.status.is_ended()).count();
            let message = format!("timeout: {open} of {} operations have not ended; {engine}", named.len());
            return Err(Failure::new(Exit::TimedOut, message));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn reported(context: &Context, views: &[&OperationView]) -> Result<Exit, Failure> {
    for view in views {
        output::end(view);
    }
    let ids: Vec<TransferId> = views.iter().map(|view| view.id).collect();
    let opened = Engine::open(
        &context.state_directory,
        context.config_for_one_command(),
        context.environment.clone(),
        Vec::new(),
    );
    match opened {
        Ok(engine) => {
            engine.acknowledge(&ids)?;
            engine.close()?;
        }
        Err(Error::Locked { .. }) => {
            output::note("the engine that runs has the lock; 'ack' acknowledges these ends later");
        }
        Err(error) => return Err(error.into()),
    }
    let completed = views.iter().all(|view| view.status == TransferStatus::Completed);
    Ok(if completed { Exit::Success } else { Exit::TransferFailed })
}
