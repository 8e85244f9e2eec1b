//! A backend of the application's own: `file:` URLs, as for a removable disk whose files are to arrive whole and checked.
//!
//! ```text
//! custom_backend [--state DIRECTORY] [SOURCE PATH]
//! ```
//!
//! Copies SOURCE to PATH through the engine; without them a file of its own making. The same command again, after whatever
//! has ended it, goes on where it was.

use std::error::Error;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backhaul::backend::{
    Backend, Capabilities, Failure, FailureKind, Head, HeaderFields, Interrupt, Request, Sink, Start, UrlForm,
    Validators, WebErrorStatus, http_date, is_provable, place, refusal, start,
};
use backhaul::{BackgroundDownloader, Service};
use url::Url;

#[expect(dead_code, reason = "each example uses its own part of this module")]
mod common;

/// A time of modification proves something only once it is this old: file systems keep times in steps of up to 2 s, within
/// which a second change would not show.
const PROVEN_AFTER: Duration = Duration::from_secs(2);

/// Serves `file:///path`.
pub(crate) struct FileBackend;

impl Backend for FileBackend {
    fn schemes(&self) -> Vec<&str> {
        vec!["file"]
    }

    fn capabilities(&self) -> Capabilities {
        // A file has no methods and no headers, and several readers of one disk would be slower than one.
        Capabilities {
            resume: true,
            urls: UrlForm::Path,
            ..Capabilities::default()
        }
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<(), Failure> {
        let fail = |error: &io::Error| classified(&request.url, error);
        let mut file = open(&request.url).map_err(|error| fail(&error))?;
        let before = file.metadata().map_err(|error| fail(&error))?;

        // What it is now, and whether that is what was asked for and what the held bytes are of.
        let validators = validators_of(&before, SystemTime::now());
        let (start, on_trust) = start(request, &validators, true);
        if let Some(failure) = refusal(request, &start, &validators, None) {
            return Err(failure);
        }
        let offset_bytes = match start {
            Start::Continue { offset_bytes } => offset_bytes,
            _ => 0,
        };
        let head = Head {
            start,
            actual_url: request.url.clone(),
            status_code: 200,
            resumable: Some(true),
            provable: is_provable(&validators),
            on_trust,
            content_type: None,
            modified: before.modified().ok(),
            mirrors: Vec::new(),
            headers: HeaderFields::default(),
            validators,
        };
        sink.begin(&head).map_err(|_| refused(&request.url))?;

        file.seek(SeekFrom::Start(offset_bytes)).map_err(|error| fail(&error))?;
        let sent_bytes = copy(&mut file, request, sink, interrupt)?;

        // Whoever changed it meanwhile has changed its time, too. Then the next attempt finds that out, and starts again.
        let after = file.metadata().map_err(|error| fail(&error))?;
        let is_same = after.len() == before.len() && after.modified().ok() == before.modified().ok();
        if !is_same || offset_bytes + sent_bytes != before.len() {
            let problem = "the file was changed while it was read";
            return Err(failure(
                &request.url,
                TRANSIENT,
                WebErrorStatus::LENGTH_MISMATCH,
                problem,
            ));
        }
        Ok(())
    }
}

const TRANSIENT: FailureKind = FailureKind::Transient { retry_after: None };

/// Hands on everything up to the end, and says how much that was. A read of a file cannot be ended from outside as one of a
/// socket can, but it is short; between two of them is time to look at the interrupt.
fn copy(file: &mut File, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<u64, Failure> {
    let mut buffer = vec![0; request.buffer_bytes];
    let mut sent_bytes = 0;
    loop {
        if interrupt.is_raised() {
            let status = WebErrorStatus::OPERATION_CANCELED;
            return Err(failure(&request.url, FailureKind::Interrupted, status, "interrupted"));
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(sent_bytes),
            Ok(count) => {
                sink.write(&buffer[..count]).map_err(|_| refused(&request.url))?;
                sent_bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(classified(&request.url, &error)),
        }
    }
}

fn open(url: &str) -> io::Result<File> {
    let path = Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
    let path = path.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the URL names no file"))?;
    // A pipe that nobody writes to would be waited for without end.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(file)
}

/// Length and time of modification, as whoever compares validators expects them. Without a date they prove nothing.
pub(crate) fn validators_of(metadata: &Metadata, now: SystemTime) -> Validators {
    let modified = metadata.modified().ok();
    let age = modified.and_then(|modified| now.duration_since(modified).ok());
    Validators {
        last_modified: modified.and_then(http_date),
        date: age.filter(|age| *age >= PROVEN_AFTER).and_then(|_| http_date(now)),
        total_bytes: Some(metadata.len()),
        ..Validators::default()
    }
}

/// What may be done about it: a file that is not there will not be there the next time, a disk may be.
fn classified(url: &str, error: &io::Error) -> Failure {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied};
    let (kind, status) = match error.kind() {
        NotFound | NotADirectory => (FailureKind::Permanent, WebErrorStatus::NOT_FOUND),
        PermissionDenied => (FailureKind::Permanent, WebErrorStatus::FORBIDDEN),
        InvalidInput | IsADirectory => (FailureKind::Permanent, WebErrorStatus::BAD_REQUEST),
        _ => (TRANSIENT, WebErrorStatus::CONNECTION_ABORTED),
    };
    failure(url, kind, status, &error.to_string())
}

fn refused(url: &str) -> Failure {
    let status = WebErrorStatus::FILE_ACCESS;
    failure(url, FailureKind::SinkRefused, status, "the bytes could not be stored")
}

fn failure(url: &str, kind: FailureKind, status: WebErrorStatus, problem: &str) -> Failure {
    Failure {
        kind,
        status,
        code: None,
        message: format!("{}: {problem}", place(url)),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().skip(1), &mut io::stdout())
}

pub(crate) fn run(arguments: impl IntoIterator<Item = String>, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let arguments = common::Arguments::new(arguments)?;
    let state = arguments.state();
    let (source, path) = match &arguments.words[..] {
        [source, path] => (std::path::absolute(source)?, std::path::absolute(path)?),
        [] => demonstration(&state)?,
        _ => return Err("usage: custom_backend [--state DIRECTORY] [SOURCE PATH]".into()),
    };
    let service = Service::builder()
        .state_directory(&state)
        .backend(Arc::new(FileBackend))
        .open()?;
    for left in BackgroundDownloader::current_downloads(&service)? {
        writeln!(out, "found {}: {}", left.id(), left.wait()?.status)?;
        left.acknowledge()?;
    }
    if path.exists() {
        return Ok(());
    }
    let url = Url::from_file_path(&source).map_err(|()| "the source has no absolute path")?;
    let downloader = BackgroundDownloader::new(&service);
    let download = downloader.create_download(url.as_str(), &path)?;
    download.start()?;
    let done = download.wait()?;
    match done.error {
        Some(error) => writeln!(out, "{}: {}: {}", done.status, error.status, error.message)?,
        None => writeln!(out, "{}: {}", done.status, done.destination.display())?,
    }
    Ok(download.acknowledge()?)
}

/// A file to copy, and where to, next to the state.
fn demonstration(state: &Path) -> io::Result<(PathBuf, PathBuf)> {
    std::fs::create_dir_all(state)?;
    let (source, path) = (state.join("demonstration"), state.join("demonstration.copy"));
    std::fs::write(&source, "Whatever happens on the way, all of this arrives.\n")?;
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    Ok((source, path))
}
