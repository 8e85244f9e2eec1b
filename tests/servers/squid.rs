//! squid 5 as an accelerator before nginx, with its cache in memory.

use std::time::Duration;

use crate::nginx::nginx;
use crate::promises::{self as of, SHORT_BYTES, SHORT_STOP_BYTES};
use crate::server::{Place, Program, Server};
use crate::support::Seeded;
use crate::visit::{Stop, Visit, Way, assert_continued, assert_restarted};

fn squid(origin: &Server) -> Server {
    let port = origin.plain_port();
    Server::start_before(
        origin,
        &Program {
            words: &["squid", "-N", "-n", "backhaulPORT", "-f", "FOLDER/configuration"],
            configuration: &|place| configuration(place, port),
            // Its shared memory, which it takes away only in an orderly end of two seconds.
            debris: "/dev/shm/backhaulPORT-",
        },
    )
}

fn configuration(place: &Place, origin: u16) -> String {
    let Place {
        folder, plain, account, ..
    } = place;
    let account = account.map_or(String::new(), |(user, group)| {
        format!("cache_effective_user {user}\ncache_effective_group {group}\n")
    });
    format!(
        "http_port 127.0.0.1:{plain} accel defaultsite=127.0.0.1:{origin} no-vhost
cache_peer 127.0.0.1 parent {origin} 0 no-query no-digest no-netdb-exchange originserver name=origin
never_direct allow all
acl uncached urlpath_regex ^/uncached/
cache deny uncached
http_access allow all
cache_mem 64 MB
maximum_object_size 32 MB
maximum_object_size_in_memory 32 MB
access_log stdio:{folder}/open/access
cache_log {folder}/open/log
coredump_dir {folder}/open
pid_filename {folder}/open/pid
pinger_enable off
shutdown_lifetime 0 seconds
visible_hostname localhost
{account}"
    )
}

/// What squid says of where an answer comes from.
fn is_cached(proxy: &Server, path: &str) -> bool {
    let head = proxy.ask_head(path, "");
    assert!(head.contains("x-cache:"), "{head}");
    head.contains("x-cache: hit")
}

#[test]
fn whole_files_come_through_as_they_are_also_from_the_cache() {
    let origin = nginx();
    let proxy = squid(&origin);
    let bytes = origin.put_seeded("a.bin", SHORT_BYTES);
    Visit::new(&proxy, Way::Plain, "a.bin").complete(&bytes);
    assert!(is_cached(&proxy, "/a.bin"));
    Visit::new(&proxy, Way::Plain, "a.bin").complete(&bytes);
    assert_eq!(origin.log_of(1).len(), 1, "the cache was not used");
}

#[test]
fn a_kill_in_the_middle_costs_a_window_at_most() {
    let origin = nginx();
    let proxy = squid(&origin);
    of::a_kill_costs_a_window_at_most(&proxy, Way::Plain);
}

#[test]
fn an_orderly_stop_in_the_middle_fetches_nothing_again_whether_the_rest_is_cached_or_not() {
    let origin = nginx();
    let proxy = squid(&origin);
    let bytes = origin.put_seeded("a.bin", SHORT_BYTES);
    for cached in [false, true] {
        let visit = Visit::new(&proxy, Way::Plain, "a.bin");
        visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
        if cached {
            proxy.ask("/a.bin", "");
            assert!(is_cached(&proxy, "/a.bin"));
        }
        let shown = visit.complete(&bytes);
        assert_continued(&visit, &shown, &bytes, 0);
    }
}

#[test]
fn a_connection_cut_in_the_middle_is_made_again_and_continued() {
    let origin = nginx();
    let proxy = squid(&origin);
    of::a_cut_connection_costs_nothing(&proxy, Way::Plain);
}

/// A download through the proxy is stopped, the origin changes, and it goes on. Returns the old content, the new one, how
/// much was claimed, and the download, not yet taken up again.
fn stopped_and_changed(origin: &Server, proxy: &Server, name: &str, length: usize) -> (Vec<u8>, Vec<u8>, u64, Visit) {
    let old = origin.put_seeded(name, SHORT_BYTES);
    let visit = Visit::new(proxy, Way::Plain, name);
    let claimed = visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    let new = Seeded::new(99).bytes(length);
    origin.put(name, &new, Duration::from_secs(1800));
    (old, new, claimed, visit)
}

#[test]
fn an_origin_that_changed_in_between_is_fetched_anew_and_never_mixed() {
    let origin = nginx();
    let proxy = squid(&origin);
    for length in [SHORT_BYTES, 1 << 20, 4 << 20] {
        let name = format!("uncached/changed-{length}.bin");
        let (_, new, claimed, visit) = stopped_and_changed(&origin, &proxy, &name, length);
        let shown = visit.complete(&new);
        assert_restarted(&shown, claimed);
    }
}

#[test]
fn an_old_copy_in_the_cache_is_completed_and_never_mixed_with_the_new_origin() {
    let origin = nginx();
    let proxy = squid(&origin);
    let old = origin.put_seeded("kept.bin", SHORT_BYTES);
    proxy.ask("/kept.bin", "");
    assert!(is_cached(&proxy, "/kept.bin"));
    let (again, _, _, visit) = stopped_and_changed(&origin, &proxy, "kept.bin", 4 << 20);
    assert_eq!(old, again);
    let shown = visit.complete(&old);
    assert_continued(&visit, &shown, &old, 0);
}

#[test]
fn a_cache_that_asks_the_origin_each_time_never_makes_a_mix() {
    let origin = nginx();
    let proxy = squid(&origin);
    for length in [SHORT_BYTES, 1 << 20, 4 << 20] {
        let name = format!("revalidated/changed-{length}.bin");
        origin.put_seeded(&name, SHORT_BYTES);
        proxy.ask(&format!("/{name}"), "");
        let (_, new, claimed, visit) = stopped_and_changed(&origin, &proxy, &name, length);
        let shown = visit.complete(&new);
        assert_restarted(&shown, claimed);
    }
}

#[test]
fn a_time_alone_is_proof_enough_to_continue() {
    let origin = nginx();
    let proxy = squid(&origin);
    of::a_time_alone_is_proof(&proxy, Way::Plain, "tagless/a.bin");
}

#[test]
fn a_file_cut_short_while_it_is_sent_is_fetched_anew() {
    let origin = nginx();
    let proxy = squid(&origin);
    of::a_file_cut_short_while_it_is_sent_is_fetched_anew(&proxy, Way::Plain);
}

#[test]
fn without_any_proof_it_starts_again_from_zero_and_says_so() {
    let origin = nginx();
    let proxy = squid(&origin);
    of::without_proof_it_starts_again_and_says_so(&proxy, Way::Plain, "proofless/a.raw");
}
