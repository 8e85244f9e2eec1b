//! A handle of one stored download.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backhaul_backends::{Credential, Method, WebErrorStatus};

use super::progress::{DownloadProgress, Progress, RangesDownloadedEvents};
use super::reader::{RandomAccessReader, ResultStream};
use super::response::ResponseInformation;
use crate::address::parse_header_parts;
use crate::engine::{Changes, NewDownload, OperationView, ViewError};
use crate::error::Error;
use crate::group::BackgroundTransferGroup;
use crate::operation::{CompletionGroupId, CostPolicy, Priority, TransferId, TransferStatus};
use crate::service::{Service, Stand};

/// How long [`DownloadOperation::pause`] waits for an attempt to end; it takes less than a second unless the disk hangs.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// One stored download.
///
/// A handle, cheap to clone and usable from any thread: all of one id are the same download, in whatever process. Dropping
/// one changes nothing. What can change is asked for anew by each call; each such call can fail with [`Error::UnknownId`]
/// where the record was removed, and with [`Error::Disconnected`] where the engine is in another process and has stopped.
///
/// Stands for `DownloadOperation`. It differs in that nothing has to be attached (`AttachAsync`), and in
/// [`DownloadOperation::cancel`], [`DownloadOperation::remove`] and [`DownloadOperation::acknowledge`], which `WinRT` lacks.
#[derive(Clone)]
pub struct DownloadOperation {
    service: Service,
    id: TransferId,
    fixed: Arc<Fixed>,
}

/// What never changes of a download.
struct Fixed {
    group: Option<String>,
    completion_group: Option<CompletionGroupId>,
    method: Method,
    recoverable: Vec<WebErrorStatus>,
    random_access: bool,
}

