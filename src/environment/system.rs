//! The real outside of a Linux device.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use backhaul_journal::{Disk, Storage};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::runner::Processes;
use super::{Clock, Environment, NetworkMonitor, Random};
use crate::hex;
use crate::operation::{Now, millis};

impl Environment {
    /// The clocks, the random numbers, the routes and the disks of this device.
    #[must_use]
    pub fn system() -> Self {
        Self::system_on(Arc::new(Disk))
    }

    /// As [`Environment::system`], on another disk.
    #[must_use]
    pub fn system_on(storage: Arc<dyn Storage>) -> Self {
        Self {
            clock: Arc::new(SystemClock { boot_id: boot_id() }),
            random: Arc::new(SystemChance(SystemRandom::new())),
            network: Arc::new(RouteTables),
            storage,
            runner: Arc::new(Processes),
            open_files_max: open_files_max(),
        }
    }
}

fn open_files_max() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX)
}

struct SystemClock {
    boot_id: [u8; 16],
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let boot = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(boot.tv_nsec).unwrap_or(0);
        Now {
            boot_ms: seconds * 1_000 + nanos / 1_000_000,
            wall_ms: self.wall_ms(),
            boot_id: self.boot_id,
        }
    }

    fn wall_ms(&self) -> u64 {
        millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

/// Identity of this boot; all zeros where the kernel does not tell it, which counts as no boot that was seen before.
fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let bytes = hex::decode(digits.as_bytes()).unwrap_or_default();
    bytes.try_into().unwrap_or([0; 16])
}

struct SystemChance(SystemRandom);

impl Random for SystemChance {
    fn fill(&self, buffer: &mut [u8]) {
        // getrandom(2) cannot fail for a valid buffer once the kernel has seeded its generator; before, it waits.
        self.0.fill(buffer).expect("the kernel gives random numbers");
    }
}

struct RouteTables;

impl NetworkMonitor for RouteTables {
    fn is_online(&self) -> bool {
        let tables = ["/proc/net/route", "/proc/net/ipv6_route"].map(fs::read_to_string);
        // Where the kernel shows no table at all, only an attempt can tell.
        match tables {
            [Err(_), Err(_)] => true,
            [v4, v6] => has_route(&v4.unwrap_or_default(), &v6.unwrap_or_default()),
        }
    }
}

/// Any route that is not through `lo`.
fn has_route(v4: &str, v6: &str) -> bool {
    let v4 = v4.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let v6 = v6
        .lines()
        .filter(|line| !line.starts_with("fe80") && !line.starts_with("ff00"));
    let v6 = v6.filter_map(|line| line.split_whitespace().last());
    v4.chain(v6).any(|interface| interface != "lo")
}

/// The process that holds the lock of a state directory, as its lock file says; `None` where nobody holds it. Waits
/// for nothing and leaves nothing behind.
pub(crate) fn engine_holder(lock: &Path) -> Option<String> {
    last_holder(lock).and_then(|(text, is_held)| is_held.then_some(text))
}

/// The same of the process that held it last, and whether it still does; `None` where nobody ever held it.
pub(crate) fn last_holder(lock: &Path) -> Option<(String, bool)> {
    let file = fs::File::open(lock).ok()?;
    let is_held = file.try_lock_shared().is_err();
    drop(file);
    Some((fs::read_to_string(lock).unwrap_or_default(), is_held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_route_off_the_loopback_counts_as_a_network() {
        let head = "Iface\tDestination\tGateway\n";
        let loopback = "0001 80 00 00 00 00000000 00000001 00000000 80200001 lo\n";
        assert!(!has_route(head, loopback));
        assert!(has_route(&format!("{head}eth0\t00000000\t0101A8C0\n"), loopback));
        assert!(has_route(
            head,
            "2001:db8 40 00 00 00 00000100 00000001 00000000 00000001 wlan0\n"
        ));
        assert!(!has_route(
            head,
            "fe80 40 00 00 00 00000100 00000001 00000000 00000001 eth0\n"
        ));
    }
}
