//! What the download API promises, on an engine in this process and on one behind a socket.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod sample;
#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use backhaul::{
    BackgroundDownloader, BackgroundTransferCompletionGroup, BackgroundTransferError, BackgroundTransferGroup,
    CompletionAction, CompletionState, Config, CostPolicy, DownloadOperation, DownloadProgress, Error, Priority,
    Proxies, Reason, RetryPolicy, Service, TransferBehavior, TransferStatus, WebErrorStatus,
};
use sample::{LENGTH, Place, Sample};
use support::{names_in, until};

/// What one test runs on.
struct Stage {
    server: Sample,
    place: Place,
    service: Service,
}

impl Stage {
    fn downloader(&self) -> BackgroundDownloader {
        BackgroundDownloader::new(&self.service)
    }

    fn create(&self, path: &str, name: &str) -> DownloadOperation {
        let url = self.server.url(path);
        self.downloader().create_download(&url, self.file(name)).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.file(name)
    }

    fn assert_whole(&self, name: &str) {
        support::assert_same(&self.file(name), self.server.content());
    }
}

fn config() -> Config {
    Config {
        retry: RetryPolicy {
            delay_first: Duration::from_millis(10),
            delay_max: Duration::from_millis(50),
            ..RetryPolicy::default()
        },
        // Whatever the environment of the tests says.
        proxies: Some(Proxies::direct()),
        ..Config::default()
    }
}

/// Runs a test once for each way to an engine.
fn each_way(test: impl Fn(&Stage)) {
    for is_remote in [false, true] {
        let (server, place) = (Sample::start(), Place::new());
        let engine = Service::open_with(place.state(), config()).unwrap();
        let serving = is_remote.then(|| engine.serve(place.socket()).unwrap());
        let service = match &serving {
            Some(serving) => Service::connect(serving.socket()).unwrap(),
            None => engine.clone(),
        };
        assert_eq!(service.is_remote(), is_remote);
        let stage = Stage { server, place, service };
        test(&stage);
        // Whoever is connected goes first.
        drop(stage);
        drop((serving, engine));
    }
}

/// Waits until a download has at least so many bytes.
fn received(download: &DownloadOperation, bytes: usize) -> DownloadProgress {
    let mut progress = download.progress();
    let reached = progress.find(|progress| progress.bytes_received >= bytes as u64);
    reached.unwrap_or_else(|| panic!("it ended before it had {bytes} bytes: {:?}", download.view()))
}

/// The last request goes on with so many bytes; a few of them are compared on the way.
fn assert_goes_on_at(stage: &Stage, bytes: usize) {
    let first = stage.server.asked().last().unwrap().first();
    assert!(
        (bytes - 4096..=bytes).contains(&first),
        "asked for from {first}, had {bytes}"
    );
}

fn not_now(result: Result<(), Error>) -> String {
    match result {
        Err(Error::NotNow { problem, .. }) => problem,
        other => panic!("expected NotNow, got {other:?}"),
    }
}

fn is_handle<T: Clone + Send + Sync>() {}

#[test]
fn a_download_stays_idle_until_it_is_started_and_then_arrives() {
    is_handle::<DownloadOperation>();
    is_handle::<BackgroundDownloader>();
    each_way(|stage| {
        let mut downloader = stage.downloader();
        downloader
            .set_request_header("X-Device", "42")
            .unwrap()
            .set_cost_policy(CostPolicy::UnrestrictedOnly);
        let url = stage.server.url("/download?id=1");
        let download = downloader.create_download(&url, stage.file("a")).unwrap();
        let before = download.progress_snapshot().unwrap();
        assert_eq!(
            (before.status, before.reason),
            (TransferStatus::Idle, Some(Reason::NotStarted))
        );
        download.start().unwrap();
        let last = download.progress().last().unwrap();
        assert_eq!(last.status, TransferStatus::Completed);
        assert_eq!(
            (last.bytes_received, last.total_bytes),
            (LENGTH as u64, Some(LENGTH as u64))
        );
        let done = download.wait().unwrap();
        assert_eq!((done.status, done.error), (TransferStatus::Completed, None));
        assert_eq!(download.result_path().unwrap(), stage.file("a"));
        assert_eq!(download.cost_policy().unwrap(), CostPolicy::UnrestrictedOnly);
        stage.assert_whole("a");
        assert_eq!(stage.server.asked()[0].header("x-device"), "42");
    });
}

