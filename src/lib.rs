//! backhaul: a background transfer service for Linux devices.
//!
//! Hand it a download and it finishes it, across application exits, crashes, power cuts, lost networks and changed
//! files. What was accepted is durable; what is published is one representation of the resource, complete and verified.

mod address;
pub mod backend;
mod budget;
pub mod cli;
mod config;
mod download;
mod engine;
mod environment;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod groups;
mod hashed;
mod hex;
mod history;
mod listing;
mod mirrors;
mod operation;
mod pieces;
mod queue;
mod retry;
mod rows;
mod scheduler;
mod service;
mod settings;
mod shelf;
mod sorted;
mod sys;
mod table;
mod threads;
mod vault;
mod wire;

/// The example of README is compiled with those of the items.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use backhaul_backends::{
    Backend, Credential, Digest, DigestAlgorithm, Limits, Method, Proxies, Proxy, ProxyProtocol, WebErrorStatus,
};
pub use backhaul_journal::Storage;
pub use config::{Config, Connections, Window};
pub use download::{
    BackgroundDownloader, BackgroundTransferError, DownloadOperation, DownloadProgress, Progress, RandomAccessReader,
    RangesDownloaded, RangesDownloadedEvents, ResponseInformation, ResultStream,
};
pub use engine::{
    Body, Catalog, Changes, CheckedDownload, CompletionGroupView, CompletionState, Description, Engine, Filter,
    GroupFilter, NewDownload, OperationView, PACKAGED_HELPERS, READ_BYTES_MAX, ReadOutcome, Report, SpooledBody, Until,
    ViewError, backends, check_changes, check_downloads, check_free, damaged_journals, read_catalog,
    with_environment_proxies,
};
pub use environment::{Environment, FixedEnvironment};
pub use error::Error;
pub use group::{BackgroundTransferCompletionGroup, BackgroundTransferGroup};
pub use groups::GroupView;
pub use history::Retention;
pub use operation::{
    Collision, CompletionAction, CompletionGroupId, CostPolicy, Kind, Priority, Reason, TransferBehavior, TransferId,
    TransferStatus,
};

pub use retry::RetryPolicy;
pub use service::{Listing, Monitor, Service, ServiceBuilder, Serving, Update};
pub use settings::{
    LogLevel, ProxySetting, SETTINGS_FILE_BYTES_MAX, Settings, SettingsError, SettingsFile, SettingsKey,
};
