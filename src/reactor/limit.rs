//! How many connections the loop may have: its own limit, or its share of one that loops share.

use crate::config::Config;
use crate::handler::Handler;
use crate::id::Token;
use crate::net::Net;
use crate::reactor::Reactor;
use crate::reactor::stop::Phase;
use crate::threads::{ConnectionLimit, Permits};

/// Descriptors kept for other uses: listeners, logs, the program's own files.
const RESERVED_DESCRIPTORS: usize = 64;
/// Descriptors that each further loop uses itself: a poller, a waker, a listener or two.
const DESCRIPTORS_PER_LOOP: usize = 4;

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Counts this loop's connections towards `limit`, which other loops share. Call it before the
    /// loop listens or connects.
    ///
    /// From then on the loop accepts and connects only while all loops of the limit together have
    /// fewer connections than [`ConnectionLimit::max`]. [`Config::max_connections`] no longer
    /// applies. Connections that the loop already has count too, even beyond the limit. If the loop
    /// is dropped, or its thread panics, its permits are released.
    ///
    /// **Trap:** a released permit goes to the loop that has waited longest. If the handler of that
    /// loop blocks, no other loop can use the permit until it returns.
    pub fn share_limit(&mut self, limit: &ConnectionLimit) {
        self.permits = Some(Permits::new(limit, self.net.waker(), self.slots.len()));
        self.max_connections = limit.max();
        self.reserve();
    }

    /// True if one more connection may be accepted. If a shared limit has no permit left, this loop
    /// is woken when one is released.
    pub(super) fn has_room(&self) -> bool {
        matches!(self.phase, Phase::Running)
            && match &self.permits {
                None => self.slots.len() < self.max_connections,
                Some(permits) => permits.can_acquire_or_wait(self.slots.len()),
            }
    }

    /// Takes a permit for one more connection, if there is one. If no connection comes of it, the
    /// end of the turn releases it.
    pub(super) fn acquire_permit(&mut self) -> bool {
        match &mut self.permits {
            None => self.slots.len() < self.max_connections,
            Some(permits) => permits.try_acquire(self.slots.len()),
        }
    }

    /// Releases the permits of connections that are gone or were never made.
    #[inline]
    pub(super) fn release_unused_permits(&mut self) {
        if self.permits.is_some() {
            let (used, wants) = (self.slots.len(), self.has_pending_accept());
            self.permits
                .iter_mut()
                .for_each(|permits| permits.release_unused(used, wants));
        }
    }

    /// Returns the number of connections that count towards the limit: this loop's, or those of all
    /// loops that share it.
    pub(super) fn open_connections(&self) -> usize {
        self.permits
            .as_ref()
            .map_or(self.slots.len(), Permits::open)
    }
}

/// Returns the configured maximum, or else what the system's limit of descriptors leaves room for.
pub(super) fn max_connections(config: &Config, descriptors: Option<usize>) -> usize {
    let reserve = |limit: usize| {
        RESERVED_DESCRIPTORS.min(limit / 4) + DESCRIPTORS_PER_LOOP * (config.loops - 1)
    };
    let possible = descriptors.map(|limit| limit.saturating_sub(reserve(limit)) / config.loops);
    match (config.max_connections, possible) {
        (Some(wanted), Some(possible)) if wanted > possible => {
            log::warn!(
                "{wanted} connections are allowed, but the system's limit of descriptors \
                 leaves room for {possible}"
            );
            wanted
        }
        (Some(wanted), _) => wanted,
        (None, Some(possible)) => {
            let possible = possible.clamp(1, Token::MAX_SLOTS);
            if possible < RESERVED_DESCRIPTORS / config.loops {
                log::warn!(
                    "the system's limit of descriptors leaves room for {possible} connections only"
                );
            }
            possible
        }
        (None, None) => ((1024 - RESERVED_DESCRIPTORS) / config.loops).max(1),
    }
}
