//! Each row is a text and what is made of it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;

fn proxy(text: &str) -> Proxy {
    Proxy::parse(text).unwrap()
}

fn named(user: &str, password: &str) -> Credential {
    let (user, password) = (user.to_owned(), password.to_owned());
    Credential { user, password }
}

#[test]
fn a_proxy_is_read_as_it_is_shown_with_the_port_of_its_scheme() {
    for (text, shown) in [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("HTTP://Proxy.Example:3128/", "http://proxy.example:3128"),
        ("http://proxy.example", "http://proxy.example:80"),
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("proxy", "http://proxy:80"),
        ("10.0.0.1:8080", "http://10.0.0.1:8080"),
        ("socks5://proxy", "socks5://proxy:1080"),
        ("socks5h://proxy:9050", "socks5h://proxy:9050"),
        ("http://[fd00::1]:3128", "http://[fd00::1]:3128"),
        ("socks5://[::1]", "socks5://[::1]:1080"),
        ("http://under_score.example:1", "http://under_score.example:1"),
    ] {
        assert_eq!(proxy(text).to_string(), shown, "{text}");
        assert_eq!(proxy(shown), proxy(text), "{text}");
    }
    assert_eq!(proxy("http://[::1]:1").host(), "::1");
}

#[test]
fn user_name_and_password_are_decoded_and_never_shown() {
    for (text, credential) in [
        ("http://proxy:1", None),
        ("http://user:hush@proxy:1", Some(named("user", "hush"))),
        ("user:hush@proxy:1", Some(named("user", "hush"))),
        ("http://user@proxy:1", Some(named("user", ""))),
        ("http://us%40er:hu%3Ash%2F@proxy:1", Some(named("us@er", "hu:sh/"))),
        ("http://user:hu:sh@proxy:1", Some(named("user", "hu:sh"))),
        ("http://user:hu@sh@proxy:1", Some(named("user", "hu@sh"))),
        ("socks5h://%C3%BCser:hush@proxy:1", Some(named("\u{fc}ser", "hush"))),
    ] {
        let proxy = proxy(text);
        assert_eq!(proxy.credential().cloned(), credential, "{text}");
        let shown = format!("{proxy} {proxy:?} {:?}", Proxies::all(proxy.clone()));
        assert!(!shown.contains("ser") && !shown.contains("sh"), "{shown}");
    }
    let (bare, credential) = proxy("http://user:hush@proxy:1").without_credential();
    assert_eq!((bare.credential(), credential), (None, Some(named("user", "hush"))));
}

#[test]
fn what_is_no_proxy_is_refused_in_words_that_show_no_password() {
    let long = format!("http://user:hush@{}", "x".repeat(PROXY_BYTES_MAX));
    let long_host = format!("http://user:hush@{}", "x".repeat(HOST_BYTES_MAX + 1));
    let long_password = format!("http://user:hush{}@proxy", "x".repeat(CREDENTIAL_BYTES_MAX));
    for (text, words) in [
        ("", "no host"),
        ("http://", "no host"),
        ("http://user:hush@", "no host"),
        ("https://user:hush@proxy:1", "over TLS"),
        ("socks4://user:hush@proxy", "version 5"),
        ("socks4a://user:hush@proxy", "version 5"),
        ("ftp://user:hush@proxy", "scheme is unknown"),
        ("user:hush://proxy", "scheme is unknown"),
        ("http://user:hush@proxy/path", "more than a host"),
        ("http://user:hu/sh@proxy", "more than a host"),
        ("http://user:hush@proxy?query", "more than a host"),
        ("http://user:hush@proxy:0", "the port"),
        ("http://user:hush@proxy:65536", "the port"),
        ("http://user:hush@proxy:+1", "the port"),
        ("http://user:hush@proxy:", "the port"),
        ("http://user:hush@::1", "names no host"),
        ("http://user:hush@fd00::1", "the port"),
        ("http://user:hush@[::1", "not closed"),
        ("http://user:hush@[proxy]:1", "no IPv6"),
        ("http://user:hush@[::1]1", "between"),
        ("http://user:hush@pro xy:1", "the host"),
        ("http://user:hush@b\u{fc}cher:1", "xn--"),
        ("http://user:hush@pro\r\nxy", "the host"),
        ("http://:hush@proxy", "user name is empty"),
        ("http://us%3Aer:hush@proxy", "colon"),
        ("http://user:hush%0A@proxy", "control character"),
        ("http://user:hush%@proxy", "percent"),
        ("http://user:hush%4@proxy", "percent"),
        ("http://user:hush%ff@proxy", "percent"),
        (&long, "longer than"),
        (&long_host, "the host"),
        (&long_password, "at most 255"),
    ] {
        let problem = Proxy::parse(text).unwrap_err();
        assert!(problem.contains(words), "{text}: {problem}");
        assert!(!problem.contains("hush"), "{text}: {problem}");
    }
}

