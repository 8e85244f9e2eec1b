//! The real command through proxies that nobody here wrote: squid, tinyproxy and microsocks; and through some that lie.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
#[path = "../support/mod.rs"]
mod support;

#[expect(dead_code, reason = "these tests need a part of what it can do")]
#[path = "../../backends/tests/ftp/server.rs"]
mod ftp_server;

mod by_name;
mod ftp;
mod library;
mod life;
mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{Kind, PASSWORD, Program, USER};
use support::nginx::Nginx;
use support::{Ended, Home, Running, assert_same, names_in};

/// An origin, plain and secure, with one file; and a place to fetch it to.
struct World {
    nginx: Nginx,
    home: Home,
    bytes: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let nginx = Nginx::start_tls();
        let bytes = nginx.put_seeded("a.bin", 300_000);
        Self {
            nginx,
            home: Home::new(),
            bytes,
        }
    }

    /// The port of the secure origin.
    fn secure(&self) -> u16 {
        port_of(&self.nginx.tls_url("valid", ""))
    }

    fn urls(&self) -> [String; 2] {
        [self.nginx.url("/a.bin"), self.nginx.tls_url("valid", "/a.bin")]
    }

    fn destination(&self) -> PathBuf {
        self.home.download("a.bin")
    }

    /// A `get` of this URL, with options, into [`World::destination`].
    fn get(&self, url: &str, options: &[&str]) -> Command {
        let bundle = self.nginx.ca_file();
        let destination = self.destination();
        let mut words = vec!["--ca-bundle", bundle.to_str().unwrap(), "get", url, "-o"];
        words.push(destination.to_str().unwrap());
        words.extend_from_slice(options);
        let mut command = self.home.command(&words);
        command.env("BACKHAUL_LOG", "trace");
        command
    }

    fn fetched(&self, url: &str, options: &[&str]) -> Ended {
        let ended = Running::spawn(&mut self.get(url, options)).finish().expect_code(0);
        assert_same(&self.destination(), &self.bytes);
        fs::remove_file(self.destination()).unwrap();
        ended
    }

    /// Fails for good, with this error.
    fn failed(&self, url: &str, options: &[&str], status: &str) -> Ended {
        let ended = Running::spawn(&mut self.get(url, options)).finish().expect_code(1);
        assert!(ended.stderr.contains(status), "{}", ended.stderr);
        assert!(names_in(&self.home.downloads()).is_empty());
        ended
    }

    /// The password stands in no file of the state directory, and in nothing that was said.
    fn assert_quiet(&self, said: &[Ended]) {
        for ended in said {
            for text in [&ended.stdout, &ended.stderr] {
                assert!(!text.contains(PASSWORD), "{text}");
            }
        }
        assert_nowhere(&self.home.state(), PASSWORD.as_bytes());
        assert_nowhere(&self.home.state(), base64_of_login().as_bytes());
    }
}

fn port_of(url: &str) -> u16 {
    url.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// As Basic has it.
fn base64_of_login() -> String {
    data_encoding::BASE64.encode(format!("{USER}:{PASSWORD}").as_bytes())
}

fn assert_nowhere(folder: &Path, wanted: &[u8]) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_nowhere(&path, wanted);
        } else if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let is_there = bytes.windows(wanted.len()).any(|window| window == wanted);
            assert!(!is_there, "{} has the password", path.display());
        }
    }
}

/// With the right password both origins are reached, and with a wrong one or none neither is.
fn only_the_right_password_opens(kind: Kind, scheme: &str) {
    let world = World::new();
    let proxy = Program::closed(kind, world.secure());
    let right = proxy.url(scheme, &format!("{USER}:{PASSWORD}"));
    let wrong = proxy.url(scheme, &format!("{USER}:{PASSWORD}x"));
    let none = proxy.url(scheme, "");
    let mut said = Vec::new();
    for url in world.urls() {
        said.push(world.fetched(&url, &["--proxy", &right]));
        for refused in [&wrong, &none] {
            // tinyproxy says of a wrong password what only a server may say.
            let is_odd = kind == Kind::Tinyproxy && refused == &wrong && url.starts_with("http:");
            let status = if is_odd {
                "Unauthorized"
            } else {
                "ProxyAuthenticationRequired"
            };
            let ended = world.failed(&url, &["--proxy", refused], status);
            let named = format!("the proxy {}", proxy.url(scheme, ""));
            assert!(ended.stderr.contains(&named), "{}", ended.stderr);
            said.push(ended);
        }
    }
    for shown in world.home.listing() {
        assert_eq!(shown["proxy"], proxy.url(scheme, "").as_str());
    }
    said.push(world.home.run(&["list"]));
    said.push(world.home.run(&["explain"]));
    said.push(world.home.run(&["journal", "dump"]));
    world.assert_quiet(&said);
    let served = world.nginx.served();
    assert_eq!(served.len(), 2, "{served:?}");
    assert!(
        served.iter().all(|served| served.authorization.is_empty()),
        "{served:?}"
    );
}

