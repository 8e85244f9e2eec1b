//! Downloads as `Windows.Networking.BackgroundTransfer` has them, over a [`Service`](crate::Service): a
//! [`BackgroundDownloader`] is the template that creates [`DownloadOperation`]s, each of which is a handle of one stored
//! transfer. Dropping a handle changes nothing; enumeration gives new ones.

mod downloader;
mod operation;
mod progress;
mod reader;
mod response;
mod transfer_error;

pub use self::downloader::BackgroundDownloader;
pub use self::operation::DownloadOperation;
pub use self::progress::{DownloadProgress, Progress, RangesDownloaded, RangesDownloadedEvents};
pub use self::reader::{RandomAccessReader, ResultStream};
pub use self::response::ResponseInformation;
pub use self::transfer_error::BackgroundTransferError;
