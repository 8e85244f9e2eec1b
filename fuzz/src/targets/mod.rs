//! What each fuzz target does with its bytes. A broken promise is a panic that says which.
//!
//! The fuzzers under `fuzz/fuzz_targets` and the replay in `tests/fuzz_corpus.rs` run the same functions. Everything
//! happens in memory, so that a target gets through many inputs a second.

pub(crate) mod control;
#[path = "../../../journal/tests/counting.rs"]
pub(crate) mod counting;
mod directory;
pub(crate) mod engine_crash;
mod forge;
pub(crate) mod ftp;
pub(crate) mod http;
pub(crate) mod http_reuse;
pub(crate) mod journal;
#[path = "../../../journal/tests/power_cut/life.rs"]
mod life;
#[path = "../../../journal/tests/power_cut/model.rs"]
#[expect(dead_code, reason = "the tests of power cuts ask it for more")]
mod model;
mod naive;
pub(crate) mod ops_crash;
pub(crate) mod records;
pub(crate) mod text;

/// Hands all targets, in the order in which they are run, to a macro: the module of each, and its function, which its
/// program is named after.
macro_rules! for_each_target {
    ($take:ident) => {
        $take! {
            journal::segment_raw,
            journal::segment_fixup,
            journal::open_dir,
            journal::snapshot,
            journal::differential,
            journal::salvage,
            ops_crash::ops_crash,
            engine_crash::engine_crash,
            records::record_codec,
            records::transfer_replay,
            http::http_headers,
            http::http_wire,
            http_reuse::http_reuse,
            ftp::ftp_replies,
            text::input_list,
            text::address,
            control::control_protocol,
        }
    };
}
pub(crate) use for_each_target;
