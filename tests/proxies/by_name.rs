//! A server whose name only the proxy can look up: whatever goes another way fails.
//!
//! Source: RFC 6761, section 6.2: nobody else answers for `.test`.

use super::{Kind, Program, World};

/// Where the file is, by that name.
fn inner(world: &World, path: &str) -> String {
    world.nginx.url(path).replace("127.0.0.1", "inner.test")
}

#[test]
fn every_connection_of_a_large_file_goes_through_the_proxy() {
    let mut world = World::new();
    world.bytes = world.nginx.put_seeded("a.bin", 8 << 20);
    let proxy = Program::open(Kind::Squid, world.secure());
    let url = inner(&world, "/rate/2000k/a.bin");
    world.fetched(&url, &["--proxy", &proxy.url("http", ""), "--connections", "4"]);
    let asked = proxy.log().matches(&format!("GET {url} ")).count();
    assert!(asked >= 4, "{asked} requests came: {}", proxy.log());
}

#[test]
fn a_mirror_and_a_redirect_go_through_the_proxy() {
    let world = World::new();
    let proxy = Program::open(Kind::Squid, world.secure());
    let by = proxy.url("http", "");
    let (gone, there) = (inner(&world, "/gone"), inner(&world, "/redirect/302/a.bin"));
    world.fetched(&gone, &["--proxy", &by, "--mirror", &there]);
    let log = proxy.log();
    for url in [&gone, &there, &inner(&world, "/a.bin")] {
        assert!(log.contains(&format!("GET {url} ")), "{log}");
    }
}