#[test]
fn what_a_state_does_not_allow_is_refused_as_not_now() {
    each_way(|stage| {
        let download = stage.create("/download", "a");
        not_now(download.pause());
        not_now(download.resume());
        not_now(download.remove());
        not_now(download.acknowledge());
        stage.server.hold_at(LENGTH / 2);
        download.start().unwrap();
        assert!(not_now(download.start()).contains("start"));
        received(&download, 1);
        not_now(download.set_priority(Priority::High));
        download.pause().unwrap();
        not_now(download.pause());
        download.cancel().unwrap();
        download.wait().unwrap();
        not_now(download.cancel());
        not_now(download.set_requested_uri(&stage.server.url("/download?b")));
        download.remove().unwrap();
        let gone = download.progress_snapshot();
        assert!(
            matches!(gone, Err(Error::UnknownId(id)) if id == download.id()),
            "{gone:?}"
        );
        assert_eq!(download.progress().count(), 0);
    });
}

#[test]
fn a_pause_returns_when_it_stands_still_and_a_resume_goes_on_with_the_bytes() {
    each_way(|stage| {
        stage.server.hold_at(LENGTH / 2);
        let download = stage.create("/download", "a");
        download.start().unwrap();
        received(&download, LENGTH / 2);
        download.pause().unwrap();
        let paused = download.progress_snapshot().unwrap();
        assert_eq!(paused.status, TransferStatus::PausedByApplication);
        assert_eq!(paused.bytes_received, (LENGTH / 2) as u64);
        assert_eq!(download.wait_timeout(Duration::ZERO).unwrap(), None);
        stage.server.release();
        download.resume().unwrap();
        let done = download.wait().unwrap();
        assert_eq!((done.status, done.restarts), (TransferStatus::Completed, 0));
        stage.assert_whole("a");
        assert_goes_on_at(stage, LENGTH / 2);
    });
}

#[test]
fn progress_tells_the_end_of_what_has_ended_once() {
    each_way(|stage| {
        let download = stage.create("/missing", "a");
        download.start().unwrap();
        let done = download.wait().unwrap();
        assert_eq!(done.status, TransferStatus::Error);
        assert_eq!(done.error.unwrap().status, WebErrorStatus::NOT_FOUND);
        let all: Vec<DownloadProgress> = download.progress().collect();
        assert_eq!(all, [download.progress_snapshot().unwrap()]);
        let error = download.current_web_error_status().unwrap();
        assert_eq!(error, Some(WebErrorStatus::NOT_FOUND));
    });
}

#[test]
fn a_canceled_download_leaves_nothing_behind() {
    each_way(|stage| {
        stage.server.hold_at(LENGTH / 2);
        let download = stage.create("/download", "a");
        download.start().unwrap();
        received(&download, 1);
        download.cancel().unwrap();
        assert_eq!(download.wait().unwrap().status, TransferStatus::Canceled);
        assert_eq!(names_in(&stage.place.downloads()), Vec::<String>::new());
    });
}

#[test]
fn header_values_of_one_name_are_concatenated_unless_they_are_to_be_replaced() {
    each_way(|stage| {
        stage.server.hold_at(LENGTH / 2);
        let mut downloader = stage.downloader();
        let set = |downloader: &mut BackgroundDownloader, name: &str, value: &str| {
            downloader.set_request_header(name, value).map(|_| ())
        };
        set(&mut downloader, "X-List", "one").unwrap();
        set(&mut downloader, "x-list", "two").unwrap();
        set(&mut downloader, "X-Old", "one").unwrap();
        downloader.replace_request_header("X-OLD", "new").unwrap();
        set(&mut downloader, "X-Gone", "one").unwrap();
        downloader.remove_request_header("x-gone").unwrap();
        for (name, value) in [("", "x"), ("X: y", "x"), ("X", "a\r\nB: c"), ("Range", "bytes=0-1")] {
            let refused = set(&mut downloader, name, value);
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{name}: {refused:?}");
        }
        let url = stage.server.url("/download");
        let download = downloader.create_download(&url, stage.file("a")).unwrap();
        set(&mut downloader, "X-List", "later").unwrap();
        download.start().unwrap();
        received(&download, LENGTH / 2);
        download.pause().unwrap();
        download.append_request_header("X-List", "three").unwrap();
        download.set_request_header("X-New", "one").unwrap();
        download.replace_request_header("X-Old", "newer").unwrap();
        stage.server.release();
        download.resume().unwrap();
        download.wait().unwrap();
        let asked = stage.server.asked();
        let headers =
            |index: usize| ["x-list", "x-old", "x-gone", "x-new"].map(|name| asked[index].header(name).to_owned());
        assert_eq!(headers(0), ["one, two", "new", "", ""]);
        assert_eq!(headers(asked.len() - 1), ["one, two, three", "newer", "", "one"]);
        stage.assert_whole("a");
    });
}

