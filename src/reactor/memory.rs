//! What the connections' buffers hold, and what the loop itself holds beside them: how much that
//! is, and how it is given back after a burst.
//!
//! The write buffer is given back where a loan of it ends (`src/buffer/queue.rs`), encoded messages are
//! freed as they are delivered (`src/handler/commands.rs`), and a list is shrunk where it is worked off. So
//! a turn without any of that pays nothing for it.

use crate::error::CloseReason;
use crate::handler::Handler;
use crate::id::ConnectionId;
use crate::net::{Event, Net};
use crate::reactor::Reactor;
use crate::reactor::slots::{Slot, Slots};
use crate::state::Trigger;
use crate::threads::Post;
use crate::threads::mailbox::heap_of;

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Bytes of heap that the connections' own buffers hold: nothing for those that are idle.
    pub fn buffered(&self) -> usize {
        self.buffered
    }

    /// Bytes of the slot that a connection takes. While it is idle it takes nothing else but its
    /// place among the deadlines, some two dozen bytes.
    pub fn idle_footprint() -> usize {
        Slots::<H, N>::FOOTPRINT
    }

    /// Bytes of heap that the loop's shared buffers and lists hold. What belongs to single
    /// connections is in [`buffered`](Self::buffered).
    ///
    /// It is the sum of the read buffer, the list of events, the write buffer that connections
    /// borrow, what is asked of other connections and not carried out yet, letters from other
    /// threads (waiting and taken in), and the lists of connections that a turn still has to serve,
    /// to flush or to free. Between two turns it is at most
    ///
    /// ```text
    ///   scratch + 16 × events_per_turn + 8 × retained_capacity + 16 KiB
    ///   + 2 × (command_high + what one callback asks for)             while commands wait
    ///   + 4 × mailbox_cap + the heaviest letter                       while letters wait
    ///   + 48 × the most connections at once                           while connections are on those lists
    /// ```
    ///
    /// with the names of [`Config`](crate::Config). The tables of connections and deadlines, which
    /// grow with [`max_connections`](Self::max_connections), are not in it, nor what the [`Net`]
    /// itself keeps. It locks the mailbox for a moment.
    pub fn shared_memory(&self) -> usize {
        let ids = self.resume.capacity() + self.touched.capacity() + self.closed.capacity();
        self.scratch.heap()
            + self.events.capacity() * size_of::<Event>()
            + self.shared.spare_queue.heap()
            + self.shared.spare_inbox.heap()
            + self.shared.commands.heap()
            + heap_of(&self.posts, self.posts_weight)
            + self.mailbox.heap()
            + ids * size_of::<ConnectionId>()
    }

    /// Closes those who hold most, if all together hold more than they may.
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
            .map(|slot| (slot.counted, slot.connection.id()))
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
                "all connections together held {total} bytes: the {closed} that held most are closed{suppressed}"
            );
        }
    }

    /// How many connections a list may have room for when it is empty.
    pub(super) fn retained_ids(&self) -> usize {
        self.shared.config.retained_capacity / size_of::<ConnectionId>()
    }

    /// Gives back what the resume queue has grown by.
    pub(super) fn shrink_resume(&mut self) {
        self.resume.shrink_to(self.retained_ids());
    }

    /// Gives back what the queue of letters has grown by, when all of them are read.
    pub(super) fn shrink_posts(&mut self) {
        if self.posts.is_empty() {
            self.posts_weight = 0;
            self.posts
                .shrink_to(self.shared.config.retained_capacity / size_of::<Post<H::Mail>>());
        }
    }
}

impl<H: Handler, N: Net> Slot<H, N> {
    /// Keeps the sum of all buffers true.
    #[inline]
    pub(super) fn count_memory(&mut self, sum: &mut usize) {
        let heap = u32::try_from(self.connection.heap()).unwrap_or(u32::MAX);
        if heap != self.counted {
            *sum = *sum - self.counted as usize + heap as usize;
            self.counted = heap;
        }
    }
}
