//! Creation of downloads through a service: what is relative is meant here, and a list goes to another process in parts.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::download::Download;
use super::message::PART_BYTES_MAX;
use super::methods::{self, Asked, Create, Created};
use super::{Link, PAGE, Service};
use crate::engine::{Body, Checks, NewDownload, Series};
use crate::error::Error;
use crate::operation::{TransferId, path_in};

/// How long the end of operations is waited for that are taken back.
const TAKE_BACK_MAX: Duration = Duration::from_secs(30);

/// Downloads of a list that are there at a time (chosen without measurement: a few hundred KiB).
const LIST_PART: usize = 256;

impl Service {
    /// Creates downloads: all of them or none. They are durable on return. To another process a list of more than 256 KiB
    /// goes in parts: a crash between them leaves those before it. An empty `app` stands for that of the service,
    /// and a relative destination is taken from the current directory of this process.
    ///
    /// # Errors
    /// The position of the first one that is refused, and why: as [`Engine::create`](crate::Engine::create).
    pub fn create(&self, downloads: &[NewDownload]) -> Result<Vec<TransferId>, (usize, Error)> {
        let created = self.create_or_go_on(downloads, false)?;
        Ok(created.into_iter().map(|created| created.id).collect())
    }

    pub(crate) fn create_or_go_on(
        &self,
        downloads: &[NewDownload],
        go_on: bool,
    ) -> Result<Vec<Created>, (usize, Error)> {
        let set = |index: usize, one: &mut NewDownload| one.clone_from(&downloads[index]);
        let series = Series::new(NewDownload::default(), &set);
        let asked = Asked {
            go_on,
            of_list: downloads.len() > 1,
            check_only: false,
        };
        self.create_series(downloads.len(), usize::MAX, series, asked)
    }

    /// Whether a download would be created as things stand, but for its body, which is still to come. `go_on`: or is there
    /// already, so that it would be gone on with.
    ///
    /// # Errors
    /// As [`Service::create`].
    pub(crate) fn check(&self, download: &NewDownload, go_on: bool) -> Result<(), Error> {
        let set = |_: usize, one: &mut NewDownload| one.clone_from(download);
        let series = Series::new(NewDownload::default(), &set);
        let asked = Asked {
            go_on,
            // One that has completed counts as there only where it came with others; this may be one of them.
            of_list: go_on,
            check_only: true,
        };
        let checked = self.create_series(1, usize::MAX, series, asked);
        checked.map(|_| ()).map_err(|(_, error)| error)
    }

    /// The same for a list of which one is there at a time. Nobody else looks at the engine yet, where that is in this process.
    pub(crate) fn create_list(
        &self,
        count: usize,
        series: Series<'_>,
        go_on: bool,
    ) -> Result<Vec<Created>, (usize, Error)> {
        let asked = Asked {
            go_on,
            of_list: count > 1,
            check_only: false,
        };
        self.create_series(count, LIST_PART, series, asked)
    }

    fn create_series(
        &self,
        count: usize,
        part_max: usize,
        series: Series<'_>,
        asked: Asked,
    ) -> Result<Vec<Created>, (usize, Error)> {
        let here = current_directory()?;
        let make_absolute = |one: &mut NewDownload| self.make_absolute(one, &here);
        let mut series = series.and_then(&make_absolute);
        let Link::Embedded(embedded) = &self.link else {
            for index in 0..count {
                check_paths(series.at(index)).map_err(|error| (index, error))?;
            }
            return self.create_in_parts(count, series, asked);
        };
        let (engine, mut parts) = (&embedded.engine, ranges(count, part_max));
        let mut check = |checks: &mut Checks<'_>, part| checks.check_some(&mut series, part);
        let created = methods::create(engine, count, &mut parts, &mut check, asked);
        created.map_err(|refused| (refused.index.unwrap_or(0), refused.error))
    }

    fn create_part(&self, downloads: Vec<Download>, asked: Asked) -> Result<Vec<Created>, (usize, Error)> {
        let Asked {
            go_on,
            of_list,
            check_only,
        } = asked;
        let result = self.call(Create {
            downloads,
            go_on,
            of_list,
            check_only,
        });
        let result = result.map_err(|refused| (refused.index.unwrap_or(0), refused.error));
        result.map(|all| all.operations)
    }

