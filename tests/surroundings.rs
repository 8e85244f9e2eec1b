//! What a service promises whatever becomes of the process around it: of its current directory, its handles, its executable.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod sample;
#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use backhaul::{BackgroundDownloader, Config, Error, Filter, GroupFilter, Proxies, Service, TransferStatus};
use sample::{Place, Sample};

/// A file of this name in its directory asks one of these tests to do its part.
const PART: &str = "BACKHAUL_TEST_PART";
const TIME: Duration = Duration::from_secs(60);

fn open(state: &Path) -> Service {
    let config = Config {
        // Whatever the environment of the tests says.
        proxies: Some(Proxies::direct()),
        ..Config::default()
    };
    Service::open_with(state, config).unwrap()
}

fn field_of<T>(result: Result<T, Error>) -> String {
    match result.map(|_| ()) {
        Err(Error::Invalid { field, .. }) => field.into_owned(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Runs one of the tests below in a process of its own; says how that ended.
fn in_a_process_of_its_own(executable: &Path, test: &str, directory: &Path) {
    let output = Command::new(executable)
        .args(["--exact", test, "--nocapture"])
        .env(PART, directory)
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_program_may_change_its_current_directory_after_it_has_opened_a_service() {
    let Some(directory) = std::env::var_os(PART) else {
        let place = Place::new();
        let test = "a_program_may_change_its_current_directory_after_it_has_opened_a_service";
        in_a_process_of_its_own(&std::env::current_exe().unwrap(), test, place.file("").as_path());
        return;
    };
    let server = Sample::start();
    let service = open(Path::new("state"));
    let serving = service.serve("socket").unwrap();
    let remote = Service::connect("socket").unwrap();
    std::env::set_current_dir("/").unwrap();
    for (number, service) in [&service, &remote].into_iter().enumerate() {
        let mut downloader = BackgroundDownloader::new(service);
        downloader.set_method("POST").unwrap();
        downloader.set_secret_request_header("X-Secret", "kept sealed").unwrap();
        let file = Path::new(&directory).join(number.to_string());
        let url = server.url(&format!("/echo?{number}"));
        let download = downloader
            .create_download_with_body(&url, &file, &b"kept until it is sent"[..])
            .unwrap();
        download.start().unwrap();
        let view = download.wait().unwrap();
        assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        assert_eq!(fs::read(file).unwrap(), b"kept until it is sent");
    }
    drop((remote, serving));
}

#[test]
fn an_engine_works_as_long_as_its_service_or_what_serves_that_is_there() {
    let (server, place) = (Sample::start(), Place::new());
    let serving = open(&place.state()).serve(place.socket()).unwrap();
    let remote = Service::connect(serving.socket()).unwrap();
    let downloader = BackgroundDownloader::new(&remote);
    let download = downloader
        .create_download(&server.url("/download"), place.file("a"))
        .unwrap();
    download.start().unwrap();
    let view = download.wait_timeout(TIME).unwrap();
    assert_eq!(view.map(|view| view.status), Some(TransferStatus::Completed));
    drop(serving);
    open(&place.state());
}

#[test]
fn whoever_looks_on_is_told_that_the_service_has_gone_and_holds_nothing_of_it() {
    let place = Place::new();
    let service = open(&place.state());
    let filter = Filter {
        app: None,
        group: GroupFilter::Any,
    };
    let [mut waiting, mut later] = [(); 2].map(|()| service.monitor(&filter, None).unwrap());
    assert!(
        waiting.next_within(Some(TIME)).unwrap().is_some(),
        "what there is comes first"
    );
    let thread = std::thread::spawn(move || waiting.next_within(None).map(|_| ()));
    drop(service);
    assert!(matches!(thread.join().unwrap(), Err(Error::Disconnected(_))));
    let _again = open(&place.state());
    assert!(matches!(later.next_within(None), Err(Error::Disconnected(_))));
}

#[test]
fn a_path_that_no_message_carries_is_refused_by_its_name_and_the_connection_stays() {
    let (server, place) = (Sample::start(), Place::new());
    let service = open(&place.state());
    let serving = service.serve(place.socket()).unwrap();
    let remote = Service::connect(serving.socket()).unwrap();
    let name = OsStr::from_bytes(b"a\xff");
    let (url, downloader) = (server.url("/download"), BackgroundDownloader::new(&remote));
    let refused = downloader.create_download(&url, place.file("").join(name));
    assert_eq!(field_of(refused), "destination");
    let mut posting = BackgroundDownloader::new(&remote);
    posting.set_method("POST").unwrap();
    let refused = posting.create_download_with_body_file(&url, place.file("a"), place.file("").join(name));
    assert_eq!(field_of(refused), "body");
    remote.describe().unwrap();
    let here = BackgroundDownloader::new(&service)
        .create_download(&url, place.file("").join(name))
        .unwrap();
    here.start().unwrap();
    assert_eq!(here.wait().unwrap().status, TransferStatus::Completed);
}

#[test]
fn a_credential_that_http_cannot_carry_is_refused_when_a_download_is_created() {
    let (server, place) = (Sample::start(), Place::new());
    let service = open(&place.state());
    let url = server.url("/download");
    let mut downloader = BackgroundDownloader::new(&service);
    let long = "p".repeat(4 * 1024);
    for (user, password) in [("us:er", "p"), ("user", "p\r\n"), ("us\0er", "p"), ("user", &long)] {
        downloader.set_server_credential(Some((user, password)));
        let refused = downloader.create_download(&url, place.file("a"));
        assert_eq!(field_of(refused), "server_credential", "{user:?}");
    }
    downloader.set_server_credential(None);
    let refused = downloader.create_download(&url.replacen("://", "://us%3Aer:p@", 1), place.file("a"));
    assert_eq!(field_of(refused), "url");
    downloader.set_server_credential(Some(("user", "p:q")));
    downloader.create_download(&url, place.file("a")).unwrap();
}

#[test]
fn an_app_without_a_name_is_the_executable_also_where_that_was_replaced_meanwhile() {
    let Some(directory) = std::env::var_os(PART) else {
        let (place, copy) = (Place::new(), Place::new());
        let agent = copy.file("agent");
        fs::copy(std::env::current_exe().unwrap(), &agent).unwrap();
        let test = "an_app_without_a_name_is_the_executable_also_where_that_was_replaced_meanwhile";
        in_a_process_of_its_own(&agent, test, place.file("").as_path());
        return;
    };
    let state = Path::new(&directory).join("state");
    assert_eq!(open(&state).app(), "agent");
    let executable = std::env::current_exe().unwrap();
    let newer = executable.with_extension("new");
    fs::copy(&executable, &newer).unwrap();
    fs::rename(newer, executable).unwrap();
    let service = open(&state);
    assert_eq!(service.app(), "agent");
    assert_eq!(service.with_app("").app(), "agent");
}