#[test]
fn a_header_that_is_removed_from_a_download_is_sent_no_more_even_where_it_was_sealed() {
    each_way(|stage| {
        let mut downloader = stage.downloader();
        downloader.set_request_header("X-Plain", "a").unwrap();
        downloader.set_secret_request_header("X-Secret", "hush").unwrap();
        let url = stage.server.url("/download");
        let download = downloader.create_download(&url, stage.file("a")).unwrap();
        download.remove_request_header("x-plain").unwrap();
        download.remove_request_header("x-secret").unwrap();
        download.remove_request_header("never-there").unwrap();
        let refused = download.remove_request_header("no name");
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
        download.start().unwrap();
        download.wait().unwrap();
        let asked = &stage.server.asked()[0];
        assert_eq!((asked.header("x-plain"), asked.header("x-secret")), ("", ""));
    });
}

#[test]
fn secrets_are_sent_and_never_shown() {
    each_way(|stage| {
        let mut downloader = stage.downloader();
        downloader.set_request_header("X-Token", "plain").unwrap();
        downloader.set_secret_request_header("X-Token", "hush1").unwrap();
        downloader.set_request_header("Cookie", "a=hush2").unwrap();
        downloader.set_server_credential(Some(("hush3@", "hush4:/")));
        let url = stage.server.url("/download?token=hush5");
        let download = downloader.create_download(&url, stage.file("a")).unwrap();
        download.set_request_header("X-Token", "hush6").unwrap();
        download.start().unwrap();
        let done = download.wait().unwrap();
        let response = download.response().unwrap().unwrap();
        let shown = format!(
            "{downloader:?} {download:?} {done:?} {response:?} {}",
            download.requested_uri().unwrap()
        );
        assert!(!shown.contains("hush"), "{shown}");
        let asked = &stage.server.asked()[0];
        assert_eq!(asked.header("x-token"), "plain, hush1, hush6");
        assert_eq!(asked.header("cookie"), "a=hush2");
        let basic = format!("Basic {}", data_encoding::BASE64.encode(b"hush3@:hush4:/"));
        assert_eq!(asked.header("authorization"), basic);
        assert!(asked.path.ends_with("token=hush5"));
    });
}

#[test]
fn an_error_that_can_be_mended_pauses_and_a_new_url_keeps_the_bytes() {
    each_way(|stage| {
        let mut downloader = stage.downloader();
        downloader.set_recoverable_web_error_statuses([WebErrorStatus::FORBIDDEN]);
        let url = stage.server.url("/recoverable?expire=yes");
        let download = downloader.create_download(&url, stage.file("a")).unwrap();
        assert_eq!(download.recoverable_statuses(), [WebErrorStatus::FORBIDDEN]);
        assert_eq!(download.current_web_error_status().unwrap(), None);
        download.start().unwrap();
        let stopped = TransferStatus::PausedRecoverableWebErrorStatus;
        let progress = download.progress().find(|progress| progress.status == stopped).unwrap();
        assert!(progress.bytes_received > 0, "{progress:?}");
        let status = download.current_web_error_status().unwrap();
        assert_eq!(status, Some(WebErrorStatus::FORBIDDEN));
        download
            .set_requested_uri(&stage.server.url("/recoverable?expire=no"))
            .unwrap();
        download.resume().unwrap();
        let done = download.wait().unwrap();
        assert_eq!((done.status, done.restarts), (TransferStatus::Completed, 0));
        stage.assert_whole("a");
        assert_goes_on_at(stage, usize::try_from(progress.bytes_received).unwrap());
    });
}

#[test]
fn an_ungrouped_download_of_the_app_is_current_until_its_end_is_acknowledged() {
    each_way(|stage| {
        let ids = |found: Vec<DownloadOperation>| found.iter().map(DownloadOperation::id).collect::<Vec<_>>();
        let current = || ids(BackgroundDownloader::current_downloads(&stage.service).unwrap());
        let idle = stage.create("/download?id=1", "a");
        let ended = stage.create("/download?id=2", "b");
        let others = stage.service.clone().with_app("another");
        let url = stage.server.url("/download?id=3");
        let elsewhere = BackgroundDownloader::new(&others);
        let elsewhere = elsewhere.create_download(&url, stage.file("c")).unwrap();
        ended.start().unwrap();
        ended.wait().unwrap();
        assert_eq!(current(), [idle.id(), ended.id()]);
        ended.acknowledge().unwrap();
        assert_eq!(current(), [idle.id()]);
        let all = ids(BackgroundDownloader::all_downloads(&stage.service).unwrap());
        assert_eq!(all, [idle.id(), ended.id()]);
        let found = BackgroundDownloader::current_downloads(&others).unwrap();
        assert_eq!(found, [elsewhere]);
    });
}

