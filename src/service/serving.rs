//! A service that other processes can speak to, for programs that embed the engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::embedded::Embedded;
use super::server::{Server, ServerLimits};
use super::socket::Socket;
use crate::error::Error;

/// An engine of this process that others can speak to; it works as long as this or a clone of its service is there. Dropping
/// it ends their connections, each with a reason.
pub struct Serving {
    server: Server,
    socket: PathBuf,
    /// Dropped after the server: what is accepted is worked on.
    _embedded: Arc<Embedded>,
}

impl Serving {
    pub(super) fn start(embedded: &Arc<Embedded>, socket: &Path) -> Result<Self, Error> {
        // Whoever finds it in the lock file has another current directory.
        let path = std::path::absolute(socket).map_err(|error| Error::io("find", socket, error))?;
        let taken = Socket::bind(&path)?;
        let engine = &embedded.engine;
        let server = Server::start(Arc::clone(engine), vec![taken], ServerLimits::default())?;
        engine.note_socket(&path);
        Ok(Self {
            server,
            socket: path,
            _embedded: Arc::clone(embedded),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Connections that there are now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.server.connections()
    }
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = formatter.debug_struct("Serving");
        out.field("socket", &self.socket).finish_non_exhaustive()
    }
}
