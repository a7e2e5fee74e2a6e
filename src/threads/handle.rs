//! Handles: how other threads send to a loop.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::panics::catch_panic;
use crate::id::ConnectionId;
use crate::net::Wake;
use crate::state::Stop;
use crate::threads::mailbox::{Mailbox, PutOutcome};

/// A handle to a loop, for use from other threads.
///
/// Each operation puts a message into the loop's mailbox, and wakes the loop. `M` is the handler's
/// [`Handler::Mail`](crate::Handler::Mail). Clones reach the same loop. A handle may outlive its
/// loop; then its operations fail with [`PostError::Stopped`]. Messages of one thread are handled
/// in the order in which they were sent.
///
/// The mailbox is bounded ([`Config::mailbox_cap`](crate::Config::mailbox_cap)). When it is full,
/// no operation blocks and no message is dropped. The error returns the message, and the caller
/// decides: retry, slow down, or give up.
///
/// ```no_run
/// # use glassloop::{Context, Handler, Origin, Verdict, codec::Line};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Codec = Line;
/// #     type State = ();
/// #     type Mail = ();
/// #     fn connection(&mut self, _: &Origin) -> (Line, ()) { (Line::default(), ()) }
/// #     fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
/// #         cx.send(line);
/// #         Verdict::Continue
/// #     }
/// # }
/// use std::time::Duration;
///
/// use glassloop::Reactor;
///
/// let mut reactor = Reactor::bind("127.0.0.1:7000", Echo)?;
/// let handle = reactor.handle();
/// std::thread::spawn(move || {
///     std::thread::sleep(Duration::from_secs(60));
///     handle.shutdown(Duration::from_secs(5));
/// });
/// reactor.run()?;
/// # Ok::<(), glassloop::Error>(())
/// ```
pub struct Handle<M> {
    mailbox: Arc<LoopMailbox<M>>,
    waker: Arc<dyn Wake>,
}

/// The mailbox of a loop.
pub(crate) type LoopMailbox<M> = Mailbox<Post<M>, MailboxState>;

/// One message from another thread.
#[derive(Debug)]
pub(crate) enum Post<M> {
    /// Send these bytes, one or more whole frames, to this connection.
    Send(ConnectionId, Bytes),
    /// Close this connection when its queued replies are sent.
    Close(ConnectionId),
    /// Mail for the handler.
    Mail(M),
}

/// State that the loop and its handles share.
#[derive(Debug, Default)]
pub(crate) struct MailboxState {
    /// The generation of the connection in each slot; 0 for an empty slot.
    generations: Vec<u32>,
    /// The stop that was requested, and not yet seen by the loop.
    pub(crate) stop: Option<Stop>,
    /// True if no more messages are accepted.
    pub(crate) closed: bool,
}

impl MailboxState {
    /// Reserves memory for this many connections.
    pub(crate) fn reserve(&mut self, connections: usize) {
        self.generations.reserve(connections);
    }

    /// Records a new connection.
    pub(crate) fn connection_opened(&mut self, id: ConnectionId) {
        if self.generations.len() <= id.slot() {
            self.generations.resize(id.slot() + 1, 0);
        }
        self.generations[id.slot()] = id.generation();
    }

    /// Records that a connection is gone.
    pub(crate) fn connection_closed(&mut self, id: ConnectionId) {
        if let Some(generation) = self
            .generations
            .get_mut(id.slot())
            .filter(|generation| **generation == id.generation())
        {
            *generation = 0;
        }
    }

    /// Checks that the loop runs and the connection exists.
    fn check_open(&self, id: ConnectionId) -> Result<(), Refusal> {
        self.check_running()?;
        if self.generations.get(id.slot()) == Some(&id.generation()) {
            Ok(())
        } else {
            Err(Refusal::Gone)
        }
    }

    /// Checks that the loop runs.
    fn check_running(&self) -> Result<(), Refusal> {
        if self.closed {
            Err(Refusal::Stopped)
        } else {
            Ok(())
        }
    }
}

/// Why the mailbox does not accept a message, other than being full.
enum Refusal {
    Gone,
    Stopped,
}

/// Why a message was not put into the mailbox. The error contains the message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PostError<T> {
    /// The mailbox is full, because the loop is behind. Nothing was queued. Try again later, or
    /// give up.
    Full(T),
    /// The connection is closed. Its id never names another connection.
    Gone(T),
    /// The loop has stopped.
    Stopped(T),
}

impl<T> PostError<T> {
    /// Returns the message that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            PostError::Full(content) | PostError::Gone(content) | PostError::Stopped(content) => {
                content
            }
        }
    }
}

impl<T> fmt::Debug for PostError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostError::Full(_) => "Full(..)",
            PostError::Gone(_) => "Gone(..)",
            PostError::Stopped(_) => "Stopped(..)",
        })
    }
}

impl<T> fmt::Display for PostError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostError::Full(_) => "the loop's mailbox is full",
            PostError::Gone(_) => "the connection is closed",
            PostError::Stopped(_) => "the loop has stopped",
        })
    }
}

impl<T> Error for PostError<T> {}

