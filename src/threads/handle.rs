//! The loop's hand to other threads.

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

/// A hand on a loop for other threads: what they ask is put into its mailbox, and the loop is woken.
///
/// `M` is what the handler takes as [`Handler::Mail`](crate::Handler::Mail). Clones reach the same loop; a handle may
/// outlive it, and then says so. What one thread asks is carried out in the order in which it was asked.
///
/// The mailbox is bounded ([`Config::mailbox_cap`](crate::Config::mailbox_cap)). Where it is full nothing waits and nothing
/// is dropped: the letter comes back in the error, and it is the sender's to try again, to slow down, or to give up.
pub struct Handle<M> {
    mailbox: Arc<LoopMailbox<M>>,
    waker: Arc<dyn Wake>,
}

/// The mailbox of a loop.
pub(crate) type LoopMailbox<M> = Mailbox<Post<M>, MailboxState>;

/// One letter.
#[derive(Debug)]
pub(crate) enum Post<M> {
    /// Send this, which is one or more whole frames.
    Send(ConnectionId, Bytes),
    /// Close this one after a flush.
    Close(ConnectionId),
    /// For the handler.
    Mail(M),
}

/// What loop and handles agree on.
#[derive(Debug, Default)]
pub(crate) struct MailboxState {
    /// Who sits in each slot: the generation, or 0 for nobody.
    generations: Vec<u32>,
    /// What was asked for and not seen by the loop yet.
    pub(crate) stop: Option<Stop>,
    /// No letter will be read any more.
    pub(crate) closed: bool,
}

impl MailboxState {
    /// Makes room for so many connections.
    pub(crate) fn reserve(&mut self, connections: usize) {
        self.generations.reserve(connections);
    }

    /// A connection was made.
    pub(crate) fn connection_opened(&mut self, id: ConnectionId) {
        if self.generations.len() <= id.slot() {
            self.generations.resize(id.slot() + 1, 0);
        }
        self.generations[id.slot()] = id.generation();
    }

    /// A connection is gone.
    pub(crate) fn connection_closed(&mut self, id: ConnectionId) {
        if let Some(generation) = self
            .generations
            .get_mut(id.slot())
            .filter(|generation| **generation == id.generation())
        {
            *generation = 0;
        }
    }

    fn check_open(&self, id: ConnectionId) -> Result<(), Refusal> {
        self.check_running()?;
        if self.generations.get(id.slot()) == Some(&id.generation()) {
            Ok(())
        } else {
            Err(Refusal::Gone)
        }
    }

    fn check_running(&self) -> Result<(), Refusal> {
        if self.closed {
            Err(Refusal::Stopped)
        } else {
            Ok(())
        }
    }
}

enum Refusal {
    Gone,
    Stopped,
}

/// Why a letter was not taken. It comes back with the error.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PostError<T> {
    /// The mailbox is full: the loop is behind. Try again later, or give up; nothing was queued.
    Full(T),
    /// The connection is over, and its id will never name another one.
    Gone(T),
    /// The loop has stopped.
    Stopped(T),
}

impl<T> PostError<T> {
    /// What was to be posted.
    pub fn into_inner(self) -> T {
        match self {
            PostError::Full(letter) | PostError::Gone(letter) | PostError::Stopped(letter) => {
                letter
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
            PostError::Gone(_) => "the connection is gone",
            PostError::Stopped(_) => "the loop has stopped",
        })
    }
}

impl<T> Error for PostError<T> {}

impl<M> Handle<M> {
    /// Sends `frame` to a connection. It is encoded already: one whole frame, or several, and never mixed with another thread's.
    ///
    /// Taken is not delivered: if the connection is not established when the loop comes to it, or is closing, the frame is counted as stale and
    /// dropped; if its queue has no room ([`Config::write_cap`](crate::Config::write_cap)), it closes with [`CloseReason::OutboxFull`](crate::CloseReason::OutboxFull).
    ///
    /// **Trap:** what is not a whole frame garbles the stream: encode it with the connection's own [`Codec`](crate::Codec).
    ///
    /// # Errors
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

    /// Hands `mail` to the handler: [`Handler::mail`](crate::Handler::mail) is called with it, in the loop's thread.
    ///
    /// Taken is not read: what was posted before the wish to stop, through a handle, is read before the end; what was posted later, or
    /// waits when the loop ends at once, may be dropped with it.
    ///
    /// # Errors
    /// [`PostError`], with the mail in it: `Full` or `Stopped`.
    pub fn post(&self, mail: M) -> Result<(), PostError<M>> {
        self.post_weighing(mail, 0)
    }

    /// The same for mail that holds `bytes` of memory besides its own size: a `Vec` of a megabyte would count as a few dozen bytes else.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub fn post_weighing(&self, mail: M, bytes: usize) -> Result<(), PostError<M>> {
        self.put(mail, Post::Mail, bytes, MailboxState::check_running)
    }

    /// Closes a connection once all that is queued for it is sent; one that is not established yet is given up.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn close(&self, id: ConnectionId) -> Result<(), PostError<ConnectionId>> {
        self.put(id, Post::Close, 0, |state| state.check_open(id))
    }

    /// Asks the loop to stop gracefully, within `grace` instead of [`Config::drain_timeout`](crate::Config::drain_timeout).
    ///
    /// What was posted before is read before, but for [`Stop::AtOnce`], which nothing holds up.
    /// Of several such wishes the shortest counts. It never fails, however full the mailbox is; a loop that has stopped has done so already.
    pub fn shutdown(&self, grace: Duration) {
        self.stop(Stop::Within(grace));
    }

    /// Asks the loop to stop. Asking again can make it end sooner, and never later.
    pub fn stop(&self, how: Stop) {
        self.mailbox
            .with(|state| state.stop = Stop::firmer(state.stop, Some(how)));
        self.mailbox.notify(|| self.waker.wake());
    }

    /// Puts in the letter that `write` makes of `content`, unless something is against it; then the content comes back.
    fn put<T>(
        &self,
        content: T,
        write: impl FnOnce(T) -> Post<M>,
        weight: usize,
        admit: impl FnOnce(&MailboxState) -> Result<(), Refusal>,
    ) -> Result<(), PostError<T>> {
        let weight = weight.saturating_add(size_of::<Post<M>>());
        match self
            .mailbox
            .put(content, write, weight, admit, || self.waker.wake())
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

/// The loop's own end of the mailbox: when it goes, the handles know.
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

    /// A hand for another thread.
    pub(crate) fn handle(&self) -> Handle<M> {
        self.0.clone()
    }

    /// Takes no more letters, and drops those that wait: nobody will read them.
    pub(crate) fn close(&self) {
        let mut posts = VecDeque::new();
        self.0
            .mailbox
            .take(&mut posts, |_, state| state.closed = true);
        catch_panic(|| drop(posts)); // what they hold is the user's, and may have something to say about it
    }
}

impl<M> Drop for MailboxReceiver<M> {
    fn drop(&mut self) {
        self.close();
    }
}
