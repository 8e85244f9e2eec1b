//! Where the daemon stands, and who may come in.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;

use serde_json::json;

use super::support::{Home, left_out, names_in};
use super::{Client, Lab, STRANGER, as_stranger, is_root, run_as, run_as_stranger};

#[test]
fn a_socket_path_that_cannot_be_taken_is_refused_by_name() {
    let lab = Lab::new();
    let regular = lab.home.path().join("regular");
    fs::write(&regular, "precious").unwrap();
    let taken = lab.home.path().join("taken");
    let listener = UnixListener::bind(&taken).unwrap();
    let long = lab.home.path().join("n".repeat(120));
    let cases = [
        (&regular, "no socket"),
        (&taken, "another process listens on it"),
        (&long, "1 to 107"),
    ];
    for (path, problem) in cases {
        let ended = lab
            .home
            .run(&["--socket", path.to_str().unwrap(), "daemon"])
            .expect_code(2);
        assert!(
            ended.stderr.contains("socket '") && ended.stderr.contains(problem),
            "{}",
            ended.stderr
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    assert_eq!(fs::read(&regular).unwrap(), b"precious");
    assert!(fs::symlink_metadata(&taken).unwrap().file_type().is_socket());
    drop(listener);
    // Nobody listens there any more.
    let mut command = lab.home.command(&["--socket", taken.to_str().unwrap(), "daemon"]);
    let daemon = super::Daemon::spawn(&mut command, &lab.log());
    super::until("the daemon to listen", || {
        std::os::unix::net::UnixStream::connect(&taken).ok()
    });
    assert_eq!(daemon.stop(), "");
}

#[test]
fn the_socket_is_its_owners_alone() {
    let lab = Lab::new();
    let daemon = lab.start(&[]);
    let metadata = fs::symlink_metadata(lab.socket()).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o600);
    daemon.stop();
}

#[test]
fn a_stranger_is_refused_by_the_mode_and_behind_it_by_the_daemon() {
    if !is_root() {
        left_out("want of root: only root can act as somebody else");
        return;
    }
    let lab = Lab::new();
    let daemon = lab.start(&[]);
    let socket = lab.socket();
    let watch = [
        "--state-dir",
        "elsewhere",
        "--socket",
        socket.to_str().unwrap(),
        "watch",
    ];
    // Not let in: to the stranger there is no engine.
    run_as_stranger(&lab.home, &watch).expect_code(9);
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let ended = run_as_stranger(&lab.home, &watch);
    assert_ne!(ended.code(), Some(0));
    assert!(
        ended.stderr.contains("only root and the user of this service may"),
        "{}",
        ended.stderr
    );
    // The owner is served all the same.
    Client::connect(&socket).call("Describe", &json!({}));
    daemon.stop();
}

#[test]
fn the_state_of_another_user_is_refused_by_name_and_untouched() {
    if !is_root() {
        left_out("want of root: only root can act as somebody else");
        return;
    }
    let home = Home::new();
    fs::create_dir(home.state()).unwrap();
    fs::set_permissions(home.state(), fs::Permissions::from_mode(0o755)).unwrap();
    let state = home.state();
    let socket = home.path().join("socket");
    let words = [
        "--state-dir",
        state.to_str().unwrap(),
        "--socket",
        socket.to_str().unwrap(),
        "daemon",
    ];
    let ended = run_as_stranger(&home, &words).expect_code(6);
    assert!(ended.stderr.contains(state.to_str().unwrap()), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
    assert!(!socket.exists());
}

#[test]
fn root_leaves_nothing_behind_that_the_user_who_works_there_cannot_open() {
    if !is_root() {
        left_out("want of root: only root can act as somebody else");
        return;
    }
    let home = Home::new();
    let (state, owner) = (home.state(), STRANGER.parse().ok());
    fs::create_dir(&state).unwrap();
    for directory in [&state, &home.downloads()] {
        chown(directory, owner, owner).unwrap();
    }
    let add = |name: &str| {
        let (url, path) = (format!("http://127.0.0.1:9/{name}"), home.download(name));
        let words = ["add", "--hold", &url, "-o", path.to_str().unwrap()];
        words.map(str::to_owned).to_vec()
    };
    let stranger = as_stranger(&home);
    let as_owner = |name: &str| {
        let words = [vec!["--state-dir".to_owned(), state.display().to_string()], add(name)].concat();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        run_as(&home, &stranger, &words).expect_code(0);
    };
    as_owner("a");
    let before = names_in(&state.join("journal"));
    for words in [
        add("b"),
        vec!["run".into(), "--until-idle".into()],
        vec!["daemon".into()],
    ] {
        let ended = home.run(&words).expect_code(2);
        for word in ["state-dir", state.to_str().unwrap(), STRANGER] {
            assert!(ended.stderr.contains(word), "{words:?}: no {word}: {}", ended.stderr);
        }
    }
    assert_eq!(names_in(&state.join("journal")), before);
    // To look does no harm.
    assert_eq!(home.listing().len(), 1);
    as_owner("c");
    assert_eq!(home.listing().len(), 2);
}

#[test]
fn where_the_name_of_a_new_state_directory_cannot_be_made_to_last_nothing_is_made_and_the_way_out_is_named() {
    if !is_root() {
        left_out("want of root: only root can act as somebody else");
        return;
    }
    let home = Home::new();
    let (above, files) = (home.path().join("drop"), home.path().join("files"));
    let owner = STRANGER.parse().ok();
    for (directory, mode) in [(&above, 0o300), (&files, 0o700)] {
        fs::create_dir(directory).unwrap();
        chown(directory, owner, owner).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
    }
    let destination = files.join("a");
    let socket = home.path().join("socket");
    let get = ["get", "http://127.0.0.1:1/a", "-o", destination.to_str().unwrap()];
    let add = [
        "add",
        "--hold",
        "http://127.0.0.1:1/a",
        "-o",
        destination.to_str().unwrap(),
    ];
    let daemon = ["--socket", socket.to_str().unwrap(), "daemon"];
    for state in [above.join("state"), above.join("one/two/state")] {
        let first = above.join(state.strip_prefix(&above).unwrap().iter().next().unwrap());
        // A second start must not rely on what a first one has left.
        for words in [&get[..], &get, &add, &daemon] {
            let words = [&["--state-dir", state.to_str().unwrap()], words].concat();
            let ended = run_as_stranger(&home, &words).expect_code(6);
            let told = format!("cannot make a directory in '{}': Permission denied", above.display());
            assert!(ended.stderr.contains(&told), "{}", ended.stderr);
            let told = format!("or make '{}' by hand", first.display());
            assert!(ended.stderr.contains(&told), "{}", ended.stderr);
            assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
            assert_eq!(fs::read_dir(&above).unwrap().count(), 0, "{words:?}");
        }
    }
    let state = above.join("state");
    fs::create_dir(&state).unwrap();
    chown(&state, owner, owner).unwrap();
    let state = ["--state-dir", state.to_str().unwrap()];
    run_as_stranger(&home, &[&state, &add[..]].concat()).expect_code(0);
    let ended = run_as_stranger(&home, &[&state, &["list"][..]].concat()).expect_code(0);
    assert!(ended.stdout.contains(destination.to_str().unwrap()), "{}", ended.stdout);
}