#[test]
fn priority_and_cost_policy_can_be_changed_and_are_kept() {
    each_way(|stage| {
        let download = stage.create("/download", "a");
        assert_eq!(download.priority().unwrap(), Priority::Default);
        assert_eq!(download.cost_policy().unwrap(), CostPolicy::Default);
        download.set_priority(Priority::Low).unwrap();
        download.set_cost_policy(CostPolicy::Always).unwrap();
        let again = DownloadOperation::find(&stage.service, download.id()).unwrap();
        assert_eq!(again.priority().unwrap(), Priority::Low);
        assert_eq!(again.cost_policy().unwrap(), CostPolicy::Always);
    });
}

#[test]
fn a_response_tells_who_answered_and_what() {
    each_way(|stage| {
        let download = stage.create("/moved", "a");
        assert_eq!(download.response().unwrap(), None);
        download.start().unwrap();
        download.wait().unwrap();
        let response = download.response().unwrap().unwrap();
        assert_eq!(response.actual_uri(), stage.server.url("/download"));
        assert_eq!(response.status_code(), 200);
        assert!(response.is_resumable());
        assert_eq!(response.content_type(), Some("application/octet-stream"));
        assert_eq!(response.header("accept-RANGES"), Some("bytes"));
        assert_eq!(response.header("X-None"), None);
        assert!(!response.headers().is_empty() && !response.are_headers_cut());
    });
}

#[test]
fn a_second_download_to_one_destination_names_the_first() {
    each_way(|stage| {
        let first = stage.create("/download?id=1", "a");
        let url = stage.server.url("/download?id=2");
        let refused = stage.downloader().create_download(&url, stage.file("a"));
        let Err(error @ Error::Conflict { .. }) = &refused else {
            panic!("{refused:?}")
        };
        assert!(matches!(error, Error::Conflict { id, .. } if *id == first.id()));
        assert_eq!(BackgroundTransferError::status(error), WebErrorStatus::UNKNOWN);
        fs::write(stage.file("b"), b"there").unwrap();
        let exists = stage.downloader().create_download(&url, stage.file("b")).unwrap_err();
        let status = BackgroundTransferError::status(&exists);
        assert_eq!(status, WebErrorStatus::DESTINATION_EXISTS);
    });
}

#[test]
fn a_download_is_there_again_after_the_service_was_closed_and_opened() {
    let (server, place) = (Sample::start(), Place::new());
    server.hold_at(LENGTH / 2);
    let open = || Service::open_with(place.state(), config()).unwrap();
    let service = open();
    let mut downloader = BackgroundDownloader::new(&service);
    downloader.set_cost_policy(CostPolicy::UnrestrictedOnly);
    let download = downloader
        .create_download(&server.url("/download"), place.file("a"))
        .unwrap();
    download.start().unwrap();
    received(&download, LENGTH / 2);
    let id = download.id();
    drop((download, downloader, service));
    server.release();
    let service = open();
    let found = BackgroundDownloader::current_downloads(&service).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id(), id);
    assert_eq!(found[0].cost_policy().unwrap(), CostPolicy::UnrestrictedOnly);
    assert_eq!(found[0].wait().unwrap().status, TransferStatus::Completed);
    support::assert_same(&place.file("a"), server.content());
}

#[test]
fn a_stream_gives_what_is_there_at_once_and_waits_for_the_rest() {
    each_way(|stage| {
        stage.server.hold_at(LENGTH / 2);
        let download = stage.create("/download", "a");
        download.start().unwrap();
        received(&download, LENGTH / 2);
        let from = LENGTH / 4;
        let mut stream = download.result_stream_at(from as u64);
        let mut half = vec![0; LENGTH / 2 - from];
        stream.read_exact(&mut half).unwrap();
        assert!(half == stage.server.content()[from..LENGTH / 2]);
        stream.set_read_timeout(Some(Duration::from_millis(1)));
        let late = stream.read(&mut [0; 1]).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        stream.set_read_timeout(None);
        stage.server.release();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest == stage.server.content()[LENGTH / 2..]);
        let mut whole = Vec::new();
        download.wait().unwrap();
        download.result_stream_at(0).read_to_end(&mut whole).unwrap();
        assert!(whole == stage.server.content());
        let mut nothing = Vec::new();
        download.result_stream_at(u64::MAX).read_to_end(&mut nothing).unwrap();
        assert!(nothing.is_empty());
    });
}

