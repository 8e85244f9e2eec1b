//! What every backend must do, whatever it speaks: one suite, run against each.
//!
//! A [`Rig`] is a backend together with a server that it talks to, and that can be told to misbehave. The cases are in
//! [`CASES`] and are the same for all; which of them apply follows from what the backend says of itself
//! ([`crate::Capabilities`]) and the rig of its protocol ([`Protocol`]). Whoever writes a rig lists them by name, and compares
//! the list with [`applicable`], so that none is left out in silence.

mod attempt;
mod content;
mod failures;
mod gaps;
mod interrupts;
mod limits;
mod methods;
mod resume;
mod whole;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

pub use self::content::Content;
use crate::{Backend, Capabilities, Credential, FailureKind, Method, WebErrorStatus};

/// What a protocol is like, beyond [`crate::Capabilities`].
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says one thing, and none follows from another"
)]
pub struct Protocol {
    /// The length is known before the first byte, unless [`Served::tells_length`] is off.
    pub tells_length: bool,
    /// A resource can come without a length, and its end is known all the same.
    pub has_unknown_length: bool,
    /// How an attempt fails to which a server sends more than it announced. `None` where the announced length says where the
    /// response ends, so that what comes beyond it belongs to no resource.
    pub excess: Option<(FailureKind, WebErrorStatus)>,
    /// The media type is told.
    pub tells_type: bool,
    /// What proves a resource is good for all its sources, as a strong entity tag is; a time is not.
    pub proves_across_sources: bool,
    /// A resource can be for those alone who show a credential.
    pub has_credentials: bool,
    /// The backend itself opens connections to the host of the URL: [`Rig::astray`] has an answer.
    pub reaches_hosts: bool,
    /// Where a server that hangs can be told of, in the order in which an attempt comes by: at each, the server did what
    /// the name says, and nothing after it. All of them lie outside of the content.
    pub steps: &'static [&'static str],
    /// The same for an attempt that continues held bytes.
    pub rest_steps: &'static [&'static str],
    /// The one of `steps` at which all of the request was sent, and nothing of the answer came.
    pub asked: &'static str,
}

/// A resource, and how a server serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The bytes.
    pub content: Content,
    /// Two resources have validators that agree where this and the length are the same, and otherwise others.
    pub version: u32,
    /// The validators prove that two responses carry the same bytes. Otherwise they agree and prove nothing.
    pub proof: bool,
    /// The length is announced, where the protocol can do that at all.
    pub tells_length: bool,
    /// It can be continued from an offset; a server that cannot sends all of it again, or says so and is asked for all.
    pub resumable: bool,
    /// Media type, where the protocol tells one.
    pub content_type: Option<String>,
    /// Who shows another credential, or none, is refused.
    pub credential: Option<Credential>,
}

impl Served {
    /// Version 1 of a resource without a fault.
    #[must_use]
    pub fn new(content: Content) -> Self {
        Self {
            content,
            version: 1,
            proof: true,
            tells_length: true,
            resumable: true,
            content_type: None,
            credential: None,
        }
    }
}

/// What a server does in one attempt.
#[derive(Clone, Debug)]
pub enum Act {
    /// Serves the resource.
    Serve,
    /// Replaces the resource for this attempt and all later ones, then serves it.
    Replace(Served),
    /// Announces this length, sends the resource as it is, and ends as if all were well.
    Announce(u64),
    /// Comes to this place, and ends the connection.
    HangUp(Place),
    /// Comes to this place, rings, and then says nothing more, until the other side goes.
    Hang(Place, Bell),
}

/// A moment of an attempt, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One of [`Protocol::steps`] or [`Protocol::rest_steps`]. An act with such a place stands first in a script, or after
    /// one that hangs up: the server need not know of it while it still serves an earlier attempt on the same connection.
    Step(&'static str),
    /// Everything before this offset of the resource was sent.
    Byte(u64),
}

/// Where no answer is to be had.
#[derive(Clone, Debug)]
pub enum Astray {
    /// Nobody listens there.
    Refused,
    /// The connection is never made; it rings once somebody waits for it.
    Unanswered(Bell),
    /// A host that does not exist.
    UnknownHost,
}

/// Tells the suite that something has come about.
#[derive(Clone)]
pub struct Bell(Sender<()>);

impl Bell {
    fn new() -> (Self, Receiver<()>) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), receiver)
    }

    /// Rings.
    pub fn ring(&self) {
        // Who was told already need not hear it again.
        let _ = self.0.send(());
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Bell")
    }
}

/// A backend under test, with the server it talks to.
pub trait Rig {
    /// The backend.
    fn backend(&self) -> Arc<dyn Backend>;

    /// What its protocol is like.
    fn protocol(&self) -> Protocol;

    /// Serves a resource under a URL of its own, one act for each attempt and the whole after those. A request that an
    /// attempt makes beyond its first may take the next act.
    fn serve(&mut self, served: Served, acts: Vec<Act>) -> String;

    /// A URL that the server knows nothing of.
    fn missing(&mut self) -> String;

    /// A URL that leads nowhere; asked for only where the protocol [`Protocol::reaches_hosts`].
    fn astray(&mut self, how: Astray) -> Option<String> {
        let _ = how;
        None
    }

    /// Method and body of every request for this URL that came whole, oldest first; asked for only where
    /// [`crate::Capabilities::methods`] mean something.
    fn received(&self, url: &str) -> Vec<(Method, Vec<u8>)> {
        let _ = url;
        Vec::new()
    }
}

/// One thing that every backend must do.
#[derive(Clone, Copy)]
pub struct Case {
    /// It, as a sentence.
    pub name: &'static str,
    /// Whether a backend and its protocol are such that it means something.
    applies: fn(&Capabilities, &Protocol) -> bool,
    run: fn(&mut dyn Rig),
}

