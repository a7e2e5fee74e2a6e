//! A handler that does everything a handler may: answers, tells others, waits, pauses, closes itself and others, panics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use glassloop::{
    CloseReason, ConnectionId, Context, Direction, FrameOf, Handler, LoopContext, Origin, Stop,
    TimerId, Verdict,
};

use crate::ledger::Book;
use crate::oracle::{HUB, Party};
use crate::plan::Op;
use crate::wire::{Name, Wire, read};

/// The handler of the submit and line workloads.
pub(crate) struct Hub<W: Wire> {
    book: Book,
    /// How long the loop has to stop.
    grace: Duration,
    /// What timers are to come, when, for whom, and whether they belong to the loop.
    timers: BTreeMap<TimerId, (Instant, ConnectionId, bool)>,
    text: Vec<u8>,
    wire: std::marker::PhantomData<W>,
}

/// What the handler remembers of a connection.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    client: Option<Party>,
    /// A long answer that has no room yet: its size, and how often it is still to come.
    rest: Option<(usize, u16)>,
    panics_at_close: bool,
    deadlines: [Option<Instant>; 2],
}

/// Panics without a word on the screen: it is meant.
pub(crate) fn panic_on_purpose(book: &Book) -> ! {
    book.borrow_mut().panics += 1;
    std::panic::resume_unwind(Box::new("on purpose"))
}

impl<W: Wire> Hub<W> {
    pub(crate) fn new(book: Book, grace: Duration) -> Self {
        Self {
            book,
            grace,
            timers: BTreeMap::new(),
            text: Vec::new(),
            wire: std::marker::PhantomData,
        }
    }

    /// Promises an answer to `to`, and makes it.
    fn answer(
        &mut self,
        to: Party,
        from: Party,
        size: usize,
    ) -> <W::Codec as glassloop::Codec>::Message<'_> {
        let number = self.book.borrow_mut().oracle.owe(to, from);
        W::answer(Name { from, number }, size, &mut self.text)
    }

    /// Goes on with a long answer, as far as there is room.
    fn resume_connection(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        let (Some(client), Some((size, mut times))) = (cx.state().client, cx.state().rest.take())
        else {
            return Verdict::Continue;
        };
        while times > 0 && cx.has_room() {
            cx.send(self.answer(client, client, size));
            times -= 1;
        }
        if times == 0 {
            return Verdict::Continue;
        }
        cx.state().rest = Some((size, times));
        Verdict::Pause
    }

    /// Another client, and its connection.
    fn other(&self, number: u16) -> (Party, ConnectionId) {
        let book = self.book.borrow();
        let (other, id) = book
            .ids
            .iter()
            .nth(usize::from(number) % book.ids.len())
            .expect("whoever asks is one of them");
        (*other, *id)
    }

    fn set_timer(&mut self, millis: u16, resumes: bool, cx: &mut Context<'_, Self>) {
        let at = cx.now() + Duration::from_millis(millis.into());
        let (id, timer) = (
            cx.id(),
            if resumes {
                cx.set_loop_timer(at)
            } else {
                cx.set_timer(at)
            },
        );
        self.timers.insert(timer, (at, id, resumes));
    }

    /// A connection is over: its timers and deadlines that should have come by now have not.
    fn note_what_never_came(&mut self, cx: &mut Context<'_, Self>) {
        let (now, id) = (cx.now(), cx.id());
        let timers = self
            .timers
            .values()
            .filter(|(_, of, of_loop)| *of == id && !*of_loop)
            .map(|(at, ..)| *at);
        let due = timers
            .chain(cx.state().deadlines.into_iter().flatten())
            .filter(|at| *at < now);
        self.book
            .borrow_mut()
            .untimely
            .extend(due.map(|at| (id, at, None)));
        self.timers
            .retain(|_, (_, of, of_loop)| *of != id || *of_loop);
    }

    fn note_time(&self, id: ConnectionId, now: Instant, at: Instant) {
        if now < at || now > at + Duration::from_millis(2) {
            self.book.borrow_mut().untimely.push((id, at, Some(now)));
        }
    }

    fn carry_out(
        &mut self,
        client: Party,
        op: Op,
        size: usize,
        cx: &mut Context<'_, Self>,
    ) -> Verdict {
        match op {
            Op::Ack => {}
            Op::Much(times) => {
                cx.state().rest = Some((size, times));
                return self.resume_connection(cx);
            }
            Op::Pause(millis) => {
                self.set_timer(millis, true, cx);
                return Verdict::Pause;
            }
            Op::Tell(other) => {
                let (other, to) = self.other(other);
                if other != client && self.book.borrow().attentive.contains(&other) {
                    self.book.borrow_mut().promised.insert((other, client));
                    cx.send_to(to, self.answer(other, client, size));
                }
            }
            Op::CloseOther(other) => {
                let (other, to) = self.other(other);
                self.book.borrow_mut().doom(other, "handler");
                cx.close(to);
            }
            Op::Close => {
                self.book.borrow_mut().doom(client, "handler");
                return Verdict::Close;
            }
            Op::Abort => {
                self.book.borrow_mut().doom(client, "aborted");
                return Verdict::Abort;
            }
            Op::Panic => {
                self.book.borrow_mut().doom(client, "handler_panicked");
                panic_on_purpose(&self.book);
            }
            Op::PanicAtClose => cx.state().panics_at_close = true,
            Op::Timer(millis) => self.set_timer(millis, false, cx),
            Op::ReadDeadline(millis) | Op::WriteDeadline(millis) => {
                let at = cx.now() + Duration::from_millis(millis.into());
                let read = matches!(op, Op::ReadDeadline(_));
                if !read {
                    self.book.borrow_mut().doom(client, "write_deadline");
                }
                cx.state().deadlines[usize::from(!read)] = Some(at);
                if read {
                    cx.set_read_deadline(Some(at));
                } else {
                    cx.set_write_deadline(Some(at));
                }
            }
            Op::Stop => {
                self.book
                    .borrow_mut()
                    .stop(Stop::Gracefully, cx.now(), self.grace);
                return Verdict::Stop;
            }
        }
        Verdict::Continue
    }
}

