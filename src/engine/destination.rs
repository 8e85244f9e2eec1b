//! Where a download goes, checked when it is created: one file has one name here.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use backhaul_backends::WebErrorStatus;

use super::core::Core;
use super::fault::Fault;
use crate::address::{Address, NAME_BYTES_MAX, parse_destination};
use crate::config::Config;
use crate::environment::Environment;
use crate::error::Error;
use crate::operation::{directory_of, path_in};

/// Destinations that are checked one after the other.
pub(super) struct Destinations<'a> {
    config: &'a Config,
    environment: &'a Environment,
    /// The last directory that can be written to.
    directory: Option<Directory>,
    /// The current directory, once it was asked for.
    current: Option<PathBuf>,
}

/// A directory that files go to.
struct Directory {
    /// What stood before the name of a file.
    written: Vec<u8>,
    resolved: PathBuf,
    /// Whether nothing stood in it when a second file came to it.
    is_empty: Option<bool>,
}

/// Where a file goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) path: PathBuf,
    /// Nothing stands there: its directory was empty a moment ago. Else it is not known.
    pub(super) is_free: bool,
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
    pub(super) fn find(&mut self, asked: &Path, address: &Address) -> Result<Destination, Error> {
        let bytes = asked.as_os_str().as_bytes();
        let end = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |last| last + 1);
        let (directory, name) = bytes.split_at(end);
        let is_directory = name.is_empty() && !directory.is_empty();
        let suggested = is_directory.then(|| address.file_name());
        let name = OsStr::from_bytes(suggested.as_ref().map_or(name, |name| name.as_bytes()));
        let is_plain = is_plain_name(name);
        if let Some(known) = &mut self.directory
            && is_plain
            && known.written == directory
        {
            let path = path_in(&known.resolved, name);
            if is_allowed(self.config, &path) {
                // Of one file it costs more to ask than to look at its name.
                let look = || self.environment.storage.is_empty(&known.resolved).unwrap_or(false);
                let is_free = *known.is_empty.get_or_insert_with(look);
                return Ok(Destination { path, is_free });
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
            self.directory = Some(Directory {
                written: directory.to_vec(),
                resolved: parent,
                is_empty: None,
            });
        }
        if is_allowed(self.config, &resolved) {
            return Ok(Destination {
                path: resolved,
                is_free: false,
            });
        }
        let roots = self.config.roots.iter();
        let roots: Vec<String> = roots.map(|root| root.display().to_string()).collect();
        Err(refused(
            &path,
            format!("is outside of the allowed directories: {}", roots.join(", ")),
        ))
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

fn is_allowed(config: &Config, resolved: &Path) -> bool {
    let roots = &config.roots;
    roots.is_empty() || roots.iter().any(|root| resolved.starts_with(root))
}

/// Where destinations must be in certain directories, the one that a file goes to must still lead into one of them: what was
/// true when it was created need not be when it is written.
pub(super) fn check_roots(core: &Core, directory: &Path) -> Result<(), Fault> {
    if core.config.roots.is_empty() {
        return Ok(());
    }
    let resolved = core.environment.storage.resolve(directory);
    let resolved = resolved.map_err(|error| Fault::io("look at", directory, &error))?;
    if is_allowed(&core.config, &resolved) {
        return Ok(());
    }
    let message = format!(
        "'{}' leads to '{}' now, which is outside of the allowed directories",
        directory.display(),
        resolved.display()
    );
    Err(Fault::unacceptable(WebErrorStatus::FILE_ACCESS, message))
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
    fn only_in_a_directory_that_is_empty_every_name_is_free_without_a_look_at_it() {
        let home = tempfile::tempdir().unwrap();
        let (empty, full) = (home.path().join("empty"), home.path().join("full"));
        std::fs::create_dir_all(&empty).unwrap();
        std::fs::create_dir_all(full.join("b")).unwrap();
        let (config, environment) = (Config::default(), Environment::system());
        let address = Address::parse("http://h/", &[("http", backhaul_backends::Capabilities::default())]).unwrap();
        for (directory, is_empty) in [(empty, true), (full, false)] {
            let mut destinations = Destinations::new(&config, &environment);
            let mut is_free = |name: &str| destinations.find(&directory.join(name), &address).unwrap().is_free;
            assert!(!is_free("a"), "of one file its name is looked at");
            assert_eq!((is_free("b"), is_free("c")), (is_empty, is_empty));
        }
    }

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
                found.map(|found| found.path).map_err(|error| error.to_string())
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