    /// A list may be longer than a message may be. Where a later part of it is refused, the parts before it are taken back.
    fn create_in_parts(
        &self,
        count: usize,
        mut series: Series<'_>,
        asked: Asked,
    ) -> Result<Vec<Created>, (usize, Error)> {
        let mut created = Vec::new();
        let (mut part, mut part_bytes) = (Vec::new(), 0);
        let downloads = (0..count).map(|index| Download::from(series.at(index)));
        let sized = downloads.map(|download| (download.sent_bytes(), download));
        let mut sized = sized.peekable();
        while let Some((bytes, download)) = sized.next() {
            part_bytes += bytes;
            part.push(download);
            let is_full = sized.peek().is_none_or(|(next, _)| part_bytes + next > PART_BYTES_MAX);
            if is_full {
                match self.create_part(std::mem::take(&mut part), asked) {
                    Ok(more) => created.extend(more),
                    Err((index, error)) => {
                        self.take_back(&created);
                        return Err((created.len() + index, error));
                    }
                }
                part_bytes = 0;
            }
        }
        Ok(created)
    }

    /// Over another connection: what was refused may have ended that of the list.
    fn take_back(&self, created: &[Created]) {
        let fresh = created.iter().filter(|one| !one.existed);
        let ids: Vec<TransferId> = fresh.map(|one| one.id).collect();
        if ids.is_empty() {
            return;
        }
        let taken_back = self.connect_again().and_then(|service| {
            for page in ids.chunks(PAGE) {
                if matches!(service.cancel(page), Err(Error::NotNow { .. })) {
                    // One that has ended meanwhile, or is about to, must not keep those behind it.
                    page.iter().try_for_each(|id| match service.cancel(&[*id]) {
                        Err(Error::NotNow { .. }) => Ok(()),
                        result => result,
                    })?;
                }
            }
            service.wait(&ids, Some(TAKE_BACK_MAX))?;
            service.remove(&ids)
        });
        if let Err(error) = taken_back {
            log::warn!("operations of a list that was refused are still there: {error}");
        }
    }

    /// A `/` at the end of a destination, which means a directory, stays.
    fn make_absolute(&self, download: &mut NewDownload, here: &Path) {
        if download.app.is_empty() {
            self.app.as_ref().clone_into(&mut download.app);
        }
        let body = match &mut download.body {
            Some(Body::File(path)) => Some(path),
            _ => None,
        };
        let paths = std::iter::once(&mut download.destination).chain(body);
        for path in paths.filter(|path| path.is_relative()) {
            *path = path_in(here, path.as_os_str());
        }
    }
}

/// A message is UTF-8, and a path need not be.
fn check_paths(download: &NewDownload) -> Result<(), Error> {
    let body = match &download.body {
        Some(Body::File(path)) => Some(("body", path)),
        _ => None,
    };
    let mut paths = std::iter::once(("destination", &download.destination)).chain(body);
    match paths.find(|(_, path)| path.to_str().is_none()) {
        Some((field, path)) => {
            let problem = "is no UTF-8: only an engine in the same process takes such a path";
            Err(Error::invalid(field, path.display().to_string(), problem))
        }
        None => Ok(()),
    }
}

fn current_directory() -> Result<PathBuf, (usize, Error)> {
    std::env::current_dir().map_err(|error| (0, Error::io("find", "current directory", error)))
}

/// The ranges of a list of so many that are there at a time.
pub(crate) fn parts_of(count: usize) -> impl Iterator<Item = Range<usize>> {
    ranges(count, LIST_PART)
}