#[test]
fn a_stream_of_what_has_failed_tells_the_failure() {
    each_way(|stage| {
        let download = stage.create("/missing", "a");
        download.start().unwrap();
        let error = download.result_stream_at(0).read(&mut [0; 1]).unwrap_err();
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
        let Some(cause @ Error::Unsuccessful { .. }) = cause else {
            panic!("{error:?}")
        };
        assert_eq!(BackgroundTransferError::status(cause), WebErrorStatus::NOT_FOUND);
    });
}

#[test]
fn a_reader_anywhere_has_the_fetch_go_where_it_reads() {
    each_way(|stage| {
        let plain = stage.create("/download", "b");
        let refused = plain.open_random_access().map(|_| ());
        assert!(not_now(refused).contains("random access"));
        // Only a read can bring what lies beyond the hold: the first connection never gets there.
        stage.server.hold_between(LENGTH / 4, LENGTH / 2);
        let mut downloader = stage.downloader();
        downloader.set_random_access_required(true);
        let url = stage.server.url("/random");
        let download = downloader.create_download(&url, stage.file("a")).unwrap();
        assert!(download.is_random_access_required());
        let mut reader = download.open_random_access().unwrap();
        download.start().unwrap();
        let length = reader.seek(SeekFrom::End(-1000)).unwrap() + 1000;
        assert_eq!(length, LENGTH as u64);
        let mut tail = Vec::new();
        reader.read_to_end(&mut tail).unwrap();
        assert!(tail == stage.server.content()[LENGTH - 1000..]);
        let ranges = download.downloaded_ranges().unwrap();
        let there: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        assert!(there < length && ranges.last().unwrap().end == length, "{ranges:?}");
        assert!(reader.seek(SeekFrom::Start(10)).is_ok());
        assert_eq!(reader.seek(SeekFrom::Current(-4)).unwrap(), 6);
        let mut few = [0; 4];
        reader.read_exact(&mut few).unwrap();
        assert_eq!(few, stage.server.content()[6..10]);
        let before = reader.seek(SeekFrom::Current(-100)).unwrap_err();
        assert_eq!(before.kind(), io::ErrorKind::InvalidInput);
        stage.server.release();
        assert_eq!(download.wait().unwrap().status, TransferStatus::Completed);
        stage.assert_whole("a");
    });
}

#[test]
fn ranges_are_told_once_each_and_are_the_whole_in_the_end() {
    each_way(|stage| {
        stage.server.hold_at(LENGTH / 2);
        let download = stage.create("/download", "a");
        download.start().unwrap();
        let mut there = 0;
        for event in download.ranges_downloaded() {
            assert!(!event.was_restarted);
            for range in event.added {
                assert_eq!(range.start, there);
                there = range.end;
            }
            if there == (LENGTH / 2) as u64 {
                stage.server.release();
            }
        }
        assert_eq!(there, LENGTH as u64);
        let ranges = download.downloaded_ranges().unwrap();
        assert_eq!((ranges.len(), ranges[0].clone()), (1, 0..LENGTH as u64));
    });
}

/// Cannot be read.
struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("it is broken"))
    }
}

#[test]
fn a_body_is_sent_along_from_a_file_or_from_whatever_can_be_read() {
    each_way(|stage| {
        let url = stage.server.url("/echo");
        let body = stage.place.state().with_file_name("body");
        fs::write(&body, b"from a file").unwrap();
        let refused = stage
            .downloader()
            .create_download_with_body_file(&url, stage.file("a"), &body);
        assert!(
            matches!(&refused, Err(Error::Invalid { field, .. }) if field == "body"),
            "{refused:?}"
        );
        let mut downloader = stage.downloader();
        let none = downloader.set_method("NO METHOD").map(|_| ());
        assert!(
            matches!(&none, Err(Error::Invalid { field, .. }) if field == "method"),
            "{none:?}"
        );
        downloader.set_method("POST").unwrap();
        let file = downloader
            .create_download_with_body_file(&url, stage.file("a"), &body)
            .unwrap();
        assert_eq!(file.method().as_str(), "POST");
        file.start().unwrap();
        assert_eq!(file.wait().unwrap().status, TransferStatus::Completed);
        assert_eq!(fs::read(stage.file("a")).unwrap(), b"from a file");
        let response = file.response().unwrap().unwrap();
        assert_eq!(response.header("x-echo"), Some("yes"));
        let long = vec![b'x'; 1_000_000];
        let stream = downloader.create_download_with_body(&url, stage.file("b"), &long[..]);
        let stream = stream.unwrap();
        stream.start().unwrap();
        assert_eq!(stream.wait().unwrap().status, TransferStatus::Completed);
        assert!(fs::read(stage.file("b")).unwrap() == long);
        let failing = Read::chain(&long[..], Failing);
        let failed = downloader.create_download_with_body(&url, stage.file("c"), failing);
        assert!(
            matches!(&failed, Err(Error::Io(tried, ..)) if tried == "read"),
            "{failed:?}"
        );
    });
}