impl<M> Handle<M> {
    /// Sends encoded bytes to a connection: one or more whole frames. They are never mixed with
    /// frames of other threads.
    ///
    /// `Ok` means that the loop will handle the message, not that the peer gets it. If the
    /// connection is not established or is closing by then, the frame is counted as stale and
    /// dropped. If its write queue has no room ([`Config::write_cap`](crate::Config::write_cap)),
    /// it begins to close, with [`CloseReason::OutboxFull`](crate::CloseReason::OutboxFull).
    ///
    /// **Trap:** bytes that are not whole frames break the stream. Encode them with the
    /// connection's own [`Codec`](crate::Codec).
    ///
    /// # Errors
    ///
    /// [`PostError`], with the frame in it.
    pub fn send(&self, id: ConnectionId, frame: impl Into<Bytes>) -> Result<(), PostError<Bytes>> {
        let frame = frame.into();
        let weight = frame.len();
        self.put(
            frame,
            |frame| Post::Send(id, frame),
            weight,
            |state| state.check_open(id),
        )
    }

    /// Sends `mail` to the handler. [`Handler::mail`](crate::Handler::mail) is called with it, in
    /// the loop's thread.
    ///
    /// Mail that was posted before a stop was requested through a handle is handled before the loop
    /// ends. Mail that is posted later may be dropped. If the loop stops at once, mail that still
    /// waits may be dropped too.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`] or [`PostError::Stopped`], with the mail in it.
    pub fn post(&self, mail: M) -> Result<(), PostError<M>> {
        self.post_weighing(mail, 0)
    }

    /// Sends mail that holds `bytes` of memory besides its own size.
    ///
    /// Use it for mail that owns heap memory. [`post`](Self::post) counts a `Vec` of a megabyte as
    /// a few dozen bytes of [`Config::mailbox_cap`](crate::Config::mailbox_cap).
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post).
    pub fn post_weighing(&self, mail: M, bytes: usize) -> Result<(), PostError<M>> {
        self.put(mail, Post::Mail, bytes, MailboxState::check_running)
    }

    /// Closes a connection when all that is queued for it is sent. An outgoing connection that is
    /// not established yet is given up.
    ///
    /// # Errors
    ///
    /// [`PostError`], with the id in it.
    pub fn close(&self, id: ConnectionId) -> Result<(), PostError<ConnectionId>> {
        self.put(id, Post::Close, 0, |state| state.check_open(id))
    }

    /// Stops the loop gracefully, within `grace` instead of
    /// [`Config::drain_timeout`](crate::Config::drain_timeout).
    ///
    /// It is `stop(Stop::Within(grace))`; see [`stop`](Self::stop).
    pub fn shutdown(&self, grace: Duration) {
        self.stop(Stop::Within(grace));
    }

    /// Stops the loop.
    ///
    /// Messages that were posted before are handled first, except for [`Stop::AtOnce`], which does
    /// not wait for anything. Several requests are combined as [`Stop`] says. This method never
    /// fails, even if the mailbox is full. If the loop has already stopped, it does nothing.
    pub fn stop(&self, how: Stop) {
        self.mailbox
            .with(|state| state.stop = Stop::firmer(state.stop, Some(how)));
        self.mailbox.notify(|| self.waker.wake());
    }

    /// Puts the message that `wrap` makes of `content` into the mailbox. If that fails, the error
    /// contains `content`.
    fn put<T>(
        &self,
        content: T,
        wrap: impl FnOnce(T) -> Post<M>,
        weight: usize,
        admit: impl FnOnce(&MailboxState) -> Result<(), Refusal>,
    ) -> Result<(), PostError<T>> {
        let weight = weight.saturating_add(size_of::<Post<M>>());
        match self
            .mailbox
            .put(content, wrap, weight, admit, || self.waker.wake())
        {
            PutOutcome::Done => Ok(()),
            PutOutcome::Full(content) => Err(PostError::Full(content)),
            PutOutcome::Refused(content, Refusal::Gone) => Err(PostError::Gone(content)),
            PutOutcome::Refused(content, Refusal::Stopped) => Err(PostError::Stopped(content)),
        }
    }
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self {
            mailbox: self.mailbox.clone(),
            waker: self.waker.clone(),
        }
    }
}

impl<M> fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("gone", &self.mailbox.with(|state| state.closed))
            .finish_non_exhaustive()
    }
}

/// The loop's end of the mailbox. When it is dropped, the handles fail with [`PostError::Stopped`].
#[derive(Debug)]
pub(crate) struct MailboxReceiver<M>(Handle<M>);

impl<M> Deref for MailboxReceiver<M> {
    type Target = LoopMailbox<M>;

    fn deref(&self) -> &LoopMailbox<M> {
        &self.0.mailbox
    }
}

impl<M> MailboxReceiver<M> {
    pub(crate) fn new(waker: Arc<dyn Wake>, cap: usize) -> Self {
        Self(Handle {
            mailbox: Arc::new(Mailbox::new(cap)),
            waker,
        })
    }

    /// Returns a handle for another thread.
    pub(crate) fn handle(&self) -> Handle<M> {
        self.0.clone()
    }

    /// Accepts no more messages, and drops those that wait.
    pub(crate) fn close(&self) {
        let mut posts = VecDeque::new();
        self.0
            .mailbox
            .take(&mut posts, |_, state| state.closed = true);
        catch_panic(|| drop(posts)); // mail is the user's: dropping it may panic
    }
}

impl<M> Drop for MailboxReceiver<M> {
    fn drop(&mut self) {
        self.close();
    }
}
