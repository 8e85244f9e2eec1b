//! Operations, failing calls, kills and power cuts, as the fuzzer says, against the model of what an application may
//! expect: the same harness that the tests of power cuts drive by seeds.

use backhaul_journal::simulation::Choices;

use super::life::live;

/// A life costs some hundred microseconds a step, so a long input is cut to what makes for one.
const BYTES_MAX: usize = 256;

pub(crate) fn ops_crash(bytes: &[u8]) {
    live(&mut Choices::from_bytes(&bytes[..bytes.len().min(BYTES_MAX)]));
}
