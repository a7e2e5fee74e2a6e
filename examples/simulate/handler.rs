//! A handler that uses every feature of a handler: answers, sends to other connections, pauses,
//! sets timers and deadlines, closes, panics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use glassloop::{
    CloseReason, ConnectionId, Context, Direction, FrameOf, Handler, LoopContext, Origin, Stop,
    TimerId, Verdict,
};

use crate::delivery::{HANDLER, Party};
use crate::plan::Op;
use crate::record::SharedRecord;
use crate::wire::{MessageId, Wire, read};

/// The handler of the submit and line workloads.
pub(crate) struct TestHandler<W: Wire> {
    record: SharedRecord,
    /// How long a stop may take.
    grace: Duration,
    /// Pending timers: when they expire, for which connection, and whether they are loop timers.
    timers: BTreeMap<TimerId, (Instant, ConnectionId, bool)>,
    text: Vec<u8>,
    wire: std::marker::PhantomData<W>,
}

/// The state of a connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionState {
    client: Option<Party>,
    /// The rest of a long answer that had no room: the size of a reply, and how many remain.
    rest: Option<(usize, u16)>,
    panics_at_close: bool,
    deadlines: [Option<Instant>; 2],
}

/// Panics without calling the panic hook.
pub(crate) fn panic_deliberately(record: &SharedRecord) -> ! {
    record.borrow_mut().deliberate_panics += 1;
    std::panic::resume_unwind(Box::new("deliberate"))
}

impl<W: Wire> TestHandler<W> {
    pub(crate) fn new(record: SharedRecord, grace: Duration) -> Self {
        Self {
            record,
            grace,
            timers: BTreeMap::new(),
            text: Vec::new(),
            wire: std::marker::PhantomData,
        }
    }

