//! Moments on two clocks, and waits that outlive a reboot.

use std::time::Duration;

use minicbor::{Decode, Encode};

/// A moment on both clocks. Waits run on the boot-time clock; the wall clock only serves after a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    /// Milliseconds of `CLOCK_BOOTTIME`.
    pub(crate) boot_ms: u64,
    /// Milliseconds since 1970.
    pub(crate) wall_ms: u64,
    pub(crate) boot_id: [u8; 16],
}

impl Now {
    /// Whether it is the same boot. Where the kernel does not tell its boots apart, none is.
    pub(crate) fn is_boot(self, boot_id: [u8; 16]) -> bool {
        self.boot_id == boot_id && boot_id != [0; 16]
    }
}

/// A moment that is waited for, stored so that it also means something after a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Deadline {
    #[cbor(n(0), with = "minicbor::bytes")]
    boot_id: [u8; 16],
    #[n(1)]
    boot_ms: u64,
    #[n(2)]
    wall_ms: u64,
    #[n(3)]
    delay_ms: u64,
}

impl Deadline {
    /// `delay_ms` from now.
    pub(crate) fn after(now: Now, delay_ms: u64) -> Self {
        Self {
            boot_id: now.boot_id,
            boot_ms: now.boot_ms.saturating_add(delay_ms),
            wall_ms: now.wall_ms.saturating_add(delay_ms),
            delay_ms,
        }
    }

    /// The same moment on the clocks of `now`. After a reboot the earlier of the stored wall time and now + delay
    /// counts, so that a wrong or stepped wall clock can neither fire it much too late nor starve it.
    pub(crate) fn rebased(self, now: Now) -> Self {
        if now.is_boot(self.boot_id) {
            // Never later than a whole delay from now, whatever was stored.
            return Self {
                boot_ms: self.boot_ms.min(now.boot_ms.saturating_add(self.delay_ms)),
                ..self
            };
        }
        let left_ms = self.wall_ms.saturating_sub(now.wall_ms).min(self.delay_ms);
        Self {
            delay_ms: self.delay_ms,
            ..Self::after(now, left_ms)
        }
    }

    /// Due time on `CLOCK_BOOTTIME`, in milliseconds; meaningful after [`Deadline::rebased`].
    pub(crate) fn boot_ms(self) -> u64 {
        self.boot_ms
    }

    /// Due time on the wall clock, for people.
    pub(crate) fn wall_ms(self) -> u64 {
        self.wall_ms
    }
}

/// Whole milliseconds of a duration.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