#[test]
fn a_group_is_found_by_its_name_hides_its_downloads_and_stays_until_it_is_removed() {
    each_way(|stage| {
        let group = BackgroundTransferGroup::create_group(&stage.service, "maps").unwrap();
        assert_eq!(group.transfer_behavior().unwrap(), TransferBehavior::Parallel);
        group.set_transfer_behavior(TransferBehavior::Serialized).unwrap();
        let again = BackgroundTransferGroup::create_group(&stage.service, "maps").unwrap();
        assert_eq!(again.transfer_behavior().unwrap(), TransferBehavior::Serialized);
        let mut downloader = stage.downloader();
        downloader.set_transfer_group(&group);
        let url = stage.server.url("/download?1");
        let member = downloader.create_download(&url, stage.file("a")).unwrap();
        assert_eq!(
            (member.group(), member.transfer_group().unwrap().name()),
            (Some("maps"), "maps")
        );
        downloader.set_group(Some("other"));
        let url = stage.server.url("/download?2");
        let other = downloader.create_download(&url, stage.file("b")).unwrap();
        let names = |groups: Vec<BackgroundTransferGroup>| {
            groups.iter().map(|group| group.name().to_owned()).collect::<Vec<_>>()
        };
        let groups = || names(BackgroundTransferGroup::groups(&stage.service).unwrap());
        assert_eq!(groups(), ["maps", "other"]);
        let found = BackgroundDownloader::current_downloads_for_group(&stage.service, &group).unwrap();
        assert_eq!(found, std::slice::from_ref(&member));
        assert_eq!(BackgroundDownloader::current_downloads(&stage.service).unwrap(), []);
        let all = BackgroundDownloader::all_downloads(&stage.service).unwrap();
        assert_eq!(all, [member.clone(), other]);
        let in_use = group.remove();
        assert!(
            matches!(in_use, Err(Error::GroupInUse { live_members: 1, .. })),
            "{in_use:?}"
        );
        member.cancel().unwrap();
        member.wait().unwrap();
        group.remove().unwrap();
        assert_eq!(groups(), ["other"]);
        let gone = group.set_transfer_behavior(TransferBehavior::Parallel);
        assert!(matches!(gone, Err(Error::UnknownGroup { .. })), "{gone:?}");
        let gone = group.transfer_behavior();
        assert!(matches!(gone, Err(Error::UnknownGroup { .. })), "{gone:?}");
        let nameless = BackgroundTransferGroup::create_group(&stage.service, "");
        assert!(
            matches!(&nameless, Err(Error::Invalid { field, .. }) if field == "group"),
            "{nameless:?}"
        );
    });
}

#[test]
fn a_completion_group_is_sealed_once_and_fires_when_all_have_ended() {
    each_way(|stage| {
        let group =
            BackgroundTransferCompletionGroup::new(&stage.service, Some("set"), &CompletionAction::Event).unwrap();
        let early = group.wait_timeout(Duration::ZERO);
        assert!(matches!(early, Err(Error::CompletionGroupNotNow { .. })), "{early:?}");
        let downloader = BackgroundDownloader::with_completion_group(&stage.service, &group);
        let create = |path: &str, name: &str| downloader.create_download(&stage.server.url(path), stage.file(name));
        stage.server.hold_at(LENGTH / 2);
        let good = create("/download", "a").unwrap();
        let bad = create("/missing", "b").unwrap();
        assert_eq!(good.completion_group(), Some(group.id()));
        assert!(!group.is_enabled().unwrap());
        group.enable().unwrap();
        assert!(group.is_enabled().unwrap());
        let twice = group.enable();
        assert!(matches!(twice, Err(Error::CompletionGroupNotNow { .. })), "{twice:?}");
        let late = create("/download?late", "c");
        assert!(matches!(late, Err(Error::CompletionGroupNotNow { .. })), "{late:?}");
        good.start().unwrap();
        bad.start().unwrap();
        bad.wait().unwrap();
        assert_eq!(group.view().unwrap().state, CompletionState::Sealed { remaining: 1 });
        assert_eq!(group.wait_timeout(Duration::ZERO).unwrap(), None);
        let early = group.acknowledge();
        assert!(matches!(early, Err(Error::CompletionGroupNotNow { .. })), "{early:?}");
        stage.server.release();
        let fired = group.wait().unwrap();
        assert_eq!(fired.state, CompletionState::Fired);
        assert_eq!(fired.name.as_deref(), Some("set"));
        let members = BackgroundDownloader::downloads_of_completion_group(&stage.service, &group).unwrap();
        assert_eq!(members, [good, bad]);
        let found = BackgroundTransferCompletionGroup::completion_groups(&stage.service).unwrap();
        assert_eq!(found.len(), 1);
        found[0].acknowledge().unwrap();
        assert_eq!(group.view().unwrap().state, CompletionState::Done);
        group.remove().unwrap();
        let gone = BackgroundTransferCompletionGroup::find(&stage.service, group.id());
        assert!(
            matches!(gone, Err(Error::UnknownCompletionGroup(id)) if id == group.id()),
            "{gone:?}"
        );
    });
}

