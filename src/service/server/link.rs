//! One connection with its socket.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::traffic::{Call, Traffic};

/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;
/// Bytes that the system is asked to take for a client that has stopped reading, so that the reason of its end gets
/// through (it gives twice as much, as far as `net.core.wmem_max` allows).
const LAST_WORDS_BYTES: usize = 1 << 20;

/// A connection.
pub(super) struct Link {
    pub(super) stream: UnixStream,
    pub(super) uid: u32,
    pub(super) traffic: Traffic,
    /// What the system was asked to tell; `None` where it is not asked any more.
    pub(super) interest: Option<EventFlags>,
    /// Since when it has read nothing of what is to be written.
    pub(super) stalled_since: Option<Instant>,
    /// Counts its calls, so that what comes late of one is not taken for the answer to another.
    pub(super) serial: u64,
    /// Operations that it names while it looks on or waits.
    pub(super) named: usize,
    /// When something is to be done for it if nothing happens before.
    pub(super) due: Option<Instant>,
}

impl Link {
    pub(super) fn new(stream: UnixStream, uid: u32, message_bytes_max: usize) -> Self {
        Self {
            stream,
            uid,
            traffic: Traffic::new(message_bytes_max),
            interest: Some(EventFlags::IN),
            stalled_since: None,
            serial: 0,
            named: 0,
            due: None,
        }
    }

    /// Writes what the socket takes and reads a part of what is there. Whether more may be there.
    pub(super) fn move_bytes(&mut self) -> bool {
        self.write();
        self.traffic.wants_bytes() && self.read()
    }

    /// Writes what the socket takes.
    pub(super) fn write(&mut self) {
        while let Some(bytes) = self.traffic.front() {
            match rustix::net::send(&self.stream, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => {
                    self.traffic.wrote(count);
                    self.stalled_since = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.stalled_since.get_or_insert_with(Instant::now);
                    return;
                }
                Err(_) => self.traffic.abandon(),
            }
        }
        self.stalled_since = None;
    }

    fn read(&mut self) -> bool {
        let mut buffer = [0; READ_BYTES];
        match rustix::net::recv(&self.stream, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.traffic.end(),
            Ok((count, _)) => {
                self.traffic.received(&buffer[..count]);
                return true;
            }
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => {}
            Err(_) => {
                self.traffic.abandon();
                self.traffic.end();
            }
        }
        false
    }

    /// The last that this client hears: its socket is full, so the system is asked for more room first.
    pub(super) fn say_at_last(&mut self, message: Vec<u8>) {
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&self.stream, LAST_WORDS_BYTES);
        self.traffic.send(message.into());
        self.write();
    }

    /// A thread is at a call of it.
    pub(super) fn is_working(&self) -> bool {
        matches!(self.traffic.call, Some(Call::Work { .. }))
    }

    /// What the system is to tell of it.
    pub(super) fn wanted(&self) -> EventFlags {
        let mut wanted = EventFlags::empty();
        if self.traffic.wants_bytes() {
            wanted |= EventFlags::IN;
        }
        if !self.traffic.is_drained() {
            wanted |= EventFlags::OUT;
        }
        wanted
    }
}
