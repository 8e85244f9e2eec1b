//! What a server makes of the bytes of a client, as far as it needs no engine for that: for fuzz targets.

use serde_json::value::RawValue;

use super::asked::{self, Asked};
use super::traffic::{Step, Traffic};
use crate::service::message::{parse_parameters, parse_request};
use crate::service::methods::{Create, List, METHODS};
use crate::service::monitor::Told;

/// What one message comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is answered without an engine.
    Answered(Vec<u8>),
    /// It is done, or refused, and no answer is wanted.
    Silent,
    /// It is a call that an engine has to do: its method, and its parameters as they were read.
    Call(String, Vec<u8>),
    /// It is none; nothing behind it is heard.
    Broken(String),
    /// It is too long; nothing behind it is heard.
    TooLong,
}

/// What the pieces of a stream come to.
pub(crate) fn heard<'a>(pieces: impl Iterator<Item = &'a [u8]>, message_bytes_max: usize) -> Vec<Heard> {
    let mut traffic = Traffic::new(message_bytes_max);
    let mut all = Vec::new();
    for piece in pieces {
        traffic.received(piece);
        loop {
            match traffic.step() {
                Step::Begin(message) => all.push(of(&message)),
                Step::TooLong => all.push(Heard::TooLong),
                Step::Nothing => break,
            }
            if matches!(all.last(), Some(Heard::Broken(_) | Heard::TooLong)) {
                return all;
            }
        }
    }
    all
}

fn of(message: &[u8]) -> Heard {
    match asked::read(message) {
        Asked::Answered(Some(answer)) => Heard::Answered(answer),
        Asked::Answered(None) => Heard::Silent,
        Asked::Broken(problem) => Heard::Broken(problem),
        Asked::Monitor(monitoring) => {
            let read = serde_json::to_vec(&monitoring).unwrap_or_default();
            // Whether it is refused or not: there is no panic.
            let _ = Told::new(monitoring);
            Heard::Call("Monitor".into(), read)
        }
        Asked::Wait(waiting) => {
            let _ = waiting.check();
            Heard::Call("Wait".into(), serde_json::to_vec(&waiting).unwrap_or_default())
        }
        Asked::Perform { .. } => call(message),
    }
}

fn call(message: &[u8]) -> Heard {
    let Ok(request) = parse_request(message) else {
        return Heard::Broken("a call is none when it is read again".into());
    };
    let name = request.method.rsplit('.').next().unwrap_or_default();
    mean(name, request.parameters);
    let row = METHODS.iter().find(|(listed, ..)| *listed == name);
    match row.map(|(_, _, rewrite)| rewrite(request.parameters)) {
        Some(Ok(read)) => Heard::Call(name.into(), read),
        _ => Heard::Silent,
    }
}

/// What is checked of parameters before an engine has to do with them.
fn mean(name: &str, parameters: Option<&RawValue>) {
    match name {
        "Create" => {
            if let Ok(create) = parse_parameters::<Create>(parameters) {
                create.downloads.into_iter().for_each(|download| drop(download.meant()));
            }
        }
        "List" => {
            if let Ok(list) = parse_parameters::<List>(parameters) {
                let _ = list.selection.meant();
            }
        }
        _ => {}
    }
}
