//! The memory backend. Its server is a script; it has no connections, and waits for nothing but what hangs.

use std::sync::Arc;

use backhaul_backends::conformance::{Act, Place, Protocol, Rig, Served};
use backhaul_backends::{
    Act as MemoryAct, Backend, Failure, FailureKind, MemoryBackend, Method, Resource, WebErrorStatus,
};

use crate::conforms;

#[derive(Default)]
struct MemoryRig {
    memory: Arc<MemoryBackend>,
    served: usize,
}

fn resource(served: &Served) -> Resource {
    let tag = format!("v{}", served.version);
    let mut resource = Resource {
        made: Some(served.content),
        resumable: served.resumable,
        content_type: served.content_type.clone(),
        credential: served.credential.clone(),
        ..Resource::new(Vec::new(), &tag)
    };
    if !served.proof {
        resource.validators.etag = Some(format!("W/\"{tag}\""));
    }
    resource.validators.total_bytes = served.tells_length.then_some(served.content.total_bytes);
    resource
}

/// What the script says for an act on a resource: an announcement is that of another resource, for one attempt.
fn script(url: &str, act: Act, served: &Served) -> Vec<MemoryAct> {
    vec![match act {
        Act::Serve => MemoryAct::Serve,
        Act::Replace(served) => MemoryAct::Replace(resource(&served)),
        Act::Announce(length) => {
            let mut lying = resource(served);
            lying.validators.total_bytes = Some(length);
            return vec![MemoryAct::Replace(lying), MemoryAct::Replace(resource(served))];
        }
        Act::HangUp(Place::Step("request")) => MemoryAct::Fail(Failure {
            kind: FailureKind::Transient { retry_after: None },
            status: WebErrorStatus::DISCONNECTED,
            code: None,
            message: format!("{url}: the server hung up"),
        }),
        Act::HangUp(Place::Step(_)) => MemoryAct::CutAt(0),
        Act::HangUp(Place::Byte(offset)) => MemoryAct::CutAt(offset),
        Act::Hang(place, bell) => {
            // The attempt sleeps there and nowhere else, and whoever rings waits for that, too.
            bell.ring();
            match place {
                Place::Step("request") => MemoryAct::Hang,
                Place::Step(_) => MemoryAct::HangAt(0),
                Place::Byte(offset) => MemoryAct::HangAt(offset),
            }
        }
    }]
}

impl Rig for MemoryRig {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::<MemoryBackend>::clone(&self.memory)
    }

    fn protocol(&self) -> Protocol {
        Protocol {
            tells_length: true,
            has_unknown_length: true,
            excess: Some((FailureKind::Permanent, WebErrorStatus::LENGTH_MISMATCH)),
            tells_type: true,
            proves_across_sources: true,
            has_credentials: true,
            reaches_hosts: false,
            steps: &["request", "head"],
            rest_steps: &["request", "head"],
            asked: "request",
        }
    }

    fn serve(&mut self, served: Served, acts: Vec<Act>) -> String {
        self.served += 1;
        let url = format!("mem://test/{}", self.served);
        self.memory.put(&url, resource(&served));
        for act in acts.into_iter().flat_map(|act| script(&url, act, &served)) {
            self.memory.script(&url, act);
        }
        url
    }

    fn missing(&mut self) -> String {
        "mem://test/missing".to_owned()
    }

    fn received(&self, url: &str) -> Vec<(Method, Vec<u8>)> {
        let attempts = self.memory.attempts().into_iter().filter(|attempt| attempt.url == url);
        attempts
            .filter_map(|attempt| Some((attempt.method, attempt.body?)))
            .collect()
    }
}

conforms!(
    memory,
    MemoryRig::default(),
    [
        a_download_is_whole,
        an_empty_resource_is_whole,
        a_body_that_is_shorter_than_announced_is_no_success,
        a_body_that_is_longer_than_announced_brings_nothing_beyond_it,
        a_resource_of_unknown_length_is_whole_and_its_cut_is_noticed,
        an_expected_length_holds_where_none_is_announced,
        another_length_than_expected_is_refused,
        another_type_than_expected_is_refused,
        a_page_in_place_of_the_rest_gives_up_nothing,
        what_came_before_a_cut_is_kept_and_continued,
        everything_held_is_enough,
        nothing_held_is_a_beginning,
        a_changed_resource_starts_again,
        a_resource_without_proof_starts_again,
        a_server_that_cannot_continue_starts_again,
        a_tail_that_differs_starts_again,
        bytes_beyond_4_gib_are_continued,
        bytes_of_another_source_are_continued_only_under_what_holds_for_all,
        a_digest_that_is_expected_continues_bytes_on_trust,
        a_tail_that_differs_starts_again_even_on_trust,
        a_gap_is_fetched_alone,
        a_gap_at_the_beginning_is_fetched_alone,
        a_gap_beyond_4_gib_is_fetched_alone,
        a_gap_of_a_changed_resource_starts_again,
        a_gap_that_is_cut_is_no_success,
        a_missing_resource_fails_for_good,
        the_right_credential_opens_and_any_other_fails_for_good,
        a_hang_up_at_any_step_may_be_tried_again,
        a_hang_up_in_the_content_may_be_tried_again,
        a_hang_up_in_the_rest_may_be_tried_again,
        a_refusal_of_the_sink_ends_the_attempt,
        an_interrupt_before_the_attempt_ends_it,
        an_interrupt_ends_the_wait_at_any_step,
        an_interrupt_ends_the_wait_for_content,
        an_interrupt_at_the_head_ends_the_attempt,
        an_interrupt_ends_content_that_flows,
        an_interrupt_ends_the_wait_for_the_rate,
        silence_in_the_content_is_a_timeout,
        silence_before_the_head_is_a_timeout,
        silence_at_any_step_is_a_timeout,
        a_slow_consumer_is_no_silence,
        a_rate_limit_holds,
        a_request_body_is_sent_whole_in_every_attempt_and_nothing_held_is_continued,
        a_request_body_that_is_not_as_long_as_announced_fails_for_good,
    ]
);
