//! The whole engine on a simulated disk: operations, wishes, a server and a disk that fail, kills and power cuts, as the
//! fuzzer says, against the model of what was promised. The same harness that `tests/simulation` drives by seeds.

use backhaul_journal::simulation::Choices;

#[path = "../../../../tests/simulation/guard.rs"]
mod guard;
#[path = "../../../../tests/simulation/life.rs"]
mod life;
#[path = "../../../../tests/simulation/model.rs"]
mod model;
#[path = "../../../../journal/tests/support/trials.rs"]
#[expect(dead_code, reason = "the tests on a simulated disk share more")]
mod trials;
#[path = "../../../../tests/simulation/world.rs"]
#[expect(dead_code, reason = "scripts ask it for more than lives do")]
mod world;

/// Decisions of one life, in bytes; beyond them everything is decided as at the first of its possibilities.
const BYTES_MAX: usize = 1024;

pub(crate) fn engine_crash(bytes: &[u8]) {
    life::live(&mut Choices::from_bytes(&bytes[..bytes.len().min(BYTES_MAX)]));
}
