//! Programs that speak further protocols: `backhaul-backend-SCHEME`, one process for each attempt.
//!
//! `docs/BACKENDS.md` has the protocol. The program is believed in what it says of its resource, and in nothing else: who
//! continues held bytes is decided here, and whatever it does wrong ends its own attempt alone.

mod attempt;
mod channel;
mod place;
mod process;
mod secrets;
mod wire;

use std::path::{Path, PathBuf};

use crate::{Backend, Capabilities, Failure, Interrupt, Request, Sink, UrlForm};

pub use self::place::HELPERS_MAX;

/// Serves the schemes for which there is a helper program.
#[derive(Clone, Debug, Default)]
pub struct HelperBackend {
    /// Each scheme, and its program.
    programs: Vec<(String, PathBuf)>,
}

impl HelperBackend {
    /// Looks once for programs in these directories, at most [`HELPERS_MAX`]; where two have one scheme, the first
    /// counts. Beside it why others were left out, one line each, for a warning: a directory that is not absolute or cannot
    /// be read; a program that is no file, cannot be executed, or has another owner than root or the user of this process; and
    /// whatever somebody else than its owner may write to.
    #[must_use]
    pub fn find(directories: &[PathBuf]) -> (Self, Vec<String>) {
        let (programs, refused) = place::find(directories);
        (Self { programs }, refused)
    }

    /// The programs, each with its scheme.
    #[must_use]
    pub fn programs(&self) -> &[(String, PathBuf)] {
        &self.programs
    }

    fn program(&self, url: &str) -> Option<&Path> {
        let scheme = url.split(':').next().unwrap_or_default();
        let mut programs = self.programs.iter();
        let found = programs.find(|(name, _)| name.eq_ignore_ascii_case(scheme));
        found.map(|(_, path)| path.as_path())
    }
}

impl Backend for HelperBackend {
    fn schemes(&self) -> Vec<&str> {
        self.programs.iter().map(|(scheme, _)| scheme.as_str()).collect()
    }

    /// What any helper may be able to do: it is not started to be asked.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            resume: true,
            ranges: false,
            methods: false,
            headers: true,
            proxies: false,
            urls: UrlForm::Any,
        }
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<(), Failure> {
        attempt::run(self.program(&request.url), request, sink, interrupt)
    }
}
