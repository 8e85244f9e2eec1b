//! The FTP backend against a server of our own.

mod faults;
mod kit;
mod resume;
mod server;
mod transfer;
