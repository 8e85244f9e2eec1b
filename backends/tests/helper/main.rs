//! Helper programs that do what they must, and those that lie, crash, hang and talk too much.
#![cfg(feature = "helper")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod ends;
mod faults;
mod lab;
mod served;
mod transfers;
