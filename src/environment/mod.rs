//! The outside as traits, so that the whole engine runs on a simulated one: clock, chance, network, disk, programs.

mod fixed;
mod runner;
mod system;

use std::sync::Arc;

use backhaul_journal::Storage;

pub use fixed::FixedEnvironment;
pub(crate) use runner::{Input, Ran, Runner};
pub(crate) use system::{engine_holder, last_holder};

use crate::operation::Now;

/// Tells the time.
pub(crate) trait Clock: Send + Sync {
    /// The present moment on the boot-time clock and on the wall clock.
    fn now(&self) -> Now;

    /// The wall clock alone, in milliseconds since 1970.
    fn wall_ms(&self) -> u64 {
        self.now().wall_ms
    }
}

/// Source of chance: ids, nonces, jitter.
pub(crate) trait Random: Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]);

    /// A number in `[0, 1)`.
    fn fraction(&self) -> f64 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Knows whether there is any way out of this device.
pub(crate) trait NetworkMonitor: Send + Sync {
    /// Some interface other than loopback has a route.
    fn is_online(&self) -> bool;
}

/// Everything that the engine needs of the outside.
#[derive(Clone)]
pub struct Environment {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) network: Arc<dyn NetworkMonitor>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) runner: Arc<dyn Runner>,
    /// Files that this process may have open at once.
    pub(crate) open_files_max: usize,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Environment")
    }
}
