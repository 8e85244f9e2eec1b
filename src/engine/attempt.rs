//! One attempt, as those see it who do not make it.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use backhaul_backends::Interrupt;

use crate::operation::{Claim, Operation, Shared};

/// One attempt while it runs.
pub(crate) struct Attempt {
    pub(crate) interrupt: Interrupt,
    pub(crate) received_bytes: AtomicU64,
    /// 0 where unknown.
    pub(crate) total_bytes: AtomicU64,
    /// The last claim that is durable: that of the table may be on its way to the disk.
    durable: Mutex<Option<Shared<Claim>>>,
}

impl Attempt {
    pub(super) fn new(operation: &Operation) -> Self {
        Self {
            interrupt: Interrupt::default(),
            received_bytes: AtomicU64::new(operation.durable_bytes()),
            total_bytes: AtomicU64::new(operation.total_bytes().unwrap_or(0)),
            durable: Mutex::new(operation.claim.clone()),
        }
    }

    /// The last claim that is durable.
    pub(super) fn durable(&self) -> Option<Shared<Claim>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_durable(&self, claim: Option<Shared<Claim>>) {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = claim;
    }
}