#[test]
fn squid_lets_in_who_knows_the_password() {
    only_the_right_password_opens(Kind::Squid, "http");
}

#[test]
fn tinyproxy_lets_in_who_knows_the_password() {
    only_the_right_password_opens(Kind::Tinyproxy, "http");
}

#[test]
fn microsocks_lets_in_who_knows_the_password() {
    only_the_right_password_opens(Kind::Microsocks, "socks5");
    only_the_right_password_opens(Kind::Microsocks, "socks5h");
}

#[test]
fn proxies_for_everybody_ask_for_nothing() {
    for (kind, schemes) in [
        (Kind::Squid, &["http"][..]),
        (Kind::Tinyproxy, &["http"]),
        (Kind::Microsocks, &["socks5", "socks5h"]),
    ] {
        let world = World::new();
        let proxy = Program::open(kind, world.secure());
        for scheme in schemes {
            for url in world.urls() {
                world.fetched(&url, &["--proxy", &proxy.url(scheme, "")]);
                world.fetched(&url, &["--proxy", &proxy.url(scheme, &format!("{USER}:{PASSWORD}"))]);
            }
        }
    }
}

#[test]
fn plain_http_opens_no_tunnel_and_a_tunnel_that_is_not_allowed_says_so() {
    let world = World::new();
    // The only port for tunnels is that of nobody.
    let proxy = Program::open(Kind::Squid, 1);
    let url = proxy.url("http", "");
    let [plain, secure] = world.urls();
    world.fetched(&plain, &["--proxy", &url]);
    let ended = world.failed(&secure, &["--proxy", &url], "Forbidden");
    assert!(
        ended.stderr.contains(&format!("the proxy {url}: it answered 403")),
        "{}",
        ended.stderr
    );
    let log = proxy.log();
    assert!(log.contains(&format!("GET {plain} 200")), "{log}");
    assert!(
        !log.contains(&format!("CONNECT {}", plain.split('/').nth(2).unwrap())),
        "{log}"
    );
}

/// Whether a `get` in an environment went through the proxy, which serves plain http alone.
fn goes_through(world: &World, proxy: &Program, set: &[(&str, String)], options: &[&str]) -> bool {
    let before = proxy.log().matches("GET http://").count();
    let mut command = world.get(&world.nginx.url("/a.bin"), options);
    command.envs(set.iter().map(|(name, value)| (name, value)));
    Running::spawn(&mut command).finish().expect_code(0);
    assert_same(&world.destination(), &world.bytes);
    fs::remove_file(world.destination()).unwrap();
    proxy.log().matches("GET http://").count() > before
}

#[test]
fn the_environment_counts_where_the_command_says_nothing() {
    let world = World::new();
    let proxy = Program::closed(Kind::Tinyproxy, 1);
    let url = || proxy.url("http", &format!("{USER}:{PASSWORD}"));
    let own = url();
    for (set, options, expected) in [
        (vec![], vec![], false),
        (vec![("http_proxy", url())], vec![], true),
        (vec![("HTTP_PROXY", url())], vec![], false),
        (vec![("all_proxy", url())], vec![], true),
        (vec![("ALL_PROXY", url())], vec![], true),
        (vec![("https_proxy", url())], vec![], false),
        (
            vec![("http_proxy", url()), ("no_proxy", "127.0.0.0/8".into())],
            vec![],
            false,
        ),
        (
            vec![("http_proxy", url()), ("NO_PROXY", "localhost,*".into())],
            vec![],
            false,
        ),
        (
            vec![("http_proxy", url()), ("no_proxy", "example.com".into())],
            vec![],
            true,
        ),
        (vec![("http_proxy", url())], vec!["--proxy", "direct"], false),
        (vec![("http_proxy", url())], vec!["--proxy", "default"], true),
        (vec![("no_proxy", "*".into())], vec!["--proxy", &own], true),
    ] {
        assert_eq!(
            goes_through(&world, &proxy, &set, &options),
            expected,
            "{set:?} {options:?}"
        );
    }
    world.assert_quiet(&[world.home.run(&["list", "--json"])]);
}

#[test]
fn a_variable_or_an_option_that_cannot_be_used_is_refused_by_name() {
    let world = World::new();
    let url = world.nginx.url("/a.bin");
    let bad = format!("https://{USER}:{PASSWORD}@127.0.0.1:1");
    let mut command = world.get(&url, &[]);
    let by_variable = Running::spawn(command.env("http_proxy", &bad)).finish().expect_code(2);
    assert!(by_variable.stderr.contains("http_proxy"), "{}", by_variable.stderr);
    let by_option = Running::spawn(&mut world.get(&url, &["--proxy", &bad]))
        .finish()
        .expect_code(2);
    assert!(
        by_option.stderr.contains("proxy 'https://***@127.0.0.1:1'"),
        "{}",
        by_option.stderr
    );
    for ended in [by_variable, by_option] {
        assert!(!ended.stderr.contains(PASSWORD), "{}", ended.stderr);
    }
    assert!(world.nginx.served().is_empty());
}