#[test]
fn the_command_of_a_completion_group_finds_how_each_download_ended() {
    each_way(|stage| {
        let report = stage.place.state().with_file_name("report");
        let script = format!("cat > '{0}.new' && mv '{0}.new' '{0}'", report.display());
        let command = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
        let action = CompletionAction::Command(command);
        let group = BackgroundTransferCompletionGroup::new(&stage.service, None, &action).unwrap();
        let downloader = BackgroundDownloader::with_completion_group(&stage.service, &group);
        let create = |path: &str, name: &str| {
            let download = downloader
                .create_download(&stage.server.url(path), stage.file(name))
                .unwrap();
            download.start().unwrap();
            download
        };
        let (good, bad) = (create("/download", "a"), create("/missing", "b"));
        group.enable().unwrap();
        group.wait().unwrap();
        let text = until("the command to have run", || fs::read(&report).ok());
        let report: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(report["completion_group"]["id"], group.id().to_string());
        let downloads = report["downloads"].as_array().unwrap();
        let told = |index: usize| {
            (
                downloads[index]["id"].as_str().unwrap(),
                downloads[index]["status"].as_str().unwrap(),
            )
        };
        assert_eq!(told(0), (good.id().to_string().as_str(), "Completed"));
        assert_eq!(told(1), (bad.id().to_string().as_str(), "Error"));
        assert_eq!(downloads[1]["error"]["status"], "NotFound");
        until("the group to be done", || {
            (group.view().unwrap().state == CompletionState::Done).then_some(())
        });
    });
}

#[test]
fn whoever_reads_is_told_that_the_download_began_again_with_another_file() {
    each_way(|stage| {
        let mut downloader = stage.downloader();
        downloader.set_random_access_required(true);
        let url = stage.server.url("/changing");
        let download = downloader.create_download(&url, stage.file("a")).unwrap();
        stage.server.hold_at(LENGTH / 2);
        download.start().unwrap();
        let (mut stream, mut reader) = (download.result_stream_at(0), download.open_random_access().unwrap());
        let mut few = [0; 8];
        stream.read_exact(&mut few).unwrap();
        reader.read_exact(&mut few).unwrap();
        let mut events = download.ranges_downloaded();
        assert!(!events.next().unwrap().was_restarted);
        received(&download, LENGTH / 2);
        download.pause().unwrap();
        let changed = stage.server.change();
        stage.server.release();
        download.resume().unwrap();
        let done = download.wait().unwrap();
        assert_eq!((done.status, done.restarts), (TransferStatus::Completed, 1));
        for _ in 0..2 {
            let error = stream.read(&mut few).unwrap_err();
            assert_eq!(
                error.kind(),
                io::ErrorKind::InvalidData,
                "a stream stays with the file it has begun"
            );
        }
        let error = reader.read(&mut few).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(reader.stream_position().unwrap(), 8);
        reader.read_exact(&mut few).unwrap();
        assert_eq!(few, changed[8..16]);
        let restarted: Vec<bool> = events.map(|event| event.was_restarted).collect();
        assert_eq!(
            restarted.iter().filter(|restarted| **restarted).count(),
            1,
            "{restarted:?}"
        );
        support::assert_same(&stage.file("a"), changed);
    });
}

/// Nobody may read it.
struct Untouched;

impl Read for Untouched {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic!("it was read");
    }
}

