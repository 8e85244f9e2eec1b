//! Where a download goes, checked when it is created: one file has one name here.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::address::{Address, NAME_BYTES_MAX, parse_destination};
use crate::config::Config;
use crate::environment::Environment;
use crate::error::Error;
use crate::operation::{directory_of, path_in};

/// Destinations that are checked one after the other.
pub(super) struct Destinations<'a> {
    config: &'a Config,
    environment: &'a Environment,
    /// The last directory that can be written to: what stood before the name of a file, and that resolved.
    directory: Option<(Vec<u8>, PathBuf)>,
    /// The current directory, once it was asked for.
    current: Option<PathBuf>,
}

impl<'a> Destinations<'a> {
    pub(super) fn new(config: &'a Config, environment: &'a Environment) -> Self {
        Self {
            config,
            environment,
            directory: None,
            current: None,
        }
    }

    /// The absolute destination, with the symlinks of its directory resolved. Where it is a directory, the URL gives the name
    /// of the file.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field `destination`.
    pub(super) fn find(&mut self, asked: &Path, address: &Address) -> Result<PathBuf, Error> {
        let bytes = asked.as_os_str().as_bytes();
        let end = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |last| last + 1);
        let (directory, name) = bytes.split_at(end);
        let is_directory = name.is_empty() && !directory.is_empty();
        let suggested = is_directory.then(|| address.file_name());
        let name = OsStr::from_bytes(suggested.as_ref().map_or(name, |name| name.as_bytes()));
        let is_plain = is_plain_name(name);
        if let Some((known, resolved)) = &self.directory
            && is_plain
            && known == directory
        {
            let resolved = path_in(resolved, name);
            if self.is_allowed(&resolved) {
                return Ok(resolved);
            }
        }
        let current = match self.current.take() {
            Some(current) => current,
            None => std::env::current_dir().map_err(|error| Error::io("find", "current directory", error))?,
        };
        let path = parse_destination(&path_in(Path::new(OsStr::from_bytes(directory)), name), &current);
        self.current = Some(current);
        let path = path?;
        let parent = self.resolved(&path, directory_of(&path))?;
        let resolved = path_in(&parent, path.file_name().unwrap_or_default());
        if is_plain {
            self.directory = Some((directory.to_vec(), parent));
        }
        if self.is_allowed(&resolved) {
            return Ok(resolved);
        }
        let roots = self.config.roots.iter();
        let roots: Vec<String> = roots.map(|root| root.display().to_string()).collect();
        Err(refused(
            &path,
            format!("is outside of the allowed directories: {}", roots.join(", ")),
        ))
    }

    fn is_allowed(&self, resolved: &Path) -> bool {
        let roots = &self.config.roots;
        roots.is_empty() || roots.iter().any(|root| resolved.starts_with(root))
    }

    fn resolved(&self, path: &Path, directory: &Path) -> Result<PathBuf, Error> {
        let storage = &self.environment.storage;
        let shown = directory.display();
        let resolved = storage.resolve(directory).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refused(path, format!("its directory '{shown}' does not exist; make it first")),
            io::ErrorKind::NotADirectory => refused(path, format!("'{shown}' is no directory")),
            _ => refused(path, format!("its directory cannot be looked at: {error}")),
        })?;
        let writable = storage.check_writable(&resolved);
        writable.map_err(|error| refused(path, format!("its directory cannot be written to: {error}")))?;
        Ok(resolved)
    }
}

/// Whether that is the name of a file wherever it stands, and may be one.
fn is_plain_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name != b"." && name != b".." && !name.contains(&0)
}

pub(super) fn refused(path: &Path, problem: impl Into<String>) -> Error {
    Error::invalid("destination", path.display().to_string(), problem)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    /// What stands below a directory with `sub` and the symlink `link` to it.
    const ASKED: &[&str] = &[
        "name",
        "./name",
        "sub/name",
        "sub//name",
        "sub/./name",
        "./sub/name",
        "sub/.name",
        "link/name",
        "link/other",
        "sub/",
        "link/",
        "./",
        ".//",
        "sub/.",
        "sub/..",
        "sub/../name",
        "sub/../sub/name",
        "absent/name",
        "absent/",
        "sub/n\0me",
        "s\0b/name",
        ".",
        "..",
    ];

    #[test]
    fn a_destination_is_the_same_whatever_was_checked_before_it() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("sub")).unwrap();
        std::os::unix::fs::symlink("sub", home.path().join("link")).unwrap();
        let environment = Environment::system();
        let served = [("http", backhaul_backends::Capabilities::default())];
        let addresses = ["http://h/a%2Fb", "http://h/..%00", "http://h/"];
        let addresses = addresses.map(|url| Address::parse(url, &served).unwrap());
        let mut asked: Vec<PathBuf> = ASKED.iter().map(PathBuf::from).collect();
        asked.extend(ASKED.iter().map(|asked| home.path().join(asked)));
        let names = ["n".repeat(NAME_BYTES_MAX), "n".repeat(NAME_BYTES_MAX + 1)];
        asked.extend(names.map(|name| home.path().join("sub").join(name)));
        asked.extend(["", "/", "/.", "//"].map(PathBuf::from));
        for roots in [vec![], vec![home.path().canonicalize().unwrap().join("sub")]] {
            let config = Config {
                roots,
                ..Config::default()
            };
            let found = |destinations: &mut Destinations<'_>, asked: &Path, address: &Address| {
                let found = destinations.find(asked, address);
                found.map_err(|error| error.to_string())
            };
            let alone =
                |asked: &Path, address: &Address| found(&mut Destinations::new(&config, &environment), asked, address);
            for address in &addresses {
                for before in &asked {
                    let mut destinations = Destinations::new(&config, &environment);
                    for asked in &asked {
                        let _ = destinations.find(before, address);
                        let after = found(&mut destinations, asked, address);
                        assert_eq!(
                            after,
                            alone(asked, address),
                            "{} after {}",
                            asked.display(),
                            before.display()
                        );
                    }
                }
            }
        }
    }
}
