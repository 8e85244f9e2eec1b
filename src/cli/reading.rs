//! Commands that only read: `list`, `show`, `explain`, `wait`. They ask the engine that runs, or read what is stored, and
//! change nothing; `wait` acknowledges what it reports.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::context::Context;
use super::exit::Exit;
use super::{Failure, output};
use crate::service::left;
use crate::{Error, Filter, GroupFilter, OperationView, TransferId, TransferStatus, damaged_journals, read_catalog};

/// How often `wait` looks at the journal.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn list(context: &Context, json: bool, all_apps: bool, group: Option<String>) -> Result<Exit, Failure> {
    let filter = Filter {
        app: (!all_apps).then(|| context.app.clone()),
        group: group.map_or(GroupFilter::Any, GroupFilter::Named),
    };
    let views = operations(context, &filter)?;
    if json {
        output::json_list(&views);
    } else {
        output::table(&views);
    }
    Ok(Exit::Success)
}

/// The operations that are meant: as the engine knows them that runs, or as they are stored.
fn operations(context: &Context, filter: &Filter) -> Result<Vec<OperationView>, Failure> {
    let asked = context.ask(|service| {
        let views = service.list(filter).collect::<Result<Vec<_>, _>>()?;
        Ok((views, service.describe()?.unacknowledged_lost))
    })?;
    if let Some((views, lost)) = asked {
        note_lost(lost);
        note_damaged(&damaged_journals(&context.state_directory, &context.environment)?);
        return Ok(views);
    }
    let catalog = read_catalog(&context.state_directory, &context.environment)?;
    note_lost(catalog.unacknowledged_lost);
    note_damaged(&catalog.damaged_journals);
    let mut views = catalog.operations;
    views.retain(|view| filter.matches(view));
    Ok(views)
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
        let own = Filter {
            app: Some(context.app.clone()),
            group: GroupFilter::Any,
        };
        let views = operations(context, &own)?;
        for view in views.iter().filter(|view| !view.status.is_ended()) {
            output::explanation(view);
        }
    }
    Ok(Exit::Success)
}

/// An end that nobody was told of must not go in silence.
fn note_lost(count: u64) {
    if count > 0 {
        output::note(&format!(
            "{count} ends went out of the history before they were acknowledged"
        ));
    }
}

/// Nor what was lost with a damaged journal.
fn note_damaged(journals: &[PathBuf]) {
    let damaged: Vec<String> = journals.iter().map(|path| format!("'{}'", path.display())).collect();
    if !damaged.is_empty() {
        output::note(&format!(
            "the journal was damaged and salvaged; operations may be missing here. The damaged one is kept in {}; this note \
             ends when that is moved away",
            damaged.join(", ")
        ));
    }
}

fn find(context: &Context, id: TransferId) -> Result<OperationView, Failure> {
    if let Some(view) = context.ask(|service| service.view(id))? {
        return Ok(view);
    }
    let views = read_catalog(&context.state_directory, &context.environment)?.operations;
    Ok(views
        .into_iter()
        .find(|view| view.id == id)
        .ok_or(Error::UnknownId(id))?)
}

pub(super) fn wait(context: &Context, ids: &[TransferId], timeout: Option<Duration>) -> Result<Exit, Failure> {
    let end = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let running = context.running()?;
        let views = match &running {
            Some(service) => match service.wait(ids, left(end)) {
                Ok(views) => views,
                Err(Error::Disconnected(_)) => continue,
                Err(error) => return Err(error.into()),
            },
            None => stored(context, ids)?,
        };
        if views.iter().all(OperationView::has_ended) {
            return reported(context, &views);
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            let engine = if running.is_some() {
                "an engine is running"
            } else {
                "no engine is running; 'run' starts one"
            };
            let open = views.iter().filter(|view| !view.has_ended()).count();
            let message = format!("timeout: {open} of {} operations have not ended; {engine}", views.len());
            return Err(Failure::new(Exit::TimedOut, message));
        }
        // Nobody works here: an engine may come.
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Operations as they are stored.
fn stored(context: &Context, ids: &[TransferId]) -> Result<Vec<OperationView>, Error> {
    let views = read_catalog(&context.state_directory, &context.environment)?.operations;
    let find = |id: &TransferId| views.iter().find(|view| view.id == *id).cloned();
    ids.iter().map(|id| find(id).ok_or(Error::UnknownId(*id))).collect()
}

fn reported(context: &Context, views: &[OperationView]) -> Result<Exit, Failure> {
    for view in views {
        output::end(view);
    }
    let ids: Vec<TransferId> = views.iter().map(|view| view.id).collect();
    let config = context.config_for_one_command();
    match context.with_engine(&config, &[], |service, _| service.acknowledge(&ids)) {
        // Who may only look has seen it.
        Err(refused) if refused.exit == Exit::BadInput && context.is_of_another() => {
            output::note(&format!("nobody is told that it was seen: {}", refused.message));
        }
        result => result?,
    }
    let completed = views.iter().all(|view| view.status == TransferStatus::Completed);
    Ok(if completed { Exit::Success } else { Exit::TransferFailed })
}
