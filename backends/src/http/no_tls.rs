//! In place of `tls` in a build without it: the same names, for secure connections of which there are none.

use std::convert::Infallible;
use std::io::{self, Read, Write};

use super::HttpConfig;
use super::attempt::Fault;
use crate::ConfigError;
use crate::problem::Problem;

/// Schemes that are fetched.
pub(super) const SCHEMES: &[&str] = &["http"];

/// Has no values, which only this module sees: to others it is a connection like any other.
#[derive(Debug)]
pub(super) struct Never(Infallible);

pub(super) type ClientConnection = Never;
pub(super) type Error = Never;

/// Nothing is set up.
#[derive(Debug)]
pub(super) struct TlsSetup;

impl TlsSetup {
    #[expect(clippy::unnecessary_wraps, reason = "with TLS the configuration may be wrong")]
    pub(super) fn new(_: &HttpConfig) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    /// Nobody comes here: a URL with another scheme is refused before.
    #[expect(clippy::unused_self, reason = "as with TLS")]
    pub(super) fn client(&self, _: &str) -> Result<ClientConnection, Fault> {
        let text = "a secure connection needs a backhaul built with the feature 'tls'";
        Err(Fault::Roots(text.to_owned()))
    }
}

/// Classifies what went wrong.
pub(super) fn problem(error: &Error) -> Problem {
    match error.0 {}
}

impl Never {
    pub(super) fn is_handshaking(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn wants_write(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn write_tls(&mut self, _: &mut dyn Write) -> io::Result<usize> {
        match self.0 {}
    }

    pub(super) fn read_tls(&mut self, _: &mut dyn Read) -> io::Result<usize> {
        match self.0 {}
    }

    pub(super) fn process_new_packets(&mut self) -> Result<Self, Error> {
        match self.0 {}
    }

    pub(super) fn peer_has_closed(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn plaintext_bytes_to_read(&self) -> usize {
        match self.0 {}
    }

    pub(super) fn reader(&mut self) -> io::Empty {
        match self.0 {}
    }

    pub(super) fn writer(&mut self) -> io::Empty {
        match self.0 {}
    }
}
