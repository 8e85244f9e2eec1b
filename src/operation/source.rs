//! Sources of one operation: where bytes came from, and which were tried.
//!
//! They are numbered: 0 is the URL itself, then the mirrors that were asked for, then those that the server named. The
//! list of the latter never changes within a generation, so that a number means one URL as long as bytes of it are held.

use minicbor::{Decode, Encode};

use super::deadline::{Deadline, Now};
use super::digest::digests;
use super::event::{Claim, Response};
use super::shared::Shared;
use super::spec::is_default;
use super::state::Operation;

/// Most sources of one operation.
pub(crate) const SOURCES_MAX: u32 = 25;

// A bit of a word stands for each source.
const _: () = assert!(SOURCES_MAX <= u32::BITS);

/// Which source bytes came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Origin {
    /// The last one that gave any.
    #[n(0)]
    pub(crate) source: u32,
    /// Bytes of another one stand before them, so that a wrong digest does not tell whose are wrong.
    #[n(1)]
    pub(crate) mixed: bool,
}

impl Origin {
    /// A source that the operation no longer has: its URL was changed to one of another server.
    const LEFT: u32 = u32::MAX;

    /// The same bytes once the URL leads to another server: what they were proven by is not comparable any more, unless
    /// they came from a mirror, which is told apart already.
    pub(crate) fn after_url_changed(self) -> Self {
        let source = if self.source == 0 { Self::LEFT } else { self.source };
        Self { source, ..self }
    }

