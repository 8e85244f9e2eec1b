//! An outside that only moves when it is told to, for tests that step the engine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backhaul_journal::Storage;

use backhaul_backends::Interrupt;

use super::{Clock, Environment, Input, NetworkMonitor, Ran, Random, Runner};
use crate::operation::{Now, millis};

/// Where the boot-time clock begins.
const FIRST_MS: u64 = 1_000;

/// A clock, a source of chance and a network that a test moves by hand. The same seed gives the same run.
#[derive(Debug)]
pub struct FixedEnvironment {
    boot_ms: AtomicU64,
    /// The wall clock when the boot-time clock stood at zero.
    booted_at_ms: AtomicU64,
    boot_count: AtomicU64,
    online: AtomicBool,
    chance: Mutex<u64>,
    commands: Mutex<Commands>,
}

/// Commands that would have been run, with what they would have read; and what is wrong with those to come.
#[derive(Debug, Default)]
struct Commands {
    run: Vec<(Vec<String>, Vec<u8>)>,
    problem: Option<String>,
}

impl FixedEnvironment {
    /// One that starts at a fixed moment, online.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            boot_ms: AtomicU64::new(FIRST_MS),
            booted_at_ms: AtomicU64::new(1_700_000_000_000),
            boot_count: AtomicU64::new(1),
            online: AtomicBool::new(true),
            chance: Mutex::new(seed),
            commands: Mutex::default(),
        })
    }

    /// The environment that this one moves, on the given disk.
    #[must_use]
    pub fn on(self: &Arc<Self>, storage: Arc<dyn Storage>) -> Environment {
        Environment {
            clock: Arc::clone(self) as _,
            random: Arc::clone(self) as _,
            network: Arc::clone(self) as _,
            storage,
            runner: Arc::clone(self) as _,
            open_files_max: 1_024,
        }
    }

    /// Moves both clocks.
    pub fn advance(&self, by: Duration) {
        self.boot_ms.fetch_add(millis(by), Ordering::SeqCst);
    }

    /// Another boot: a new boot id, and a boot-time clock that begins anew. The wall clock goes on.
    pub fn reboot(&self) {
        let before_ms = self.boot_ms.swap(FIRST_MS, Ordering::SeqCst);
        self.booted_at_ms.fetch_add(before_ms - FIRST_MS, Ordering::SeqCst);
        self.boot_count.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether there is a network from now on.
    pub fn set_online(&self, online: bool) {
        self.online.store(online, Ordering::SeqCst);
    }

    /// Commands of completion groups that were to be run so far, with what they found on their standard input. None of
    /// them ran.
    #[must_use]
    pub fn commands(&self) -> Vec<(Vec<String>, Vec<u8>)> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).run.clone()
    }

    /// What goes wrong with every command from now on; nothing where `None`.
    pub fn fail_commands(&self, problem: Option<&str>) {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.problem = problem.map(str::to_owned);
    }
}

impl Clock for FixedEnvironment {
    fn now(&self) -> Now {
        let boot_ms = self.boot_ms.load(Ordering::SeqCst);
        let mut boot_id = [0; 16];
        boot_id[..8].copy_from_slice(&self.boot_count.load(Ordering::SeqCst).to_le_bytes());
        Now {
            boot_ms,
            wall_ms: self.booted_at_ms.load(Ordering::SeqCst) + boot_ms,
            boot_id,
        }
    }
}

impl Random for FixedEnvironment {
    fn fill(&self, buffer: &mut [u8]) {
        let mut state = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in buffer {
            // SplitMix64 (Steele, Lea and Flood, 2014): passes as chance, repeats by seed.
            *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            *byte = mixed.to_be_bytes()[0];
        }
    }
}

impl NetworkMonitor for FixedEnvironment {
    fn is_online(&self) -> bool {
        self.online.load(Ordering::SeqCst)
    }
}

impl Runner for FixedEnvironment {
    fn run(&self, command: &[String], input: &Input<'_>, _limit: Duration, _stop: &Interrupt) -> Ran {
        let mut read = Vec::new();
        if let Err(error) = (input.write)(&mut read) {
            return Ran::Failed(error.to_string());
        }
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.run.push((command.to_vec(), read));
        commands.problem.clone().map_or(Ran::Well, Ran::Failed)
    }
}