    /// Builds a message to `to`, and records that it is expected.
    fn answer(
        &mut self,
        to: Party,
        from: Party,
        size: usize,
    ) -> <W::Codec as glassloop::Codec>::Message<'_> {
        let number = self.record.borrow_mut().delivery.expect_message(to, from);
        W::answer(MessageId { from, number }, size, &mut self.text)
    }

    /// Sends the rest of a long answer, as far as there is room.
    fn send_rest(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
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

    /// The client at index `number`, and its connection.
    fn other(&self, number: u16) -> (Party, ConnectionId) {
        let record = self.record.borrow();
        let (other, id) = record
            .ids
            .iter()
            .nth(usize::from(number) % record.ids.len())
            .expect("at least one client is connected");
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

    /// Records the timers and deadlines of a closed connection that should have fired by now.
    fn record_missed_timers(&mut self, cx: &mut Context<'_, Self>) {
        let (now, id) = (cx.now(), cx.id());
        let timers = self
            .timers
            .values()
            .filter(|(_, of, of_loop)| *of == id && !*of_loop)
            .map(|(at, ..)| *at);
        let due = timers
            .chain(cx.state().deadlines.into_iter().flatten())
            .filter(|at| *at < now);
        self.record
            .borrow_mut()
            .mistimed
            .extend(due.map(|at| (id, at, None)));
        self.timers
            .retain(|_, (_, of, of_loop)| *of != id || *of_loop);
    }

    fn check_time(&self, id: ConnectionId, now: Instant, at: Instant) {
        if now < at || now > at + Duration::from_millis(2) {
            self.record.borrow_mut().mistimed.push((id, at, Some(now)));
        }
    }

    fn execute(
        &mut self,
        client: Party,
        op: Op,
        size: usize,
        cx: &mut Context<'_, Self>,
    ) -> Verdict {
        match op {
            Op::Ack => {}
            Op::Replies(times) => {
                cx.state().rest = Some((size, times));
                return self.send_rest(cx);
            }
            Op::Pause(millis) => {
                self.set_timer(millis, true, cx);
                return Verdict::Pause;
            }
            Op::MessageOther(other) => {
                let (other, to) = self.other(other);
                if other != client && self.record.borrow().receiving.contains(&other) {
                    self.record.borrow_mut().guaranteed.insert((other, client));
                    cx.send_to(to, self.answer(other, client, size));
                }
            }
            Op::CloseOther(other) => {
                let (other, to) = self.other(other);
                self.record.borrow_mut().expect_close(other, "handler");
                cx.close(to);
            }
            Op::Close => {
                self.record.borrow_mut().expect_close(client, "handler");
                return Verdict::Close;
            }
            Op::Abort => {
                self.record.borrow_mut().expect_close(client, "aborted");
                return Verdict::Abort;
            }
            Op::Panic => {
                self.record
                    .borrow_mut()
                    .expect_close(client, "handler_panicked");
                panic_deliberately(&self.record);
            }
            Op::PanicAtClose => cx.state().panics_at_close = true,
            Op::Timer(millis) => self.set_timer(millis, false, cx),
            Op::ReadDeadline(millis) | Op::WriteDeadline(millis) => {
                let at = cx.now() + Duration::from_millis(millis.into());
                let read = matches!(op, Op::ReadDeadline(_));
                if !read {
                    self.record
                        .borrow_mut()
                        .expect_close(client, "write_deadline");
                }
                cx.state().deadlines[usize::from(!read)] = Some(at);
                if read {
                    cx.set_read_deadline(Some(at));
                } else {
                    cx.set_write_deadline(Some(at));
                }
            }
            Op::Stop => {
                self.record
                    .borrow_mut()
                    .stop(Stop::Gracefully, cx.now(), self.grace);
                return Verdict::Stop;
            }
        }
        Verdict::Continue
    }
}

impl<W: Wire> Handler for TestHandler<W> {
    type Codec = W::Codec;
    type State = ConnectionState;
    type Mail = u16;

    fn connection(&mut self, _: &Origin) -> (W::Codec, ConnectionState) {
        (W::codec(), ConnectionState::default())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        cx.expect_handshake();
        Verdict::Continue
    }

    fn frame(&mut self, frame: FrameOf<'_, Self>, cx: &mut Context<'_, Self>) -> Verdict {
        let text = W::text(&frame);
        let Some((id, op, intact)) = read(text) else {
            self.record.borrow_mut().delivery.errors.altered += 1;
            return Verdict::Close;
        };
        let (client, size) = (id.from, text.len() - crate::wire::HEAD);
        {
            let mut record = self.record.borrow_mut();
            record.delivery.receive(HANDLER, client, id.number, intact);
            if cx.state().client.replace(client).is_none() {
                record.ids.insert(client, cx.id());
            }
        }
        cx.send(self.answer(client, client, size));
        self.execute(client, op, size, cx)
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        if cx.state().rest.is_none() {
            return Verdict::Continue;
        }
        let verdict = self.send_rest(cx);
        if verdict == Verdict::Continue {
            let id = cx.id();
            cx.resume(id);
        }
        verdict
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        let now = cx.now();
        if let Some(at) = cx.state().deadlines[which as usize].take() {
            self.check_time(cx.id(), now, at);
        }
        match which {
            Direction::Read => cx.set_read_deadline(None),
            Direction::Write => cx.set_write_deadline(None),
        }
        Verdict::Continue
    }

    fn timer(&mut self, timer: TimerId, cx: &mut Context<'_, Self>) -> Verdict {
        if let Some((at, ..)) = self.timers.remove(&timer) {
            self.check_time(cx.id(), cx.now(), at);
        }
        Verdict::Continue
    }

    fn loop_timer(&mut self, timer: TimerId, cx: &mut LoopContext<'_, Self>) {
        if let Some((at, id, _)) = self.timers.remove(&timer) {
            self.check_time(id, cx.now(), at);
            cx.resume(id);
        }
    }

    fn mail(&mut self, to_client: u16, cx: &mut LoopContext<'_, Self>) {
        self.record.borrow_mut().posts.1 += 1;
        if self.record.borrow().ids.is_empty() {
            return;
        }
        let (to, id) = self.other(to_client);
        if !self.record.borrow().receiving.contains(&to) {
            return;
        }
        self.record.borrow_mut().guaranteed.insert((to, HANDLER));
        cx.send_to(id, self.answer(to, HANDLER, 10));
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, _: &CloseReason) {
        let Some(client) = cx.state().client else {
            return;
        };
        self.record.borrow_mut().receiving.remove(&client);
        self.record_missed_timers(cx);
        if cx.state().panics_at_close {
            panic_deliberately(&self.record);
        }
    }

    fn eof(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        cx.state().client.into_iter().for_each(|client| {
            self.record.borrow_mut().receiving.remove(&client);
        });
        // A long answer is not finished.
        if cx.state().rest.is_some() {
            Verdict::Continue
        } else {
            Verdict::Close
        }
    }
}
