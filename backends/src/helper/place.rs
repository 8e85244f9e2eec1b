//! Which programs are taken for helpers.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::is_scheme;

/// Most helpers, of all directories together (chosen without measurement).
pub const HELPERS_MAX: usize = 64;

/// Most names of one directory that are looked at: it is for helpers alone.
const NAMES_MAX: usize = 1024;

const PREFIX: &str = "backhaul-backend-";

/// The bits of a mode by which others than the owner may write.
const OTHERS_WRITE: u32 = 0o022;
const EXECUTE: u32 = 0o111;

/// The program of each scheme, and why others were left out.
pub(super) fn find(directories: &[PathBuf]) -> (Vec<(String, PathBuf)>, Vec<String>) {
    let (mut programs, mut refused) = (Vec::new(), Vec::new());
    for directory in directories {
        match names_in(directory) {
            Ok(names) => add(directory, &names, &mut programs, &mut refused),
            Err(problem) => refused.push(format!("helpers in '{}' are not used: {problem}", directory.display())),
        }
    }
    (programs, refused)
}

fn add(directory: &Path, names: &[String], programs: &mut Vec<(String, PathBuf)>, refused: &mut Vec<String>) {
    for (name, scheme) in names.iter().filter_map(|name| Some((name, name.strip_prefix(PREFIX)?))) {
        let path = directory.join(name);
        let problem = if programs.iter().any(|(known, _)| known == scheme) {
            continue;
        } else if !is_scheme(scheme) {
            Some("what follows 'backhaul-backend-' is no URL scheme in lower case".to_owned())
        } else if programs.len() >= HELPERS_MAX {
            Some(format!("there are {HELPERS_MAX} already"))
        } else {
            problem_of_program(&path).unwrap_or_else(|error| Some(error.to_string()))
        };
        match problem {
            Some(problem) => refused.push(format!("helper '{}' is not used: {problem}", path.display())),
            None => programs.push((scheme.to_owned(), path)),
        }
    }
}

/// The names in a directory that can be trusted, in order.
fn names_in(directory: &Path) -> Result<Vec<String>, String> {
    if !directory.is_absolute() {
        return Err("the path is not absolute".into());
    }
    let metadata = fs::metadata(directory).map_err(|error| error.to_string())?;
    if let Some(problem) = problem_of_owner(&metadata) {
        return Err(problem);
    }
    let entries = fs::read_dir(directory).map_err(|error| error.to_string())?;
    let mut names = Vec::new();
    for entry in entries.take(NAMES_MAX) {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        names.extend(name.into_string());
    }
    names.sort();
    Ok(names)
}

/// A link leads to a program in another directory, where nobody else may put something in its place either.
fn problem_of_program(path: &Path) -> io::Result<Option<String>> {
    let real = fs::canonicalize(path)?;
    let metadata = fs::metadata(&real)?;
    if !metadata.is_file() {
        return Ok(Some("it is no file".into()));
    }
    if metadata.mode() & EXECUTE == 0 {
        return Ok(Some("it is not executable".into()));
    }
    if let Some(problem) = problem_of_owner(&metadata) {
        return Ok(Some(problem));
    }
    let home = real.parent().unwrap_or(Path::new("/"));
    let problem = problem_of_owner(&fs::metadata(home)?);
    Ok(problem.map(|problem| format!("in '{}', where it lies, {problem}", home.display())))
}

/// Whoever can write to it could have anything run in the name of this process.
fn problem_of_owner(metadata: &Metadata) -> Option<String> {
    let own = rustix::process::geteuid().as_raw();
    if ![0, own].contains(&metadata.uid()) {
        return Some(format!(
            "it belongs to user {}, and not to root or user {own}",
            metadata.uid()
        ));
    }
    (metadata.mode() & OTHERS_WRITE != 0).then(|| "others than its owner may write to it".into())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn put(directory: &Path, scheme: &str, mode: u32) {
        let path = directory.join(format!("{PREFIX}{scheme}"));
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn schemes(programs: &[(String, PathBuf)]) -> Vec<&str> {
        programs.iter().map(|(scheme, _)| scheme.as_str()).collect()
    }

    #[test]
    fn only_programs_that_nobody_else_can_change_are_taken_and_others_are_named() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path();
        for (scheme, mode) in [
            ("a", 0o755),
            ("b", 0o644),
            ("c", 0o775),
            ("d", 0o757),
            ("Up", 0o755),
            ("e+f", 0o700),
        ] {
            put(directory, scheme, mode);
        }
        fs::create_dir(directory.join("backhaul-backend-folder")).unwrap();
        fs::write(directory.join("other"), "").unwrap();
        symlink("/no/such/file", directory.join("backhaul-backend-gone")).unwrap();
        symlink(
            directory.join("backhaul-backend-a"),
            directory.join("backhaul-backend-link"),
        )
        .unwrap();
        let open = directory.join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        put(&open, "far", 0o755);
        symlink(
            open.join("backhaul-backend-far"),
            directory.join("backhaul-backend-far"),
        )
        .unwrap();
        let (programs, refused) = find(&[directory.to_owned()]);
        assert_eq!(schemes(&programs), ["a", "e+f", "link"]);
        for (name, problem) in [
            ("-b'", "not executable"),
            ("-c'", "others than its owner"),
            ("-d'", "others than its owner"),
            ("-Up'", "no URL scheme"),
            ("-folder'", "no file"),
            ("-gone'", "No such file"),
            ("-far'", "where it lies, others than its owner"),
        ] {
            let is_named = |line: &&String| line.contains(name) && line.contains(problem);
            assert_eq!(refused.iter().filter(is_named).count(), 1, "{name}: {refused:?}");
        }
        assert_eq!(refused.len(), 7, "{refused:?}");
    }

    #[test]
    fn directories_are_absolute_and_safe_and_the_first_one_counts() {
        let home = tempfile::tempdir().unwrap();
        let [first, second, open] = ["first", "second", "open"].map(|name| home.path().join(name));
        for (directory, scheme) in [(&first, "a"), (&second, "a"), (&second, "b"), (&open, "c")] {
            fs::create_dir_all(directory).unwrap();
            put(directory, scheme, 0o755);
        }
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let missing = home.path().join("missing");
        let relative = PathBuf::from("examples");
        let (programs, refused) = find(&[first.clone(), second, open, missing, relative]);
        assert_eq!(schemes(&programs), ["a", "b"]);
        assert!(programs[0].1.starts_with(&first));
        let problems = ["others than its owner", "No such file", "not absolute"];
        assert_eq!(refused.len(), problems.len(), "{refused:?}");
        for (line, problem) in refused.iter().zip(problems) {
            assert!(line.contains(problem), "{line}");
        }
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let home = tempfile::tempdir().unwrap();
        for number in 0..=HELPERS_MAX {
            put(home.path(), &format!("s{number}"), 0o755);
        }
        let (programs, refused) = find(&[home.path().to_owned()]);
        assert_eq!((programs.len(), refused.len()), (HELPERS_MAX, 1));
    }
}
