//! FTP through proxies: the control connection and every data connection.

use std::fs;

use backhaul::WebErrorStatus;

use crate::ftp_server::{Data, File, Script, Server};
use crate::program::{Kind, PASSWORD, Program, USER};
use crate::support::Running;
use crate::{World, assert_same};

/// A password for the server; none of the proxy's business.
const LOGIN: &str = "ann:hush-ftp-1d";

/// A server whose first transfer is cut in the middle, and the URL of its file with a login in it.
fn cut_in_the_middle(world: &World) -> (Server, String) {
    let server = Server::start();
    let script = |data| Script {
        user: LOGIN.split_once(':').map(|(user, word)| (user.into(), word.into())),
        ..Script::data(data)
    };
    server.script(script(Data::CutAt(world.bytes.len() / 2)));
    server.script(script(Data::Whole));
    let url = server.put("/a.bin", File::new(world.bytes.clone()));
    (server, url.replacen("ftp://", &format!("ftp://{LOGIN}@"), 1))
}

#[test]
fn control_and_data_go_through_the_proxy_and_a_cut_transfer_is_continued_through_it() {
    for (kind, scheme) in [
        (Kind::Squid, "http"),
        (Kind::Tinyproxy, "http"),
        (Kind::Microsocks, "socks5"),
        (Kind::Microsocks, "socks5h"),
    ] {
        let world = World::new();
        let proxy = Program::closed_to_no_port(kind);
        let (server, url) = cut_in_the_middle(&world);
        let right = proxy.url(scheme, &format!("{USER}:{PASSWORD}"));
        let wrong = proxy.url(scheme, &format!("{USER}:{PASSWORD}x"));
        let refused = world.failed(
            &url,
            &["--proxy", &wrong],
            &WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED.to_string(),
        );
        assert_eq!(server.connections(), 0, "nothing goes past the proxy");
        let fetched = world.fetched(&url, &["--proxy", &right]);
        assert_eq!((server.connections(), server.data_connections()), (2, 2), "{kind:?}");
        let rest = server
            .commands()
            .into_iter()
            .find(|command| command.starts_with("2 REST "));
        assert_ne!(rest.as_deref(), Some("2 REST 0"), "{kind:?}");
        if kind != Kind::Microsocks {
            let tunnels = proxy.log().matches("CONNECT 127.0.0.1:").count();
            assert!(tunnels >= 4, "{tunnels} tunnels: {}", proxy.log());
        }
        world.assert_quiet(&[refused, fetched]);
    }
}

#[test]
fn the_variable_for_ftp_counts_for_ftp_alone_and_is_heeded_with_its_exceptions() {
    let world = World::new();
    let proxy = Program::closed_to_no_port(Kind::Tinyproxy);
    let server = Server::start();
    let url = server.put("/a.bin", File::new(world.bytes.clone()));
    let own = proxy.url("http", &format!("{USER}:{PASSWORD}"));
    for (set, expected) in [
        (vec![("ftp_proxy", own.as_str())], true),
        (vec![("all_proxy", &own)], true),
        (vec![("http_proxy", &own), ("https_proxy", &own)], false),
        (vec![("ftp_proxy", &own), ("no_proxy", "127.0.0.1")], false),
    ] {
        let before = proxy.log().matches("CONNECT ").count();
        let mut command = world.get(&url, &[]);
        command.envs(set.iter().copied());
        Running::spawn(&mut command).finish().expect_code(0);
        assert_same(&world.destination(), &world.bytes);
        fs::remove_file(world.destination()).unwrap();
        let went = proxy.log().matches("CONNECT ").count() > before;
        assert_eq!(
            went,
            expected,
            "{:?}",
            set.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
    }
}

#[test]
fn active_mode_through_a_proxy_is_refused_before_anything_is_opened() {
    let world = World::new();
    let proxy = Program::closed_to_no_port(Kind::Tinyproxy);
    let server = Server::start();
    let url = server.put("/a.bin", File::new(world.bytes.clone()));
    let through = proxy.url("http", &format!("{USER}:{PASSWORD}"));
    let ended = world.failed(&url, &["--proxy", &through, "--ftp-active"], "passive mode");
    assert_eq!(server.connections(), 0, "{}", ended.stderr);
}
