//! Many downloads, and what is done when all have ended: those that have failed are fetched from elsewhere, by a new group.
//!
//! ```text
//! completion_group [--socket SOCKET | --state DIRECTORY] DIRECTORY URL ELSEWHERE [NUMBER]
//! ```
//!
//! Fetches URL with 0, 1, 2 ... (10 of them, or NUMBER) at its end; what fails comes from ELSEWHERE with the same number.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use backhaul::{
    BackgroundDownloader, BackgroundTransferCompletionGroup, CompletionAction, DownloadOperation, Service,
    TransferStatus,
};

#[expect(dead_code, reason = "each example uses its own part of this module")]
mod common;

fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().skip(1), &mut std::io::stdout())
}

pub(crate) fn run(arguments: impl IntoIterator<Item = String>, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let arguments = common::Arguments::new(arguments)?;
    let (directory, url, elsewhere, number) = match &arguments.words[..] {
        [directory, url, elsewhere] => (directory, url, elsewhere, 10),
        [directory, url, elsewhere, number] => (directory, url, elsewhere, number.parse()?),
        _ => return Err("usage: completion_group [--socket S | --state D] DIRECTORY URL ELSEWHERE [NUMBER]".into()),
    };
    let service = arguments.service()?;
    let all: Vec<usize> = (0..number).collect();
    let failed = fetch(&service, directory, url, &all, out)?;
    let lost = fetch(&service, directory, elsewhere, &failed, out)?;
    writeln!(out, "{} are there, {} are not", number - lost.len(), lost.len())?;
    Ok(())
}

/// Fetches some of them, and gives those that have failed.
fn fetch(
    service: &Service,
    directory: &str,
    url: &str,
    numbers: &[usize],
    out: &mut dyn Write,
) -> Result<Vec<usize>, Box<dyn Error>> {
    // With CompletionAction::Command a program is run instead, also where this one has long ended: it finds the same in JSON
    // on its standard input.
    let group = BackgroundTransferCompletionGroup::new(service, Some("example"), &CompletionAction::Event)?;
    let downloader = BackgroundDownloader::with_completion_group(service, &group);
    let mut downloads: Vec<DownloadOperation> = Vec::new();
    for number in numbers {
        let path = Path::new(directory).join(format!("image-{number}"));
        downloads.push(downloader.create_download(&format!("{url}{number}"), path)?);
    }
    downloads.iter().try_for_each(DownloadOperation::start)?;
    group.enable()?; // nothing joins any more; without this it never fires

    let view = group.wait()?;
    let mut failed = Vec::new();
    for (number, download) in numbers
        .iter()
        .zip(BackgroundDownloader::downloads_of_completion_group(service, &group)?)
    {
        if download.progress_snapshot()?.status != TransferStatus::Completed {
            failed.push(*number);
        }
        download.acknowledge()?;
    }
    writeln!(out, "{} of {} have failed", failed.len(), view.members.len())?;
    group.acknowledge()?;
    group.remove()?;
    Ok(failed)
}