/// Makes the table of cases: the function, which is also the name, and when it applies.
macro_rules! cases {
    ($($module:ident::$case:ident $(if |$can:ident, $protocol:ident| $applies:expr)?;)*) => {
        /// Every case.
        pub const CASES: &[Case] = &[$(Case {
            name: stringify!($case),
            applies: cases!(@applies $($can, $protocol, $applies)?),
            run: $module::$case,
        }),*];
    };
    (@applies) => { |_, _| true };
    (@applies $can:ident, $protocol:ident, $applies:expr) => { |$can, $protocol| $applies };
}

cases! {
    whole::a_download_is_whole;
    whole::an_empty_resource_is_whole;
    whole::a_body_that_is_shorter_than_announced_is_no_success if |_can, protocol| protocol.tells_length;
    whole::a_body_that_is_longer_than_announced_brings_nothing_beyond_it if |_can, protocol| protocol.tells_length;
    whole::a_resource_of_unknown_length_is_whole_and_its_cut_is_noticed if |_can, protocol| protocol.has_unknown_length;
    whole::an_expected_length_holds_where_none_is_announced if |_can, protocol| protocol.has_unknown_length;
    whole::another_length_than_expected_is_refused if |_can, protocol| protocol.tells_length;
    whole::another_type_than_expected_is_refused if |_can, protocol| protocol.tells_type;
    whole::a_page_in_place_of_the_rest_gives_up_nothing if |can, protocol| can.resume && protocol.tells_type;
    resume::what_came_before_a_cut_is_kept_and_continued if |can, _protocol| can.resume;
    resume::everything_held_is_enough if |can, _protocol| can.resume;
    resume::nothing_held_is_a_beginning;
    resume::a_changed_resource_starts_again if |can, _protocol| can.resume;
    resume::a_resource_without_proof_starts_again if |can, _protocol| can.resume;
    resume::a_server_that_cannot_continue_starts_again if |can, _protocol| can.resume;
    resume::a_tail_that_differs_starts_again if |can, _protocol| can.resume;
    resume::bytes_beyond_4_gib_are_continued if |can, _protocol| can.resume;
    resume::bytes_of_another_source_are_continued_only_under_what_holds_for_all if |can, _protocol| can.resume;
    resume::a_digest_that_is_expected_continues_bytes_on_trust if |can, _protocol| can.resume;
    resume::a_tail_that_differs_starts_again_even_on_trust if |can, _protocol| can.resume;
    resume::a_resource_that_never_continues_is_fetched_whole_each_time if |can, _protocol| !can.resume;
    gaps::a_gap_is_fetched_alone if |can, _protocol| can.ranges;
    gaps::a_gap_at_the_beginning_is_fetched_alone if |can, _protocol| can.ranges;
    gaps::a_gap_beyond_4_gib_is_fetched_alone if |can, _protocol| can.ranges;
    gaps::a_gap_of_a_changed_resource_starts_again if |can, _protocol| can.ranges;
    gaps::a_gap_that_is_cut_is_no_success if |can, _protocol| can.ranges;
    failures::a_missing_resource_fails_for_good;
    failures::the_right_credential_opens_and_any_other_fails_for_good if |_can, protocol| protocol.has_credentials;
    failures::a_refused_connection_may_be_tried_again if |_can, protocol| protocol.reaches_hosts;
    failures::a_host_that_does_not_exist_may_be_tried_again if |_can, protocol| protocol.reaches_hosts;
    failures::a_hang_up_at_any_step_may_be_tried_again;
    failures::a_hang_up_in_the_content_may_be_tried_again;
    failures::a_hang_up_in_the_rest_may_be_tried_again if |can, _protocol| can.resume;
    failures::a_refusal_of_the_sink_ends_the_attempt;
    interrupts::an_interrupt_before_the_attempt_ends_it;
    interrupts::an_interrupt_ends_a_connection_in_the_making if |_can, protocol| protocol.reaches_hosts;
    interrupts::an_interrupt_ends_the_wait_at_any_step;
    interrupts::an_interrupt_ends_the_wait_for_content;
    interrupts::an_interrupt_at_the_head_ends_the_attempt;
    interrupts::an_interrupt_ends_content_that_flows;
    interrupts::an_interrupt_ends_the_wait_for_the_rate;
    limits::silence_in_the_content_is_a_timeout;
    limits::silence_before_the_head_is_a_timeout;
    limits::silence_at_any_step_is_a_timeout;
    limits::a_connection_that_is_not_made_in_time_is_a_timeout if |_can, protocol| protocol.reaches_hosts;
    limits::a_slow_consumer_is_no_silence;
    limits::a_rate_limit_holds;
    methods::a_request_body_is_sent_whole_in_every_attempt_and_nothing_held_is_continued if |can, _protocol| can.methods;
    methods::a_request_body_that_is_not_as_long_as_announced_fails_for_good if |can, _protocol| can.methods;
}

/// Names of the cases that apply to a rig, in their order.
#[must_use]
pub fn applicable(rig: &dyn Rig) -> Vec<&'static str> {
    let (capabilities, protocol) = (rig.backend().capabilities(), rig.protocol());
    let cases = CASES.iter().filter(|case| (case.applies)(&capabilities, &protocol));
    cases.map(|case| case.name).collect()
}

/// Runs one case.
///
/// # Panics
/// Where the backend does not do what it must, where the case does not apply to it, and where there is no such case.
pub fn run(rig: &mut dyn Rig, name: &str) {
    assert!(applicable(rig).contains(&name), "{name} does not apply to this rig");
    let case = CASES.iter().find(|case| case.name == name);
    (case.expect("it was found above").run)(rig);
}
