//! A URL that expires in the middle: the download pauses with all its bytes, gets another URL, and goes on.
//!
//! ```text
//! recoverable [--socket SOCKET | --state DIRECTORY] URL NEXT_URL PATH
//! ```

use std::error::Error;
use std::io::Write;

use backhaul::{BackgroundDownloader, TransferStatus, WebErrorStatus};

#[expect(dead_code, reason = "each example uses its own part of this module")]
mod common;

fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().skip(1), &mut std::io::stdout())
}

pub(crate) fn run(arguments: impl IntoIterator<Item = String>, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let arguments = common::Arguments::new(arguments)?;
    let [url, next_url, path] = &arguments.words[..] else {
        return Err("usage: recoverable [--socket SOCKET | --state DIRECTORY] URL NEXT_URL PATH".into());
    };
    let service = arguments.service()?;
    let mut downloader = BackgroundDownloader::new(&service);
    // Without this a 403 would end the download.
    downloader.set_recoverable_web_error_statuses([WebErrorStatus::FORBIDDEN]);
    let download = downloader.create_download(url, path)?;
    download.start()?;

    for progress in download.progress() {
        if progress.status == TransferStatus::PausedRecoverableWebErrorStatus {
            let error = download.current_web_error_status()?;
            let shown = error.map_or("no error".into(), |error| error.to_string());
            writeln!(out, "{shown} at {} bytes", progress.bytes_received)?;
            download.set_requested_uri(next_url)?; // a header would do as well: replace_secret_request_header
            download.resume()?;
        }
    }
    let done = download.wait()?;
    writeln!(
        out,
        "{} with {} restarts, {} bytes wasted",
        done.status, done.restarts, done.bytes_wasted
    )?;
    Ok(download.acknowledge()?)
}