impl fmt::Debug for DownloadOperation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DownloadOperation")
            .field("id", &self.id)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl PartialEq for DownloadOperation {
    /// The same download, whatever the way to it.
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for DownloadOperation {}

impl DownloadOperation {
    pub(super) fn created(service: &Service, id: TransferId, new: &NewDownload) -> Self {
        let fixed = Fixed {
            group: new.group.clone(),
            completion_group: new.completion_group,
            method: new.method.clone(),
            recoverable: new.recoverable.clone(),
            random_access: new.random_access,
        };
        Self::with(service, id, fixed)
    }

    pub(crate) fn of(service: &Service, view: &OperationView) -> Self {
        let fixed = Fixed {
            group: view.group.clone(),
            completion_group: view.completion_group,
            method: view.method.clone(),
            recoverable: view.recoverable.clone(),
            random_access: view.random_access,
        };
        Self::with(service, view.id, fixed)
    }

    fn with(service: &Service, id: TransferId, fixed: Fixed) -> Self {
        Self {
            service: service.clone(),
            id,
            fixed: Arc::new(fixed),
        }
    }

    /// A handle of the download with this id, of whatever app.
    ///
    /// Stands for `AttachAsync`, in that it gives the way back to a download of an earlier run of the program.
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    pub fn find(service: &Service, id: TransferId) -> Result<Self, Error> {
        Ok(Self::of(service, &service.view(id)?))
    }

    // ---- what it is ----

    /// Its identity, for as long as its record is there. Stands for `Guid`.
    #[must_use]
    pub fn id(&self) -> TransferId {
        self.id
    }

    /// All that is known of it, in one consistent look.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`].
    pub fn view(&self) -> Result<OperationView, Error> {
        self.service.view(self.id)
    }

    /// What it fetches; secrets in it read `***`. Stands for `RequestedUri`.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`].
    pub fn requested_uri(&self) -> Result<String, Error> {
        Ok(self.view()?.url)
    }

    /// The same resource from elsewhere; all bytes stay, and are gone on with where the new answer is proved to be the same
    /// representation. Within one origin, credential and secret headers stay, unless the URL brings its own; to another
    /// origin neither follows. After it, a download that is paused still needs [`DownloadOperation::resume`].
    ///
    /// Stands for the setter of `RequestedUri`. It differs in that bytes stay whether or not random access is required, and
    /// that it is allowed in every state but running, being published, and ended.
    ///
    /// # Errors
    /// [`Error::NotNow`] in these; [`Error::Invalid`] naming `url`; [`Error::Conflict`] where another live download has the
    /// URL.
    pub fn set_requested_uri(&self, url: &str) -> Result<(), Error> {
        self.set(&Changes {
            url: Some(url.to_owned()),
            ..Changes::default()
        })
    }

    /// How it is asked for. Stands for `Method`.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.fixed.method
    }

    /// Where the file goes, or went: by [`Collision::Unique`](crate::Collision::Unique) under another name than was asked
    /// for. Stands for `ResultFile`.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`].
    pub fn result_path(&self) -> Result<PathBuf, Error> {
        Ok(self.view()?.destination)
    }

    /// The name of its transfer group. Stands for `Group`.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        self.fixed.group.as_deref()
    }

    /// Its transfer group. Stands for `TransferGroup`.
    #[must_use]
    pub fn transfer_group(&self) -> Option<BackgroundTransferGroup> {
        let name = self.fixed.group.clone();
        name.map(|name| BackgroundTransferGroup::of(&self.service, name))
    }

    /// Moves it to the front of its transfer group, together with all that is queued behind it; what was before it comes
    /// after. It interrupts nobody, and does nothing where there is no group.
    ///
    /// Stands for `MakeCurrentInTransferGroup`.
    ///
    /// # Errors
    /// [`Error::NotNow`] where it has ended.
    pub fn make_current_in_transfer_group(&self) -> Result<(), Error> {
        self.service.make_current(self.id)
    }

    /// The completion group that it joined. Stands for `CompletionGroup` of the downloader.
    #[must_use]
    pub fn completion_group(&self) -> Option<CompletionGroupId> {
        self.fixed.completion_group
    }

    /// The proxy that it asks for, without user name and password; `direct` for none; `None` for those of the engine.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`].
    pub fn proxy(&self) -> Result<Option<String>, Error> {
        Ok(self.view()?.proxy)
    }

    /// Changes the proxy, and user name and password for it where they are given: `direct` for no proxy, `default` for those
    /// of the engine, as with [`BackgroundDownloader::set_proxy`](super::BackgroundDownloader::set_proxy). A running download
    /// has to be paused first.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `proxy` or `proxy-credential`; [`Error::NotNow`] while it runs, is being published, or has
    /// ended.
    pub fn set_proxy(&self, proxy: &str, credential: Option<(&str, &str)>) -> Result<(), Error> {
        self.set(&Changes {
            proxy: Some(proxy.to_owned()),
            proxy_credential: credential.map(|(user, password)| Credential {
                user: user.to_owned(),
                password: password.to_owned(),
            }),
            ..Changes::default()
        })
    }

    /// What it may cost. Stands for the getter of `CostPolicy`.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`].
    pub fn cost_policy(&self) -> Result<CostPolicy, Error> {
        Ok(self.view()?.cost_policy)
    }

    /// Changes what it may cost; see [`CostPolicy`] for what that means in this version.
    ///
    /// Stands for the setter of `CostPolicy`. It differs in that a running download has to be paused first.
    ///
    /// # Errors
    /// [`Error::NotNow`] where it runs, is being published, or has ended.
    pub fn set_cost_policy(&self, policy: CostPolicy) -> Result<(), Error> {
        self.set(&Changes {
            cost_policy: Some(policy),
            ..Changes::default()
        })
    }

    /// Its rank among those that wait. Stands for the getter of `Priority`.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`].
    pub fn priority(&self) -> Result<Priority, Error> {
        Ok(self.view()?.priority)
    }

    /// Changes its rank among those that wait.
    ///
    /// Stands for the setter of `Priority`. It differs in that a running download, which waits for nothing, has to be paused
    /// first.
    ///
    /// # Errors
    /// [`Error::NotNow`] where it runs, is being published, or has ended.
    pub fn set_priority(&self, priority: Priority) -> Result<(), Error> {
        self.set(&Changes {
            priority: Some(priority),
            ..Changes::default()
        })
    }

    /// Errors that its owner can mend. Stands for `RecoverableWebErrorStatuses`; it differs in that it is set on the template.
    #[must_use]
    pub fn recoverable_statuses(&self) -> &[WebErrorStatus] {
        &self.fixed.recoverable
    }

    // ---- headers ----

    /// Puts a value behind what the header of this name has, with `, ` between, from the next request on; one that is not
    /// there is added. A header that is kept sealed stays so.
    ///
    /// Stands for `SetRequestHeader`, which concatenates, too; [`DownloadOperation::replace_request_header`] does not. It
    /// differs in that a running download has to be paused first.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `header`; [`Error::NotNow`] where it runs, is being published, or has ended.
    pub fn set_request_header(&self, name: &str, value: &str) -> Result<(), Error> {
        self.set(&Changes {
            append_headers: vec![header(name, value)?],
            ..Changes::default()
        })
    }

    /// The same by a name that says what it does.
    ///
    /// # Errors
    /// As [`DownloadOperation::set_request_header`].
    pub fn append_request_header(&self, name: &str, value: &str) -> Result<(), Error> {
        self.set_request_header(name, value)
    }

    /// The same for a value that is kept sealed and never shown; with it all values of the header are.
    ///
    /// # Errors
    /// As [`DownloadOperation::set_request_header`].
    pub fn set_secret_request_header(&self, name: &str, value: &str) -> Result<(), Error> {
        self.set(&Changes {
            append_secret_headers: vec![header(name, value)?],
            ..Changes::default()
        })
    }

    /// Puts a value in the place of all that the header of this name has, from the next request on. It is shown, also where
    /// the one before it was sealed; [`DownloadOperation::replace_secret_request_header`] seals. `WinRT` has no such call.
    ///
    /// # Errors
    /// As [`DownloadOperation::set_request_header`].
    pub fn replace_request_header(&self, name: &str, value: &str) -> Result<(), Error> {
        self.set(&Changes {
            headers: vec![header(name, value)?],
            ..Changes::default()
        })
    }

    /// The same for a value that is kept sealed and never shown.
    ///
    /// # Errors
    /// As [`DownloadOperation::set_request_header`].
    pub fn replace_secret_request_header(&self, name: &str, value: &str) -> Result<(), Error> {
        self.set(&Changes {
            secret_headers: vec![header(name, value)?],
            ..Changes::default()
        })
    }

    /// Removes a header, sealed or not, from the next request on; one that is not there is no error.
    ///
    /// Stands for `RemoveRequestHeader`. It differs in that a running download has to be paused first.
    ///
    /// # Errors
    /// As [`DownloadOperation::set_request_header`].
    pub fn remove_request_header(&self, name: &str) -> Result<(), Error> {
        self.set(&Changes {
            remove_headers: vec![name.to_owned()],
            ..Changes::default()
        })
    }

    /// Changes several things at once: all of them or none. Durable on return.
    ///
    /// # Errors
    /// As [`Service::set`].
    pub fn set(&self, changes: &Changes) -> Result<(), Error> {
        self.service.set(self.id, changes)
    }

    // ---- its life ----

    /// Starts it. Returns at once; durable on return.
    ///
    /// Stands for `StartAsync`, whose result [`DownloadOperation::wait`] gives.
    ///
    /// # Errors
    /// [`Error::NotNow`] where it was started before.
    pub fn start(&self) -> Result<(), Error> {
        self.service.start(&[self.id])
    }

    /// Pauses it, and waits until its attempt has ended: then it may be changed. All bytes stay. It may end meanwhile instead,
    /// as one that is being published does.
    ///
    /// Stands for `Pause`. It differs in that there is nothing to poll for afterwards, and that a POST is paused as well.
    ///
    /// # Errors
    /// [`Error::NotNow`] where it was not started, is paused already, or has ended, and where its attempt has not ended within
    /// 30 s, which it still does by itself.
    pub fn pause(&self) -> Result<(), Error> {
        self.request_pause()?;
        let waited = self.service.wait_for(&[self.id], Stand::Still, Some(PAUSE_MAX))?;
        if !waited.timed_out {
            return Ok(());
        }
        Err(Error::NotNow {
            id: self.id,
            problem: format!(
                "is asked to stand still, and its attempt has not ended within {} s; it ends by itself, wait for that",
                PAUSE_MAX.as_secs()
            ),
        })
    }

    /// Asks it to stand still, and returns at once; durable on return. Its attempt ends in under a second.
    ///
    /// Stands for `Pause`, which does not wait either.
    ///
    /// # Errors
    /// [`Error::NotNow`] where it was not started, is paused already, or has ended.
    pub fn request_pause(&self) -> Result<(), Error> {
        self.service.pause(&[self.id])
    }

    /// Lets it go on after a pause, or after an error that its owner has mended; one that waits tries at once.
    ///
    /// Stands for `Resume`.
    ///
    /// # Errors
    /// [`Error::NotNow`] where it was not started or has ended.
    pub fn resume(&self) -> Result<(), Error> {
        self.service.resume(&[self.id])
    }

    /// Cancels it, and returns at once; durable on return. Its part file is gone once [`DownloadOperation::wait`] gives the
    /// end. `WinRT` has no such call: there the asynchronous result is cancelled.
    ///
    /// # Errors
    /// [`Error::NotNow`] where it has ended or is being published.
    pub fn cancel(&self) -> Result<(), Error> {
        self.service.cancel(&[self.id])
    }

    /// Removes its record; its file stays. `WinRT` has no such call.
    ///
    /// # Errors
    /// [`Error::NotNow`] where it has not ended.
    pub fn remove(&self) -> Result<(), Error> {
        self.service.remove(&[self.id])
    }

    /// Takes note of its end, which [`BackgroundDownloader::current_downloads`](super::BackgroundDownloader::current_downloads)
    /// gives until then, also after a crash of whoever was told of it. Its record stays for as long as the history does. In
    /// `WinRT` attaching to what has ended does so.
    ///
    /// # Errors
    /// [`Error::NotNow`] where it has not ended.
    pub fn acknowledge(&self) -> Result<(), Error> {
        self.service.acknowledge(&[self.id])
    }

    /// Waits until it has ended, however, and gives it as it is then: its status is `Completed`, `Canceled` or `Error`, and
    /// the failure is in [`OperationView::error`]. It does not [acknowledge](DownloadOperation::acknowledge) the end.
    ///
    /// Stands for the asynchronous result of `StartAsync` and `AttachAsync`.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`]; [`Error::Disconnected`] where the engine stops meanwhile.
    pub fn wait(&self) -> Result<OperationView, Error> {
        let waited = self.service.wait_for(&[self.id], Stand::Ended, None)?;
        waited.operations.into_iter().next().ok_or(Error::UnknownId(self.id))
    }

    /// The same for at most this time; `None` where it has not ended by then.
    ///
    /// # Errors
    /// As [`DownloadOperation::wait`].
    pub fn wait_timeout(&self, time: Duration) -> Result<Option<OperationView>, Error> {
        let waited = self.service.wait_for(&[self.id], Stand::Ended, Some(time))?;
        Ok(waited.operations.into_iter().next().filter(|_| !waited.timed_out))
    }

    // ---- how far it is ----

    /// Looks at it, one after each change, until it ends: see [`Progress`].
    ///
    /// Stands for the progress of `StartAsync` and `AttachAsync`. It differs in that it is asked for, and calls nobody.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress::new(&self.service, self.id)
    }

    /// One look at how far it is. Stands for `Progress`; it differs in that it is a copy, which never changes.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`].
    pub fn progress_snapshot(&self) -> Result<DownloadProgress, Error> {
        Ok(DownloadProgress::from(&self.view()?))
    }

    /// The last response that bytes came from; `None` where there was none yet. Stands for `GetResponseInformation`.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`].
    pub fn response(&self) -> Result<Option<ResponseInformation>, Error> {
        Ok(ResponseInformation::of(&self.view()?))
    }

    // ---- its content ----

    /// Whether it can be read anywhere while it runs, so that what is read is fetched first. Stands for
    /// `IsRandomAccessRequired`; it differs in that it is set on the template, and cannot be set too late.
    #[must_use]
    pub fn is_random_access_required(&self) -> bool {
        self.fixed.random_access
    }

    /// Bytes `start..end` that can be read now, in order and with gaps between: the whole file once it is completed, nothing
    /// once it ended otherwise.
    ///
    /// Stands for `GetDownloadedRanges`.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`].
    pub fn downloaded_ranges(&self) -> Result<Vec<Range<u64>>, Error> {
        let (_, ranges) = self.service.downloaded_ranges(self.id)?;
        Ok(ranges.into_iter().map(|(first, end)| first..end).collect())
    }

    /// What comes to be there of it, until it ends: see [`RangesDownloadedEvents`].
    ///
    /// Stands for the event `RangesDownloaded`. It differs in that it is there without random access as well.
    #[must_use]
    pub fn ranges_downloaded(&self) -> RangesDownloadedEvents {
        RangesDownloadedEvents::new(&self.service, self.id)
    }

    /// Its content from an offset on, whatever of it is there yet: see [`ResultStream`].
    ///
    /// Stands for `GetResultStreamAt`. It differs in that it goes on to the end of the file, and waits for what is missing.
    #[must_use]
    pub fn result_stream_at(&self, offset_bytes: u64) -> ResultStream {
        ResultStream::new(&self.service, self.id, offset_bytes)
    }

    /// Its content, to be read anywhere: see [`RandomAccessReader`]. Each one has a place of its own.
    ///
    /// Stands for `GetResultRandomAccessStreamReference` and opening what it gives.
    ///
    /// # Errors
    /// [`Error::NotNow`] where random access was not required on the template.
    pub fn open_random_access(&self) -> Result<RandomAccessReader, Error> {
        if self.fixed.random_access {
            return Ok(RandomAccessReader::new(&self.service, self.id));
        }
        Err(Error::NotNow {
            id: self.id,
            problem: "was created without random access; require it on the template, or read it with result_stream_at"
                .into(),
        })
    }

    // ---- what is wrong ----

    /// The error that it sits on: that it waits after, that its owner has to mend, or that it ended with. `None` while it runs
    /// or is queued, and where its application has paused it.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`].
    pub fn current_error(&self) -> Result<Option<ViewError>, Error> {
        let view = self.view()?;
        Ok(view.error.filter(|_| sits_on_its_error(view.status)))
    }

    /// The status of that error. Stands for `CurrentWebErrorStatus`.
    ///
    /// # Errors
    /// As for every call: see [`DownloadOperation`].
    pub fn current_web_error_status(&self) -> Result<Option<WebErrorStatus>, Error> {
        Ok(self.current_error()?.map(|error| error.status))
    }
}

fn sits_on_its_error(status: TransferStatus) -> bool {
    let is_asked_to_pause = status == TransferStatus::PausedByApplication;
    let waits = status == TransferStatus::Waiting || status == TransferStatus::Error;
    waits || (status.is_paused() && !is_asked_to_pause)
}

/// A checked header as one text.
fn header(name: &str, value: &str) -> Result<String, Error> {
    let (header, _) = parse_header_parts("header", name, value)?;
    Ok(format!("{}: {}", header.name, header.value))
}
