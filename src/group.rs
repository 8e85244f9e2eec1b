//! Transfer groups, which keep downloads apart and in order, and completion groups, which do one thing once when all of their
//! downloads have ended.

use std::time::{Duration, Instant};

use crate::engine::{CompletionGroupView, CompletionState};
use crate::error::Error;
use crate::operation::{CompletionAction, CompletionGroupId, TransferBehavior};
use crate::service::{Service, Stand};

/// A transfer group of one app: a name under which its downloads are enumerated, apart from all others, and whether they run
/// one at a time.
///
/// A handle; dropping one changes nothing. The group is stored, and stays until it is removed. An app has at most 1,000.
///
/// Stands for `BackgroundTransferGroup`. It differs in that groups can be listed and removed.
///
/// ```no_run
/// use backhaul::{BackgroundDownloader, BackgroundTransferGroup, Service, TransferBehavior};
///
/// # fn main() -> Result<(), backhaul::Error> {
/// let service = Service::open("/var/lib/backhaul")?;
/// let group = BackgroundTransferGroup::create_group(&service, "maps")?;
/// group.set_transfer_behavior(TransferBehavior::Serialized)?;
/// let mut downloader = BackgroundDownloader::new(&service);
/// downloader.set_transfer_group(&group);
/// downloader.create_download("https://example.com/north.map", "/data/north.map")?.start()?;
/// let south = downloader.create_download("https://example.com/south.map", "/data/south.map")?;
/// south.start()?;
/// south.make_current_in_transfer_group()?; // before all that wait in the group
/// for download in BackgroundDownloader::current_downloads_for_group(&service, &group)? {
///     println!("{}", download.id());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BackgroundTransferGroup {
    service: Service,
    name: String,
}

impl BackgroundTransferGroup {
    /// The group of this app with this name: the one that is there, as it is, or a new one, which is parallel. Durable on
    /// return.
    ///
    /// Stands for `CreateGroup`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `group` where the name is not 1 to 128 bytes without control characters;
    /// [`Error::LimitReached`].
    ///
    /// ```
    /// use backhaul::{BackgroundDownloader, BackgroundTransferGroup, Service};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// let service = Service::open(directory.path().join("state"))?;
    /// let group = BackgroundTransferGroup::create_group(&service, "maps")?;
    /// let mut downloader = BackgroundDownloader::new(&service);
    /// downloader.set_transfer_group(&group);
    /// let map = downloader.create_download("https://example.com/north.map", directory.path().join("north.map"))?;
    /// assert_eq!(BackgroundDownloader::current_downloads(&service)?, []); // it is found by its group only
    /// assert_eq!(BackgroundDownloader::current_downloads_for_group(&service, &group)?, [map]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_group(service: &Service, name: &str) -> Result<Self, Error> {
        let group = service.create_group(name, None)?;
        Ok(Self::of(service, group.name))
    }

    /// The groups of this app, by name. `WinRT` has no such call.
    ///
    /// # Errors
    /// [`Error::Disconnected`] where the engine has stopped.
    pub fn groups(service: &Service) -> Result<Vec<Self>, Error> {
        let groups = service.groups()?.into_iter();
        Ok(groups.map(|group| Self::of(service, group.name)).collect())
    }

    /// A handle without a look at whether it is there.
    pub(crate) fn of(service: &Service, name: String) -> Self {
        Self {
            service: service.clone(),
            name,
        }
    }

    /// Its name. Stands for `Name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its downloads run. Stands for the getter of `TransferBehavior`.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`] where it was removed.
    pub fn transfer_behavior(&self) -> Result<TransferBehavior, Error> {
        let mut groups = self.service.groups()?.into_iter();
        let found = groups.find(|group| group.name == self.name);
        let found = found.ok_or_else(|| Error::UnknownGroup {
            app: self.service.app().to_owned(),
            name: self.name.clone(),
        })?;
        Ok(found.behavior)
    }

    /// Changes how its downloads run, those that wait included; those that run go on. Durable on return.
    ///
    /// Stands for the setter of `TransferBehavior`.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`] where it was removed.
    pub fn set_transfer_behavior(&self, behavior: TransferBehavior) -> Result<(), Error> {
        self.service.set_group_behavior(&self.name, behavior).map(|_| ())
    }

    /// Removes it; its downloads, all of which have ended, keep its name. `WinRT` has no such call.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]; [`Error::GroupInUse`] where some have not ended.
    pub fn remove(&self) -> Result<(), Error> {
        self.service.remove_group(&self.name)
    }
}

