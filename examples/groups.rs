//! Several downloads one after the other, and one that goes to the front.
//!
//! ```text
//! groups [--socket SOCKET | --state DIRECTORY] DIRECTORY URL URL...
//! ```
//!
//! The last URL is made the current one: it comes after the one that runs, and the others after it.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use backhaul::{BackgroundDownloader, BackgroundTransferGroup, TransferBehavior};

#[expect(dead_code, reason = "each example uses its own part of this module")]
mod common;

fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().skip(1), &mut std::io::stdout())
}

pub(crate) fn run(arguments: impl IntoIterator<Item = String>, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let arguments = common::Arguments::new(arguments)?;
    let [directory, urls @ ..] = &arguments.words[..] else {
        return Err("usage: groups [--socket SOCKET | --state DIRECTORY] DIRECTORY URL URL...".into());
    };
    let service = arguments.service()?;

    // The group is stored: another run finds it again under this name.
    let group = BackgroundTransferGroup::create_group(&service, "example")?;
    group.set_transfer_behavior(TransferBehavior::Serialized)?;
    let mut downloader = BackgroundDownloader::new(&service);
    downloader.set_transfer_group(&group);
    for (index, url) in urls.iter().enumerate() {
        let path = Path::new(directory).join(format!("part-{index}"));
        let download = downloader.create_download(url, path)?;
        download.start()?;
    }

    // What is in a group is found by its group only.
    let downloads = BackgroundDownloader::current_downloads_for_group(&service, &group)?;
    let ungrouped = BackgroundDownloader::current_downloads(&service)?;
    writeln!(out, "{} in the group, {} in none", downloads.len(), ungrouped.len())?;

    if let Some(last) = downloads.last() {
        last.make_current_in_transfer_group()?;
        writeln!(out, "{} is next", last.requested_uri()?)?;
    }
    for download in &downloads {
        let done = download.wait()?;
        writeln!(out, "{}: {}", done.status, done.destination.display())?;
        download.acknowledge()?;
    }
    Ok(group.remove()?) // its downloads keep their records
}
