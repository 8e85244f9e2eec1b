//! The fuzz targets of backhaul. `tests/fuzz` builds and runs them; `tests/fuzz_corpus.rs` replays their seeds.

mod targets;

use targets::counting::Counting;

/// Counts what reading holds, in every run.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Each target is a function of its own, and not an entry of a table: so the linker leaves out of each program what its
/// target does not reach, and the fuzzer need not look through the counters of all of it after every run.
macro_rules! export {
    ($($module:ident::$name:ident,)*) => {
        $(
            /// Runs the target of this name; panics where a promise is broken.
            pub fn $name(bytes: &[u8]) {
                targets::$module::$name(bytes);
            }
        )*
    };
}

targets::for_each_target!(export);
