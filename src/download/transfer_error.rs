//! Errors as `WebErrorStatus`.

use std::io;

use backhaul_backends::WebErrorStatus;

use crate::error::Error;

/// Says which [`WebErrorStatus`] an error stands for.
///
/// Stands for `BackgroundTransferError`. It differs in that the failure of a transfer is no [`Error`] here: it is in
/// [`OperationView::error`](crate::OperationView::error), and in
/// [`DownloadOperation::current_error`](crate::DownloadOperation::current_error), with its status.
#[derive(Clone, Copy, Debug)]
pub struct BackgroundTransferError;

impl BackgroundTransferError {
    /// The status of an error of a call; [`WebErrorStatus::UNKNOWN`] for what is none of the network and of files, such as
    /// an argument that is not acceptable, or a call that the state of an operation does not allow.
    ///
    /// Stands for `BackgroundTransferError.GetStatus`.
    ///
    /// ```
    /// use backhaul::{BackgroundTransferError, Error, WebErrorStatus};
    ///
    /// let error = Error::DestinationExists("/data/big.img".into());
    /// assert_eq!(BackgroundTransferError::status(&error), WebErrorStatus::DESTINATION_EXISTS);
    /// ```
    #[must_use]
    pub fn status(error: &Error) -> WebErrorStatus {
        match error {
            Error::Unsuccessful { error, .. } => error.unwrap_or(WebErrorStatus::OPERATION_CANCELED),
            Error::DestinationExists(_) => WebErrorStatus::DESTINATION_EXISTS,
            Error::Vault { .. } => WebErrorStatus::CREDENTIAL_UNAVAILABLE,
            Error::Disconnected(_) => WebErrorStatus::DISCONNECTED,
            Error::Io(_, _, error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WebErrorStatus::DISK_FULL,
                _ => WebErrorStatus::FILE_ACCESS,
            },
            _ => WebErrorStatus::UNKNOWN,
        }
    }
}