/// Through which proxy each scheme goes, in an environment.
fn ways(set: &[(&str, &str)]) -> Vec<String> {
    let find = |name: &str| {
        let mut set = set.iter();
        set.find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
    };
    let proxies = Proxies::from_environment(find).unwrap();
    let way = |scheme: &&str| {
        let proxy = proxies.of(scheme, "host.example", 1);
        proxy.map_or("-".to_owned(), |proxy| proxy.host().to_owned())
    };
    ["http", "https", "ftp", "ftps", "other"].iter().map(way).collect()
}

/// Variables, and the proxies of five schemes.
type Row<'a> = (&'a [(&'a str, &'a str)], [&'a str; 5]);

#[test]
fn the_environment_says_which_scheme_goes_which_way() {
    let rows: &[Row] = &[
        (&[], ["-", "-", "-", "-", "-"]),
        (&[("http_proxy", "a")], ["a", "-", "-", "-", "-"]),
        (&[("HTTP_PROXY", "a")], ["-", "-", "-", "-", "-"]),
        (&[("HTTP_PROXY", "a"), ("http_proxy", "")], ["-", "-", "-", "-", "-"]),
        (&[("https_proxy", "a")], ["-", "a", "-", "-", "-"]),
        (&[("HTTPS_PROXY", "a")], ["-", "a", "-", "-", "-"]),
        (&[("https_proxy", "a"), ("HTTPS_PROXY", "b")], ["-", "a", "-", "-", "-"]),
        (&[("https_proxy", ""), ("HTTPS_PROXY", "b")], ["-", "b", "-", "-", "-"]),
        (&[("ftp_proxy", "a")], ["-", "-", "a", "a", "-"]),
        (&[("FTP_PROXY", "a")], ["-", "-", "a", "a", "-"]),
        (&[("all_proxy", "a")], ["a", "a", "a", "a", "a"]),
        (&[("ALL_PROXY", "socks5h://a")], ["a", "a", "a", "a", "a"]),
        (&[("all_proxy", "a"), ("http_proxy", "b")], ["b", "a", "a", "a", "a"]),
        (
            &[("all_proxy", "a"), ("no_proxy", "host.example")],
            ["-", "-", "-", "-", "-"],
        ),
        (&[("all_proxy", "a"), ("NO_PROXY", "*")], ["-", "-", "-", "-", "-"]),
        (
            &[("all_proxy", "a"), ("no_proxy", "other"), ("NO_PROXY", "*")],
            ["a", "a", "a", "a", "a"],
        ),
        (&[("all_proxy", " a "), ("no_proxy", "")], ["a", "a", "a", "a", "a"]),
    ];
    for (set, expected) in rows {
        assert_eq!(ways(set), *expected, "{set:?}");
    }
}

#[test]
fn a_variable_that_cannot_be_used_is_named_without_its_secrets() {
    for (name, value) in [
        ("http_proxy", "https://user:hush@proxy"),
        ("HTTPS_PROXY", "user:hush@:1"),
        ("all_proxy", "socks4://user:hush@proxy"),
        ("NO_PROXY", "10.0.0.0/33"),
    ] {
        let find = |own: &str| (own == name).then(|| value.to_owned());
        let problem = Proxies::from_environment(find).unwrap_err();
        assert!(problem.starts_with(&format!("{name}: ")), "{problem}");
        assert!(!problem.contains("hush"), "{problem}");
    }
}

#[test]
fn a_server_is_asked_without_a_proxy_where_the_list_has_it() {
    for (list, host, port, is_direct) in [
        ("", "example.com", 80, false),
        (" , ,", "example.com", 80, false),
        ("*", "example.com", 80, true),
        ("*", "::1", 80, true),
        ("a.example,*", "example.com", 80, true),
        ("example.com", "example.com", 80, true),
        ("example.com", "EXAMPLE.com.", 80, true),
        ("Example.COM.", "example.com", 80, true),
        ("example.com", "www.example.com", 80, true),
        ("example.com", "a.b.example.com", 80, true),
        (".example.com", "www.example.com", 80, true),
        (".example.com", "example.com", 80, true),
        ("*.example.com", "www.example.com", 80, true),
        ("example.com", "anexample.com", 80, false),
        ("example.com", "example.com.org", 80, false),
        ("www.example.com", "example.com", 80, false),
        ("a.example, b.example\tc.example", "b.example", 80, true),
        ("a.example, b.example\tc.example", "c.example", 80, true),
        ("a.example b.example", "d.example", 80, false),
        ("example.com:8080", "example.com", 8080, true),
        ("example.com:8080", "www.example.com", 8080, true),
        ("example.com:8080", "example.com", 80, false),
        ("localhost", "localhost", 80, true),
        ("example.com", "localhost", 80, false),
        ("example.com", "127.0.0.1", 80, false),
        ("127.0.0.1", "127.0.0.1", 80, true),
        ("127.0.0.1:81", "127.0.0.1", 80, false),
        ("127.0.0.1:80", "127.0.0.1", 80, true),
        ("1", "127.0.0.1", 80, false),
        ("0.0.1", "127.0.0.1", 80, false),
        ("10.0.0.0/8", "10.1.2.3", 80, true),
        ("10.0.0.0/8", "11.0.0.0", 80, false),
        ("10.0.0.0/31", "10.0.0.1", 80, true),
        ("10.0.0.0/32", "10.0.0.1", 80, false),
        ("0.0.0.0/0", "192.0.2.1", 80, true),
        ("0.0.0.0/0", "fd00::1", 80, false),
        ("0.0.0.0/0", "example.com", 80, false),
        ("10.0.0.0/8", "::ffff:10.1.2.3", 80, true),
        ("::1", "::1", 80, true),
        ("[::1]", "0:0:0:0:0:0:0:1", 80, true),
        ("[::1]:80", "::1", 80, true),
        ("[::1]:80", "::1", 81, false),
        ("fd00::/8", "fdff::1", 80, true),
        ("fd00::/8", "fe00::1", 80, false),
        ("[fd00::]/8", "fdff::1", 80, true),
        ("::/0", "fdff::1", 80, true),
        ("::/0", "10.0.0.1", 80, false),
        ("127.*", "127.0.0.1", 80, false),
    ] {
        let proxies = Proxies::all(proxy("proxy:1")).except(list).unwrap();
        let is_without = proxies.of("http", host, port).is_none();
        assert_eq!(is_without, is_direct, "{list:?}: {host} {port}");
    }
}

#[test]
fn a_list_that_cannot_be_meant_so_is_refused() {
    let long = "x".repeat(16 * 1024 + 1);
    let many = "x,".repeat(513);
    for (list, words) in [
        ("10.0.0.0/33", "10.0.0.0/8"),
        ("::/129", "fd00::/8"),
        ("10.0.0.0/", "10.0.0.0/8"),
        ("example.com/8", "10.0.0.0/8"),
        ("10.0.0.0/8:80", "10.0.0.0/8"),
        ("example.com:0", "port"),
        ("example.com:http", "port"),
        ("fd00::zz", "no IPv6"),
        ("b\u{fc}cher.example", "xn--"),
        (".", "names no host"),
        (":80", "names no host"),
        (&long, "longer than"),
        (&many, "more than 512"),
    ] {
        let problem = Proxies::direct().except(list).unwrap_err();
        assert!(problem.contains(words), "{list}: {problem}");
    }
}