/// A set of downloads with one action, done once when all of them have ended, whatever how, and whatever becomes of the
/// processes meanwhile.
///
/// Downloads join when they are created
/// ([`BackgroundDownloader::with_completion_group`](crate::BackgroundDownloader::with_completion_group)), until it is enabled;
/// it does nothing before. A handle; dropping one changes nothing.
///
/// Stands for `BackgroundTransferCompletionGroup`. It differs in that there is no background task to register: the action is
/// [`CompletionAction::Command`], which is run at least once and finds a report in JSON on its standard input, or
/// [`CompletionAction::Event`], which stays until it is acknowledged.
///
/// ```no_run
/// use backhaul::{BackgroundDownloader, BackgroundTransferCompletionGroup, CompletionAction, Service};
///
/// # fn main() -> Result<(), backhaul::Error> {
/// let service = Service::open("/var/lib/backhaul")?;
/// let command = ["/usr/bin/install-update", "--from-report"].map(String::from).to_vec();
/// let group = BackgroundTransferCompletionGroup::new(&service, Some("update"), &CompletionAction::Command(command))?;
/// let downloader = BackgroundDownloader::with_completion_group(&service, &group);
/// for part in ["kernel", "root"] {
///     let url = format!("https://example.com/{part}");
///     downloader.create_download(&url, format!("/data/{part}"))?.start()?;
/// }
/// group.enable()?; // from here on nothing joins, and the command runs once both have ended
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BackgroundTransferCompletionGroup {
    service: Service,
    id: CompletionGroupId,
}

impl BackgroundTransferCompletionGroup {
    /// A new group of this app, with a name for people and an action. Durable on return.
    ///
    /// Stands for the constructor, and for `Trigger`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field; [`Error::LimitReached`] where the app has 1,000 that are not done.
    pub fn new(service: &Service, name: Option<&str>, action: &CompletionAction) -> Result<Self, Error> {
        let id = service.create_completion_group(name, action)?;
        Ok(Self::of(service, id))
    }

    /// The group with this id, of an earlier run of the program.
    ///
    /// # Errors
    /// [`Error::UnknownCompletionGroup`].
    pub fn find(service: &Service, id: CompletionGroupId) -> Result<Self, Error> {
        service.completion_group(id)?;
        Ok(Self::of(service, id))
    }

    /// The groups of this app that are there, in the order of their creation. `WinRT` has no such call.
    ///
    /// # Errors
    /// [`Error::Disconnected`] where the engine has stopped.
    pub fn completion_groups(service: &Service) -> Result<Vec<Self>, Error> {
        let groups = service.completion_groups()?.into_iter();
        Ok(groups.map(|group| Self::of(service, group.id)).collect())
    }

    fn of(service: &Service, id: CompletionGroupId) -> Self {
        Self {
            service: service.clone(),
            id,
        }
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> CompletionGroupId {
        self.id
    }

    /// All that is known of it, in one look: what it has got to, and its downloads.
    ///
    /// # Errors
    /// [`Error::UnknownCompletionGroup`] where it was removed.
    pub fn view(&self) -> Result<CompletionGroupView, Error> {
        self.service.completion_group(self.id)
    }

    /// Whether it was enabled. Stands for `IsEnabled`.
    ///
    /// # Errors
    /// [`Error::UnknownCompletionGroup`] where it was removed.
    pub fn is_enabled(&self) -> Result<bool, Error> {
        Ok(self.view()?.state != CompletionState::Open)
    }

    /// Seals it: no download joins it any more, and it fires once all have ended, at once where all have. Durable on return.
    ///
    /// Stands for `Enable`.
    ///
    /// # Errors
    /// [`Error::CompletionGroupNotNow`] where it was enabled before.
    pub fn enable(&self) -> Result<(), Error> {
        self.service.enable_completion_group(self.id)
    }

    /// Waits until it has fired, as all of its downloads have ended, and gives it as it is then. `WinRT` has no such call.
    ///
    /// # Errors
    /// [`Error::CompletionGroupNotNow`] where it is not enabled, and so would never fire.
    pub fn wait(&self) -> Result<CompletionGroupView, Error> {
        loop {
            if let Some(view) = self.wait_within(None)? {
                return Ok(view);
            }
        }
    }

    /// The same for at most this time; `None` where it has not fired by then.
    ///
    /// # Errors
    /// As [`BackgroundTransferCompletionGroup::wait`].
    pub fn wait_timeout(&self, time: Duration) -> Result<Option<CompletionGroupView>, Error> {
        self.wait_within(Some(time))
    }

    fn wait_within(&self, time: Option<Duration>) -> Result<Option<CompletionGroupView>, Error> {
        let end = time.and_then(|time| Instant::now().checked_add(time));
        loop {
            let view = self.view()?;
            match view.state {
                CompletionState::Open => {
                    let problem = "is not enabled, and never fires before that; enable it first".into();
                    return Err(Error::CompletionGroupNotNow { id: self.id, problem });
                }
                CompletionState::Sealed { .. } => {}
                _ => return Ok(Some(view)),
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            match self.service.wait_for(&view.members, Stand::Ended, left) {
                Ok(waited) if waited.timed_out => return Ok(None),
                // Who was removed meanwhile is not waited for at the next look.
                Ok(_) | Err(Error::UnknownId(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes note that it has fired. `WinRT` does so when the background task has run.
    ///
    /// # Errors
    /// [`Error::CompletionGroupNotNow`] where it has not fired, was acknowledged before, or has a command.
    pub fn acknowledge(&self) -> Result<(), Error> {
        self.service.acknowledge_completion_group(self.id)
    }

    /// Removes it; its downloads stay. `WinRT` has no such call.
    ///
    /// # Errors
    /// [`Error::CompletionGroupNotNow`] where it has not done its action, or has downloads that have not ended.
    pub fn remove(&self) -> Result<(), Error> {
        self.service.remove_completion_group(self.id)
    }
}