/// Ranges of up to `len_max` that make up so many; of none an empty one.
fn ranges(count: usize, len_max: usize) -> impl Iterator<Item = Range<usize>> {
    let firsts = (0..count.max(1)).step_by(len_max);
    firsts.map(move |first| first..count.min(first.saturating_add(len_max)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::sync::Arc;

    use backhaul_journal::simulation::SimDisk;

    use super::*;
    use crate::service::server::{Server, ServerLimits};
    use crate::service::socket::Socket;
    use crate::{Config, Engine, Environment, FixedEnvironment};

    /// An engine behind a socket, and a client of it.
    struct Lab {
        engine: Arc<Engine>,
        client: Service,
        _server: Server,
        home: tempfile::TempDir,
    }

    impl Lab {
        fn new(config: Config, limits: ServerLimits) -> Self {
            let home = tempfile::tempdir().unwrap();
            let backends = crate::backends(&config, |_| None).unwrap();
            let engine = Engine::open(&home.path().join("state"), config, Environment::system(), backends);
            let engine = Arc::new(engine.unwrap());
            let path = home.path().join("socket");
            let server = Server::start(Arc::clone(&engine), vec![Socket::bind(&path).unwrap()], limits).unwrap();
            Self {
                engine,
                client: Service::connect(&path).unwrap().with_app("app"),
                _server: server,
                home,
            }
        }

        /// A download on hold that takes so many bytes of a message.
        fn held(&self, number: usize, sent_bytes: usize) -> NewDownload {
            let mut download = NewDownload {
                url: format!("http://localhost:1/{number:05}"),
                destination: self.home.path().join(format!("{number:05}")),
                app: "app".into(),
                headers: vec!["X-Long: ".into()],
                hold: true,
                ..NewDownload::default()
            };
            let missing = sent_bytes - Download::from(&download).sent_bytes();
            download.headers[0].push_str(&"x".repeat(missing));
            download
        }
    }

    #[test]
    fn the_parts_of_a_list_fit_the_longest_call_where_memory_is_limited_with_all_that_is_around_them() {
        let config = Config {
            memory_limit: Some(12 << 20),
            ..Config::default()
        };
        let lab = Lab::new(config, ServerLimits::default());
        // A power of two makes up any part to the byte.
        let list: Vec<NewDownload> = (0..300).map(|number| lab.held(number, 4_096)).collect();
        let created = lab.client.create(&list).unwrap();
        let there = lab.engine.views().into_iter().map(|view| view.id);
        assert_eq!(there.collect::<Vec<_>>(), created);
    }

    #[test]
    fn what_went_before_a_part_that_ends_the_connection_is_taken_back() {
        let limits = ServerLimits {
            message_bytes_max: 512 << 10,
            ..ServerLimits::default()
        };
        let lab = Lab::new(Config::default(), limits);
        let list = [lab.held(0, 4_096), lab.held(1, 600 << 10)];
        let (index, error) = lab.client.create(&list).unwrap_err();
        assert!(
            index == 1 && matches!(error, Error::Disconnected(_)),
            "{index}: {error}"
        );
        assert!(lab.engine.views().is_empty(), "some of a refused list stays");
    }

    #[test]
    fn one_that_has_ended_does_not_keep_the_others_of_a_refused_list_from_being_taken_back() {
        let lab = Lab::new(Config::default(), ServerLimits::default());
        let list: Vec<_> = (0..3).map(|number| lab.held(number, 4_096)).collect();
        let created = lab.client.create_or_go_on(&list, false).unwrap();
        let first = [created[0].id];
        lab.client.cancel(&first).unwrap();
        lab.client.wait(&first, None).unwrap();
        lab.client.take_back(&created);
        assert!(lab.engine.views().is_empty(), "some of a refused list stays");
    }

    #[test]
    fn a_path_is_meant_from_the_current_directory_and_an_app_is_that_of_the_service() {
        let environment = FixedEnvironment::new(1).on(SimDisk::new().storage());
        let engine = Engine::open(Path::new("/state"), Config::default(), environment, Vec::new()).unwrap();
        let service = Service::on(&Arc::new(engine)).with_app("mine");
        for (given, meant) in [
            ("a", "/here/a"),
            ("./", "/here/./"),
            ("a/../b/", "/here/a/../b/"),
            ("/a/", "/a/"),
            ("", "/here/"),
        ] {
            let mut download = NewDownload {
                destination: given.into(),
                body: Some(Body::File(given.into())),
                ..NewDownload::default()
            };
            service.make_absolute(&mut download, Path::new("/here"));
            assert_eq!(download.destination.as_os_str(), meant, "{given:?}");
            let is_meant = matches!(&download.body, Some(Body::File(path)) if path.as_os_str() == meant);
            assert!(is_meant, "{:?}", download.body);
            assert_eq!(download.app, "mine");
        }
    }

    #[test]
    fn the_parts_of_a_list_make_up_the_whole() {
        for count in [0, 1, 255, 256, 257, 1_000] {
            let parts: Vec<_> = parts_of(count).collect();
            assert!(parts.iter().all(|part| part.len() <= LIST_PART));
            assert_eq!(
                parts.into_iter().flatten().collect::<Vec<_>>(),
                (0..count).collect::<Vec<_>>()
            );
            assert_eq!(
                ranges(count, usize::MAX).map(|part| part.len()).collect::<Vec<_>>(),
                [count]
            );
        }
    }
}
