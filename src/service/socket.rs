//! The local socket: where it stands, how it is taken, and who may come in.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::config::first_of_list;
use crate::error::Error;

/// Longest path of a socket, in bytes, without the zero byte behind it (unix(7), `sun_path`).
const PATH_BYTES_MAX: usize = 107;
/// Connections that wait to be accepted (the kernel may allow fewer: `net.core.somaxconn`).
const BACKLOG: i32 = 1_024;
/// Name of the socket of the default state directory.
const NAME: &str = "io.backhaul.Transfer";

/// A socket that is listened on. Its name goes with it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    pub(crate) path: PathBuf,
    /// Device and inode of the name, where this process made it.
    made: Option<(u64, u64)>,
}

impl Socket {
    /// Takes a path: 0600, and only where nobody else listens there.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `socket`: the path is too long, or taken; [`Error::Io`].
    pub(crate) fn bind(path: &Path) -> Result<Self, Error> {
        check_length(path)?;
        make_directory(path)?;
        free(path)?;
        let failed = |error: io::Error| Error::io("listen on", path, error);
        let listener = listen(path).map_err(failed)?;
        let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_path_buf(),
            made: Some((metadata.dev(), metadata.ino())),
        })
    }

    /// One that somebody else has made, and keeps.
    pub(crate) fn inherited(listener: UnixListener) -> Self {
        let address = listener.local_addr().ok();
        let path = address.and_then(|address| address.as_pathname().map(Path::to_path_buf));
        Self {
            listener,
            path: path.unwrap_or_default(),
            made: None,
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody may have put another one there.
        let is_ours = |metadata: std::fs::Metadata| self.made == Some((metadata.dev(), metadata.ino()));
        if std::fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Refuses a path that no socket can be made at, without a change; whether somebody listens there is seen when it is made.
///
/// # Errors
/// [`Error::Invalid`] naming `socket`.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    check_length(path)?;
    match std::fs::symlink_metadata(path) {
        // A link may lead to that of an engine.
        Ok(metadata) if !metadata.file_type().is_socket() && !is_there(path) => Err(no_socket(path)),
        _ => Ok(()),
    }
}

/// Whether there is a socket, which somebody may listen on or not.
pub(crate) fn is_there(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn no_socket(path: &Path) -> Error {
    let problem = "is there already and is no socket; give another one with --socket";
    Error::invalid("socket", path.display().to_string(), problem)
}

fn check_length(path: &Path) -> Result<(), Error> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() <= PATH_BYTES_MAX && !bytes.is_empty() && !bytes.contains(&0) {
        return Ok(());
    }
    let problem = format!(
        "has {} bytes; the path of a socket has 1 to {PATH_BYTES_MAX}, and no zero byte: give another one with --socket",
        bytes.len()
    );
    Err(Error::invalid("socket", path.display().to_string(), problem))
}

fn make_directory(path: &Path) -> Result<(), Error> {
    let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| Error::io("make", directory, error))
}

/// Removes a socket that nobody listens on any more, as a crash leaves it.
fn free(path: &Path) -> Result<(), Error> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(|error| Error::io("look at", path, error))?,
    };
    if !metadata.file_type().is_socket() {
        return Err(no_socket(path));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| Error::io("remove", path, error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => {
            let problem = "is taken: another process listens on it; stop that, or give another one with --socket";
            Err(Error::invalid("socket", path.display().to_string(), problem))
        }
    }
}

/// Nobody can connect before the mode is set: until then nobody listens.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let prepared = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| rustix::net::listen(&socket, BACKLOG).map_err(io::Error::from));
    if let Err(error) = prepared {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(UnixListener::from(socket))
}

/// The user at the other end of a connection, as the kernel knows it; `None` where that is neither root nor the user of
/// this process.
pub(crate) fn peer(stream: &UnixStream) -> Option<u32> {
    let credentials = rustix::net::sockopt::socket_peercred(stream).ok()?;
    let uid = credentials.uid.as_raw();
    let own = rustix::process::geteuid().as_raw();
    (uid == own || uid == 0).then_some(uid)
}

/// The socket of an engine on this state directory, where no other one is asked for: in `$RUNTIME_DIRECTORY`,
/// `$XDG_RUNTIME_DIR/backhaul` or, for root, `/run/backhaul`, and in the state directory where there is none of these.
/// Engines on other state directories than the default one carry its device and inode in their names, so that they can
/// stand side by side.
///
/// Source: systemd.exec(5), `RuntimeDirectory=`; XDG Base Directory Specification 0.8.
pub(crate) fn default_path(
    state_directory: &Path,
    is_default: bool,
    is_root: bool,
    variable: impl Fn(&str) -> Option<PathBuf>,
) -> PathBuf {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let directory = absolute("RUNTIME_DIRECTORY")
        .map(first_of_list)
        .or_else(|| absolute("XDG_RUNTIME_DIR").map(|runtime| runtime.join("backhaul")))
        .or_else(|| is_root.then(|| PathBuf::from("/run/backhaul")));
    let Some(directory) = directory else {
        return state_directory.join("socket");
    };
    let identity = std::fs::metadata(state_directory).ok().filter(|_| !is_default);
    match identity {
        Some(metadata) => directory.join(format!("{NAME}-{:x}-{:x}", metadata.dev(), metadata.ino())),
        None => directory.join(NAME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_to_a_socket_may_be_asked_for_and_what_leads_elsewhere_not() {
        let folder = tempfile::tempdir().expect("there is room");
        let place = |name: &str| folder.path().join(name);
        let _listener = UnixListener::bind(place("socket")).expect("the name is free");
        std::fs::write(place("file"), "").expect("there is room");
        for (name, is_fine) in [("socket", true), ("file", false), ("nothing", true)] {
            let link = place(&format!("to {name}"));
            std::os::unix::fs::symlink(place(name), &link).expect("the name is free");
            assert_eq!(check(&place(name)).is_ok(), is_fine, "{name}");
            assert_eq!(check(&link).is_ok(), name == "socket", "a link to {name}");
        }
    }

    #[test]
    fn a_socket_is_in_the_first_of_the_runtime_directories_that_systemd_gives() {
        let given = |name: &str| (name == "RUNTIME_DIRECTORY").then(|| PathBuf::from("/run/a:/run/b"));
        let path = default_path(Path::new("/nowhere"), true, false, given);
        assert_eq!(path, Path::new("/run/a").join(NAME));
    }
}
