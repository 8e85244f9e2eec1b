//! What the hostile servers of all protocols share: content that tells where it came from, the lives of a client, and what
//! ends them. A program that uses it has a module `client` of its own, which says how its engine is set up.

pub(crate) mod content;
pub(crate) mod killer;
pub(crate) mod life;