impl<W: Wire> Handler for Hub<W> {
    type Codec = W::Codec;
    type State = Guest;
    type Mail = u16;

    fn connection(&mut self, _: &Origin) -> (W::Codec, Guest) {
        (W::codec(), Guest::default())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        cx.expect_handshake();
        Verdict::Continue
    }

    fn frame(&mut self, frame: FrameOf<'_, Self>, cx: &mut Context<'_, Self>) -> Verdict {
        let text = W::text(&frame);
        let Some((name, op, intact)) = read(text) else {
            self.book.borrow_mut().oracle.wrongs.altered += 1;
            return Verdict::Close;
        };
        let (client, size) = (name.from, text.len() - crate::wire::HEAD);
        {
            let mut book = self.book.borrow_mut();
            book.oracle.see(HUB, client, name.number, intact);
            if cx.state().client.replace(client).is_none() {
                book.ids.insert(client, cx.id());
            }
        }
        cx.send(self.answer(client, client, size));
        self.carry_out(client, op, size, cx)
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        if cx.state().rest.is_none() {
            return Verdict::Continue;
        }
        let verdict = self.resume_connection(cx);
        if verdict == Verdict::Continue {
            let id = cx.id();
            cx.resume(id);
        }
        verdict
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        let now = cx.now();
        if let Some(at) = cx.state().deadlines[which as usize].take() {
            self.note_time(cx.id(), now, at);
        }
        match which {
            Direction::Read => cx.set_read_deadline(None),
            Direction::Write => cx.set_write_deadline(None),
        }
        Verdict::Continue
    }

    fn timer(&mut self, timer: TimerId, cx: &mut Context<'_, Self>) -> Verdict {
        if let Some((at, ..)) = self.timers.remove(&timer) {
            self.note_time(cx.id(), cx.now(), at);
        }
        Verdict::Continue
    }

    fn loop_timer(&mut self, timer: TimerId, cx: &mut LoopContext<'_, Self>) {
        if let Some((at, id, _)) = self.timers.remove(&timer) {
            self.note_time(id, cx.now(), at);
            cx.resume(id);
        }
    }

    fn mail(&mut self, whom: u16, cx: &mut LoopContext<'_, Self>) {
        self.book.borrow_mut().letters.1 += 1;
        if self.book.borrow().ids.is_empty() {
            return;
        }
        let (to, id) = self.other(whom);
        if !self.book.borrow().attentive.contains(&to) {
            return;
        }
        self.book.borrow_mut().promised.insert((to, HUB));
        cx.send_to(id, self.answer(to, HUB, 10));
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, _: &CloseReason) {
        let Some(client) = cx.state().client else {
            return;
        };
        self.book.borrow_mut().attentive.remove(&client);
        self.note_what_never_came(cx);
        if cx.state().panics_at_close {
            panic_on_purpose(&self.book);
        }
    }

    fn eof(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        cx.state().client.into_iter().for_each(|client| {
            self.book.borrow_mut().attentive.remove(&client);
        });
        // A long answer is still owed.
        if cx.state().rest.is_some() {
            Verdict::Continue
        } else {
            Verdict::Close
        }
    }
}
