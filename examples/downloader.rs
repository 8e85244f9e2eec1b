//! A download from its creation to its end, with a pause, a cancellation, and the way back to what an earlier run has left.
//!
//! ```text
//! downloader [--socket SOCKET | --state DIRECTORY] [URL PATH [--pause-at N | --cancel-at N | --leave-at N]]
//! ```
//!
//! First it goes on with what is pending. Then it fetches URL into PATH; after N bytes it pauses the download and resumes it,
//! cancels it, or pauses and leaves it to the next run.

use std::error::Error;
use std::io::Write;

use backhaul::{BackgroundDownloader, CostPolicy, DownloadOperation, TransferStatus};

mod common;

fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().skip(1), &mut std::io::stdout())
}

/// What is done once so many bytes are there.
#[derive(Clone, Copy)]
enum Then {
    Resume,
    Cancel,
    Leave,
}

pub(crate) fn run(arguments: impl IntoIterator<Item = String>, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let arguments = common::Arguments::new(arguments)?;
    let service = arguments.service()?;

    // Whatever was created by an earlier run is here. It ran in between, too, if the service is another process.
    for download in BackgroundDownloader::current_downloads(&service)? {
        let found = download.progress_snapshot()?;
        writeln!(
            out,
            "found {} {}: {} bytes",
            download.id(),
            found.status,
            found.bytes_received
        )?;
        if found.status == TransferStatus::PausedByApplication {
            download.resume()?;
        }
        follow(&download, None, out)?;
    }

    let [url, path] = &arguments.words[..] else {
        return Ok(());
    };
    let mut downloader = BackgroundDownloader::new(&service);
    downloader
        .set_request_header("X-Device", "42")?
        .set_cost_policy(CostPolicy::UnrestrictedOnly);
    let download = downloader.create_download(url, path)?;
    writeln!(out, "created {}", download.id())?; // and durable: from here on it survives whatever happens to this process
    download.start()?;

    let mut stop = None;
    for (name, then) in [
        ("pause-at", Then::Resume),
        ("cancel-at", Then::Cancel),
        ("leave-at", Then::Leave),
    ] {
        stop = stop.or(arguments.bytes(name)?.map(|bytes| (bytes, then)));
    }
    follow(&download, stop, out)
}

/// Shows how far it is until it ends, and how it ended.
fn follow(
    download: &DownloadOperation,
    mut stop: Option<(u64, Then)>,
    out: &mut dyn Write,
) -> Result<(), Box<dyn Error>> {
    for progress in download.progress() {
        let total = progress.total_bytes.map_or("?".into(), |total| total.to_string());
        writeln!(out, "{}: {} of {total} bytes", progress.status, progress.bytes_received)?;
        let Some((_, then)) = stop.take_if(|(bytes, _)| progress.bytes_received >= *bytes) else {
            continue;
        };
        let stopped = match then {
            Then::Cancel => download.cancel(),
            Then::Resume | Then::Leave => download.pause(), // returns once its connection is closed
        };
        match (stopped, then) {
            (Err(backhaul::Error::NotNow { .. }), _) | (Ok(()), Then::Cancel) => continue, // it was faster, or has ended
            (stopped, _) => stopped?,
        }
        writeln!(out, "paused at {} bytes", download.progress_snapshot()?.bytes_received)?;
        match then {
            Then::Leave => return Ok(()),
            _ => download.resume()?,
        }
    }
    let done = download.wait()?;
    match done.error {
        Some(error) => writeln!(out, "{}: {}: {}", done.status, error.status, error.message)?,
        None => writeln!(out, "{}: {}", done.status, done.destination.display())?,
    }
    // Without this the next run finds its end again.
    Ok(download.acknowledge()?)
}
