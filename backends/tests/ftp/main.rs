//! The FTP backend against a server of our own.

mod kit;
mod server;
mod transfer;
