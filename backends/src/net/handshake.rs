//! A few bytes to a proxy and a few back, within the patience of whoever asks.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::{Fault, Patience, ProxyFault};
use crate::Proxy;

/// A connection to a proxy that does not lead to the server yet.
pub(super) struct Handshake<'a> {
    stream: TcpStream,
    pub(super) proxy: &'a Proxy,
    patience: &'a Patience<'a>,
}

impl<'a> Handshake<'a> {
    pub(super) fn new(stream: TcpStream, proxy: &'a Proxy, patience: &'a Patience<'a>) -> Self {
        Self {
            stream,
            proxy,
            patience,
        }
    }

    /// The connection, which is one to the server from here on.
    pub(super) fn end(self) -> TcpStream {
        self.stream
    }

    pub(super) fn fault(&self, fault: ProxyFault) -> Fault {
        fault.of(self.proxy)
    }

    pub(super) fn send(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            self.wait(PollFlags::OUT)?;
            match rustix::net::send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(amount) => bytes = &bytes[amount..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    /// Exactly that many bytes.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        let mut filled = 0;
        while filled < buffer.len() {
            filled += self.receive_some(&mut buffer[filled..], RecvFlags::empty())?;
        }
        Ok(())
    }

    /// Bytes that have come, at least one; they stay where they are.
    pub(super) fn look(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        self.receive_some(buffer, RecvFlags::PEEK)
    }

    fn receive_some(&mut self, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Fault> {
        loop {
            self.wait(PollFlags::IN)?;
            match rustix::net::recv(&self.stream, &mut *buffer, flags | RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(self.fault(ProxyFault::Closed)),
                Ok((_, amount)) => return Ok(amount),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn broken(&self, error: Errno) -> Fault {
        self.fault(ProxyFault::Broken(io::Error::from(error)))
    }

    /// Until the socket is ready, or broken, which the next call on it says.
    fn wait(&self, flags: PollFlags) -> Result<(), Fault> {
        loop {
            let wait = self.patience.next_wait().map_err(|fault| match fault {
                Fault::TimedOut => self.fault(ProxyFault::Silent),
                fault => fault,
            })?;
            let wait = Timespec::try_from(wait).map_err(|_| self.broken(Errno::INVAL))?;
            let mut polled = [PollFd::from_borrowed_fd(self.stream.as_fd(), flags)];
            match rustix::event::poll(&mut polled, Some(&wait)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(self.broken(error)),
            }
        }
    }
}
