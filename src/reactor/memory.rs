//! Memory: how much the connections' buffers and the loop's own buffers hold, and how it is limited
//! and released after a burst.
//!
//! The write buffer is shrunk when a connection returns it (`src/buffer/queue.rs`), encoded
//! messages are freed as they are delivered (`src/handler/commands.rs`), and a list is shrunk after
//! it was worked off. A turn that does none of these pays nothing for it.

use crate::error::CloseReason;
use crate::handler::Handler;
use crate::id::ConnectionId;
use crate::net::{Event, Net};
use crate::reactor::Reactor;
use crate::reactor::serve::Resumable;
use crate::reactor::slots::{Slot, Slots};
use crate::state::Trigger;
use crate::threads::Post;
use crate::threads::mailbox::heap_of;

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Returns the bytes of heap that the connections' own buffers hold. Idle connections hold
    /// none.
    pub fn buffered(&self) -> usize {
        self.buffered
    }

    /// Bytes of the slot that a connection takes. While it is idle it takes nothing else but its
    /// place among the deadlines, some two dozen bytes.
    pub fn idle_footprint() -> usize {
        Slots::<H, N>::FOOTPRINT
    }

    /// Returns the bytes of heap that the loop's shared buffers and lists hold. What belongs to
    /// single connections is in [`buffered`](Self::buffered).
    ///
    /// It is the sum of:
    ///
    /// - the read buffer, the list of events, and the write buffer that connections borrow;
    /// - commands for other connections that are not carried out yet;
    /// - messages from other threads, both those in the mailbox and those taken out of it;
    /// - the lists of connections to serve, to flush and to free.
    ///
    /// Between two turns it is at most
    ///
    /// ```text
    ///   scratch + 16 × events_per_turn + 9 × retained_capacity + 16 KiB
    ///   + 2 × (command_high + what one callback asks for)     while commands wait
    ///   + 4 × mailbox_cap + the heaviest message              while messages wait
    ///   + 56 × the most connections at once                   while the lists hold any
    /// ```
    ///
    /// with the names of [`Config`](crate::Config). The tables of connections and deadlines, which
    /// grow with [`max_connections`](Self::max_connections), are not included, nor is the memory of
    /// the [`Net`]. It locks the mailbox for a moment.
    pub fn shared_memory(&self) -> usize {
        let ids = self.pending_flush.capacity() + self.closed.capacity();
        self.scratch.heap()
            + self.events.capacity() * size_of::<Event>()
            + self.shared.spare_queue.heap()
            + self.shared.spare_inbox.heap()
            + self.shared.commands.heap()
            + heap_of(&self.posts, self.posts_weight)
            + self.mailbox.heap()
            + self.resume.capacity() * size_of::<Resumable>()
            + ids * size_of::<ConnectionId>()
    }

    /// Closes the connections that hold most, if all together hold more than
    /// [`Config::buffered_high`](crate::Config::buffered_high).
    #[inline]
    pub(super) fn enforce_memory_limit(&mut self) {
        if self.buffered > self.shared.config.buffered_high {
            self.close_largest();
        }
    }

    #[cold]
    fn close_largest(&mut self) {
        let total = self.buffered;
        let mut holders: Vec<(u32, ConnectionId)> = self
            .slots
            .iter()
            .map(|slot| (slot.counted_bytes, slot.connection.id()))
            .collect();
        holders.sort_unstable_by(|one, another| another.cmp(one));
        let mut closed = 0;
        for (held, id) in holders {
            if self.buffered <= self.shared.config.buffered_low {
                break;
            }
            let slot = self.slots.get(id).expect("just listed");
            slot.connection.apply(
                Trigger::Fail(CloseReason::Overload {
                    held: held as usize,
                    total,
                }),
                &mut self.shared,
            );
            slot.connection.shrink();
            self.reschedule(id);
            closed += 1;
        }
        if let Some(suppressed) = self
            .shared
            .log_throttle
            .allow(("overload", None), self.shared.now())
        {
            log::warn!(
                "all connections together held {total} bytes; \
                 closed the {closed} that held most{suppressed}"
            );
        }
    }

    /// Returns how many connection ids an empty list may keep room for.
    pub(super) fn retained_ids(&self) -> usize {
        self.shared.config.retained_capacity / size_of::<ConnectionId>()
    }

    /// Shrinks the resume queue after a burst.
    pub(super) fn shrink_resume(&mut self) {
        let retained = self.shared.config.retained_capacity / size_of::<Resumable>();
        self.resume.shrink_to(retained);
    }

    /// Shrinks the queue of posts after a burst, once all are handled.
    pub(super) fn shrink_posts(&mut self) {
        if self.posts.is_empty() {
            self.posts_weight = 0;
            self.posts
                .shrink_to(self.shared.config.retained_capacity / size_of::<Post<H::Mail>>());
        }
    }
}

impl<H: Handler, N: Net> Slot<H, N> {
    /// Updates `sum`, the memory of all buffers, with this connection's share.
    #[inline]
    pub(super) fn count_memory(&mut self, sum: &mut usize) {
        let heap = u32::try_from(self.connection.heap()).unwrap_or(u32::MAX);
        if heap != self.counted_bytes {
            *sum = *sum - self.counted_bytes as usize + heap as usize;
            self.counted_bytes = heap;
        }
    }
}
