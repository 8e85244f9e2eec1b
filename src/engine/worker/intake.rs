//! What a backend is heard of: a head, and then bytes, as long as nothing was refused.

use backhaul_backends::{Failure, Head, Refused, Sink, WebErrorStatus};

use super::super::fault::Fault;
use super::{TRANSIENT, Transfer};

impl Sink for Transfer<'_> {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        self.still_takes()?;
        let result = self.accept(head);
        self.sink(result)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.still_takes()?;
        let result = self.take(bytes);
        self.sink(result)?;
        if self.is_done { Err(Refused) } else { Ok(()) }
    }
}

impl Transfer<'_> {
    /// A backend that goes on after a refusal is not heard: what it was refused for counts.
    fn still_takes(&self) -> Result<(), Refused> {
        if self.fault.is_some() || self.is_done {
            return Err(Refused);
        }
        Ok(())
    }

    fn sink<T>(&mut self, result: Result<T, Fault>) -> Result<T, Refused> {
        result.map_err(|fault| {
            self.fault = Some(fault);
            Refused
        })
    }
}

/// More came than was announced.
pub(super) fn overlong(total: u64) -> Failure {
    Failure {
        kind: TRANSIENT,
        status: WebErrorStatus::LENGTH_MISMATCH,
        code: None,
        message: format!("more than the {total} bytes came that were announced"),
    }
}