#[test]
fn a_reader_is_not_read_for_a_download_that_would_be_refused() {
    each_way(|stage| {
        let url = stage.server.url("/echo");
        fs::write(stage.file("there"), b"x").unwrap();
        let mut downloader = stage.downloader();
        let get = downloader.create_download_with_body(&url, stage.file("a"), Untouched);
        assert!(
            matches!(&get, Err(Error::Invalid { field, .. }) if field == "body"),
            "{get:?}"
        );
        downloader.set_method("POST").unwrap();
        let live = downloader.create_download(&url, stage.file("live")).unwrap();
        let refusals = [
            downloader.create_download_with_body(&url, stage.file("there"), Untouched),
            downloader.create_download_with_body("odd://host/", stage.file("a"), Untouched),
            downloader.create_download_with_body(&url, stage.file("none/a"), Untouched),
            downloader.create_download_with_body(&url, stage.file("live"), Untouched),
        ];
        let [there, scheme, directory, taken] = refusals.map(Result::unwrap_err);
        assert!(matches!(there, Error::DestinationExists(_)), "{there:?}");
        assert!(matches!(scheme, Error::Invalid { .. }), "{scheme:?}");
        assert!(matches!(directory, Error::Invalid { .. }), "{directory:?}");
        assert!(
            matches!(taken, Error::Conflict { id, .. } if id == live.id()),
            "{taken:?}"
        );
        let all = BackgroundDownloader::all_downloads(&stage.service).unwrap();
        assert_eq!(all.len(), 1, "a check has created something");
        let created = downloader.create_download_with_body(&url, stage.file("a"), &b"body"[..]);
        created.unwrap();
    });
}

#[test]
fn a_monitor_reports_progress_no_more_often_than_was_asked_for() {
    each_way(|stage| {
        stage.server.hold_at(1000);
        let download = stage.create("/download", "a");
        let mut monitor = stage.service.monitor(&backhaul::Filter::default(), None).unwrap();
        download.start().unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(1);
        let mut updates = 0;
        while std::time::Instant::now() < end {
            updates += u32::from(monitor.next_within(Some(Duration::from_millis(100))).unwrap().is_some());
        }
        stage.server.release();
        assert!(updates < 60, "{updates} updates in a second");
    });
}

#[test]
fn the_longest_time_there_is_may_be_waited() {
    each_way(|stage| {
        let download = stage.create("/download", "a");
        download.start().unwrap();
        assert!(download.wait_timeout(Duration::MAX).unwrap().is_some());
        let mut monitor = stage.service.monitor(&backhaul::Filter::default(), None).unwrap();
        assert!(monitor.next_within(Some(Duration::MAX)).unwrap().is_some());
    });
}

#[test]
fn an_end_is_told_however_much_else_has_changed_meanwhile() {
    each_way(|stage| {
        let watched = stage.create("/download?0", "a");
        let mut progress = watched.progress();
        assert_eq!(
            progress.next().map(|progress| progress.status),
            Some(TransferStatus::Idle)
        );
        assert_eq!(watched.progress().next().unwrap().status, TransferStatus::Idle);
        // The look on begins with the second look.
        let mut monitor = stage.service.monitor_ids(&[watched.id()], None).unwrap();
        while !monitor.next().unwrap().unwrap().caught_up {}
        for round in 0..4 {
            let others = (0..600).map(|number| backhaul::NewDownload {
                url: stage.server.url(&format!("/download?{round}-{number}")),
                destination: stage.file(&format!("{round}-{number}")),
                hold: true,
                ..backhaul::NewDownload::default()
            });
            let others: Vec<_> = others.collect();
            stage.service.create(&others).unwrap();
        }
        watched.cancel().unwrap();
        let time = Some(Duration::from_secs(5));
        let mut told = std::iter::from_fn(|| monitor.next_within(time).unwrap());
        assert!(told.any(|update| update.operations.iter().any(backhaul::OperationView::has_ended)));
        assert_eq!(
            progress.last().map(|progress| progress.status),
            Some(TransferStatus::Canceled)
        );
    });
}

#[test]
fn those_who_wait_for_bytes_hold_up_no_call() {
    each_way(|stage| {
        if !stage.service.is_remote() {
            return;
        }
        let download = stage.create("/download", "a");
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    let mut stream = download.result_stream_at(0);
                    stream.set_read_timeout(Some(Duration::from_secs(2)));
                    let _ = stream.read(&mut [0; 16]);
                });
            }
            // Whoever is in the way is so for seconds: 16 threads take 4 s for 64 waits of 1 s.
            let started = std::time::Instant::now();
            while started.elapsed() < Duration::from_secs(1) {
                let asked = std::time::Instant::now();
                download.view().unwrap();
                assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
            }
        });
    });
}