    /// The same bytes once another server has answered for their source.
    fn after_server_changed(self) -> Self {
        Self {
            source: Self::LEFT,
            ..self
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the derive passes a reference")]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How far the sources of an operation were gone through since the last back-off. A bit stands for each source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Round {
    /// The source to try next.
    #[n(0)]
    pub(crate) next: u32,
    /// Those that failed.
    #[n(1)]
    pub(crate) tried: u32,
    /// Those that failed for good.
    #[n(2)]
    pub(crate) useless: u32,
    /// How often in a row the source of the held bytes failed and was waited for.
    #[n(3)]
    pub(crate) stays: u32,
    /// Those that asked for time, and are left alone until it has passed.
    #[cbor(n(4), default, skip_if = "is_default")]
    pub(crate) resting: u32,
    /// When that of all of them has.
    #[n(5)]
    pub(crate) rest_until: Option<Deadline>,
    /// How many milliseconds before that each of them has had its own; earlier versions had no more than the latest end.
    #[cbor(n(6), default, skip_if = "is_default")]
    pub(crate) sooner_ms: [u32; SOURCES_MAX as usize],
}

impl Round {
    /// Without the rests that are over.
    pub(crate) fn at(self, now: Now) -> Self {
        let rest_until = self.rest_until.map(|until| until.rebased(now));
        let resting = self.resting & (u32::MAX >> (u32::BITS - SOURCES_MAX));
        let round = Self {
            resting,
            rest_until,
            ..self
        };
        let is_over = |source: &u32| round.rest_end_ms(*source) <= now.boot_ms;
        let over = round.resting().filter(is_over);
        over.fold(round, Self::without_rest)
    }

    /// Leaves a source alone until then.
    pub(crate) fn with_rest(mut self, source: u32, until: Deadline) -> Self {
        if source >= SOURCES_MAX {
            return self;
        }
        let latest = self.rest_until.filter(|latest| latest.boot_ms() >= until.boot_ms());
        let latest = latest.unwrap_or(until);
        let ends = self.resting().map(|source| (source, self.rest_end_ms(source)));
        let ends: Vec<(u32, u64)> = ends.chain([(source, until.boot_ms())]).collect();
        self.rest_until = Some(latest);
        self.resting |= 1 << source;
        for (source, end_ms) in ends {
            // Nobody is left alone for as long as does not fit.
            self.sooner_ms[source as usize] = u32::try_from(latest.boot_ms() - end_ms).unwrap_or(u32::MAX);
        }
        self
    }

    /// Asks a source again, whether it has had its time or not.
    pub(crate) fn without_rest(mut self, source: u32) -> Self {
        self.resting &= !(1 << source);
        self.sooner_ms[source as usize] = 0;
        self.rest_until = self.rest_until.filter(|_| self.resting != 0);
        self
    }

    /// Which of these sources has had its time first, and when on `CLOCK_BOOTTIME`, in milliseconds.
    pub(crate) fn first_rested(&self, of: u32) -> Option<(u32, u64)> {
        let resting = self.resting().filter(|source| of & 1 << source != 0);
        resting
            .map(|source| (source, self.rest_end_ms(source)))
            .min_by_key(|(_, end_ms)| *end_ms)
    }

    fn resting(self) -> impl Iterator<Item = u32> {
        (0..SOURCES_MAX).filter(move |source| self.resting & 1 << source != 0)
    }

    fn rest_end_ms(&self, source: u32) -> u64 {
        let latest_ms = self.rest_until.map_or(0, Deadline::boot_ms);
        latest_ms.saturating_sub(u64::from(self.sooner_ms[source as usize]))
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Scheme, host and port of a URL in its normal form: what comes before the path.
pub(super) fn site(url: &str) -> &str {
    let host = match url.split_once(':') {
        Some((scheme, rest)) if rest.starts_with("//") => scheme.len() + 3,
        _ => 0,
    };
    let mut bytes = url.as_bytes()[host..].iter();
    let path = bytes.position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    path.map_or(url, |path| &url[..host + path])
}

impl Operation {
    /// Takes in who answered. Where a redirect led to another server than before, what is held under the word of that one is
    /// another source's, until a claim says that what came since goes with it.
    pub(super) fn answered(&mut self, response: Shared<Response>) {
        let before = self.response.as_ref();
        if before.is_some_and(|before| before.server() != response.server())
            && let Some(claim) = &self.claim
        {
            let origin = claim.origin.after_server_changed();
            self.claim = Some(Shared::new(Claim {
                origin,
                ..(**claim).clone()
            }));
        }
        self.response = Some(response);
    }

    /// All sources, as they may be shown. Those that a server named count only under a strong digest: nothing else
    /// would tell if they lied.
    pub(crate) fn sources(&self) -> Vec<&str> {
        let mirrors = self.spec.mirrors.iter().chain(self.linked());
        std::iter::once(&self.spec.url)
            .chain(mirrors)
            .map(String::as_str)
            .collect()
    }

    /// Those that a server named, as far as they count.
    fn linked(&self) -> &[String] {
        let linked = self.response.as_ref().map(|response| response.mirrors.as_slice());
        // Hardly any server names one, and to look for digests takes longer.
        let linked = linked.filter(|linked| !linked.is_empty() && self.knows_strong_digest());
        linked.unwrap_or_default()
    }

    /// How many sources there are; at least 1.
    pub(crate) fn source_count(&self) -> u32 {
        u32::try_from(1 + self.spec.mirrors.len() + self.linked().len()).unwrap_or(1)
    }

    /// Number of the source that is tried now or next. One that is gone meanwhile gives way to the URL itself.
    pub(crate) fn source(&self) -> u32 {
        if self.round.next < self.source_count() {
            self.round.next
        } else {
            0
        }
    }

    /// Scheme, host and port of the source that is tried now or next, in the normal form of its URL: what comes before
    /// the path, without a port that is the scheme's own.
    pub(crate) fn host(&self) -> &str {
        let url = match self.round.next {
            0 => self.spec.url.as_str(),
            _ => self
                .sources()
                .get(self.source() as usize)
                .copied()
                .unwrap_or(&self.spec.url),
        };
        site(url)
    }

    /// The finished content will be compared with a strong digest, asked for or told by the server.
    pub(crate) fn knows_strong_digest(&self) -> bool {
        let told = || {
            let response = self.response.as_ref()?;
            digests(&response.digests)
                .iter()
                .any(|digest| digest.algorithm().is_strong())
                .then_some(())
        };
        self.spec.expects_strong_digest() || told().is_some()
    }
}
