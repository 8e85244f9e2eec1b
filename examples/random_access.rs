//! A file that is read while it is fetched: what is read comes first, and the rest afterwards.
//!
//! ```text
//! random_access [--socket SOCKET | --state DIRECTORY] URL PATH
//! ```

use std::error::Error;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

use backhaul::BackgroundDownloader;

#[expect(dead_code, reason = "each example uses its own part of this module")]
mod common;

fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().skip(1), &mut std::io::stdout())
}

pub(crate) fn run(arguments: impl IntoIterator<Item = String>, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let arguments = common::Arguments::new(arguments)?;
    let [url, path] = &arguments.words[..] else {
        return Err("usage: random_access [--socket SOCKET | --state DIRECTORY] URL PATH".into());
    };
    let service = arguments.service()?;
    let mut downloader = BackgroundDownloader::new(&service);
    downloader.set_random_access_required(true); // the server must serve ranges and tell the length
    let download = downloader.create_download(url, path)?;
    download.start()?;

    // The index of an archive or of a film often stands at its end.
    let mut reader = download.open_random_access()?;
    reader.set_read_timeout(Some(Duration::from_secs(60)));
    let mut index = [0; 16];
    reader.seek(SeekFrom::End(-16))?;
    reader.read_exact(&mut index)?;
    writeln!(out, "the last bytes: {index:02x?}")?;
    writeln!(out, "there so far: {:?}", download.downloaded_ranges()?)?;

    // Another one reads from the beginning, at its own pace.
    let mut from_start = download.open_random_access()?;
    let mut first = [0; 16];
    from_start.read_exact(&mut first)?;
    writeln!(out, "the first bytes: {first:02x?}")?;

    let mut there = 0;
    for event in download.ranges_downloaded() {
        if event.was_restarted {
            writeln!(out, "another file than before: read it again")?;
            there = 0;
        }
        there += event.added.iter().map(|range| range.end - range.start).sum::<u64>();
        writeln!(out, "{there} bytes")?;
    }
    let done = download.wait()?;
    writeln!(out, "{}: {} bytes", done.status, done.bytes_done)?;
    Ok(download.acknowledge()?)
}
