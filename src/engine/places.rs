//! Where the bytes of a download may come from besides its URL.

use backhaul_backends::Capabilities;

use super::create::NewDownload;
use crate::address::{Address, harmless, parse_mirror};
use crate::error::Error;
use crate::mirrors::MIRRORS_MAX;
use crate::vault::SealedMirror;

/// The mirrors as they may be shown, and what is hidden of them.
pub(super) fn check_mirrors(
    download: &NewDownload,
    served: &[(&str, Capabilities)],
    address: &Address,
) -> Result<(Vec<String>, Vec<SealedMirror>), Error> {
    if download.mirrors.len() > MIRRORS_MAX {
        return Err(Error::limit("mirrors of one operation", MIRRORS_MAX as u64));
    }
    if let Some(mirror) = download.mirrors.first().filter(|_| !download.method.is_get()) {
        let problem = "mirrors are for GET: the answer to another method is no copy of anything";
        return Err(Error::invalid("mirror", harmless(mirror), problem));
    }
    if download.mirrors.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let (mut shown, mut sealed) = (Vec::new(), Vec::new());
    // What is shown alike may differ in what is hidden.
    let mut places = vec![(address.shown.clone(), address.secret_url.clone())];
    for (index, text) in (0_u32..).zip(&download.mirrors) {
        let mirror = parse_mirror(text, served)?;
        let place = (mirror.shown.clone(), mirror.secret_url.clone());
        if places.contains(&place) {
            let problem = "is given twice; one place is asked once in a round";
            return Err(Error::invalid("mirror", mirror.shown, problem));
        }
        places.push(place);
        sealed.extend(mirror.secret_url.map(|url| SealedMirror { index, url }));
        shown.push(mirror.shown);
    }
    Ok((shown, sealed))
}
