//! A simple model of a connection, written from its documentation, and the handler that checks
//! against it.

use std::panic::resume_unwind;
use std::time::{Duration, Instant};

use glassloop::codec::Codec;
use glassloop::internals::{Reading, State};
use glassloop::{
    CloseReason, Config, Context, Direction, Handler, MessageOf, Origin, SendError, Verdict,
};

use super::draw::size;
use super::reference::{ErrorOf, Field, FrameOf, Line, ReferenceCodec};

/// A codec whose messages have the format of its frames.
pub trait Duplex: ReferenceCodec {
    fn message(body: &[u8]) -> <Self::Codec as Codec>::Message<'_>;
}

impl Duplex for Field {
    fn message(body: &[u8]) -> glassloop::codec::Framed<'_> {
        body.into()
    }
}

impl Duplex for Line {
    fn message(body: &[u8]) -> &[u8] {
        body
    }
}

/// A connection's state in a form that can be compared.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelState {
    Connecting,
    Open(Reading),
    Draining { reason: String, linger: bool },
    Lingering(String),
    Closed(String),
}

impl ModelState {
    pub fn of<R: ReferenceCodec>(state: &State) -> Self {
        match state {
            State::Connecting => ModelState::Connecting,
            State::Open(reading) => ModelState::Open(*reading),
            State::Draining { reason, linger } => ModelState::Draining {
                reason: text::<R>(reason),
                linger: *linger,
            },
            State::Lingering(reason) => ModelState::Lingering(text::<R>(reason)),
            State::Closed(reason) => ModelState::Closed(text::<R>(reason)),
        }
    }
}

/// A close reason with all its numbers.
fn text<R: ReferenceCodec>(reason: &CloseReason) -> String {
    match reason.protocol().copied().map(R::comparable) {
        Some(error) => format!("{}: {error}", reason.name()),
        None => reason.to_string(),
    }
}

/// A state that an expired timeout leads to.
#[derive(Debug)]
pub struct Timeout {
    pub state: ModelState,
    /// True if it should have been enforced by now.
    pub is_late: bool,
}

/// A deadline set by the handler.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Due {
    Never,
    At(u64),
    Expired,
}

/// In the upper half of a response: clear both deadlines.
pub const CLEAR_DEADLINES: u8 = 0xf0;
/// The longest message that a test builds. At the highest limits, messages would take gigabytes.
const MAX_BODY: usize = 70_000;
/// In the lower half of a response: [`Verdict::Close`].
pub const CLOSE: u8 = 0x0b;

/// The handler and the model. It stores errors found in callbacks, since a panic there would only
/// close the connection.
pub struct ModelHandler<R> {
    codec: R,
    config: Config,
    responses: Vec<u8>,
    next_index: usize,
    error: Option<String>,
    /// Milliseconds since `begun`.
    pub now: u64,
    begun: Instant,

    /// Everything the peer has sent; how many bytes were received, and how many of them handled.
    pub stream: Vec<u8>,
    pub fed: usize,
    handled: usize,
    /// Bytes received in total after each read, and its time.
    arrivals: Vec<(usize, u64)>,
    pub input_ended: bool,

    pub state: ModelState,
    /// Queued and not written.
    pub queue: Vec<u8>,
    /// Its length before the batch.
    queue_before: usize,
    write_blocked: bool,
    full: bool,
    /// Why a message was refused in this callback.
    refused: Option<CloseReason>,
    /// True if a command for another connection was queued. No reactor carries it out here.
    command_queued: bool,
    serial: usize,

    /// The read and the write deadline; those that the handler was notified of in this round, and
    /// whether it set one in it.
    deadlines: [Due; 2],
    pub notified: Vec<Direction>,
    deadline_set: bool,
    active: u64,
    moved: u64,
    handshake: Option<u64>,

    pub frames: u64,
    pub panics: u64,
    pub dropped: u64,
    opens: u32,
    eofs: u32,
    closes: u32,
}

impl<R: Duplex> ModelHandler<R> {
    pub fn new(codec: R, config: Config, responses: Vec<u8>, begun: Instant) -> Self {
        Self {
            codec,
            config,
            responses,
            next_index: 0,
            error: None,
            now: 0,
            begun,
            stream: Vec::new(),
            fed: 0,
            handled: 0,
            arrivals: Vec::new(),
            input_ended: false,
            state: ModelState::Open(Reading::Flowing),
            queue: Vec::new(),
            queue_before: 0,
            write_blocked: false,
            full: false,
            refused: None,
            command_queued: false,
            serial: 0,
            deadlines: [Due::Never; 2],
            notified: Vec::new(),
            deadline_set: false,
            active: 0,
            moved: 0,
            handshake: None,
            frames: 0,
            panics: 0,
            dropped: 0,
            opens: 0,
            eofs: 0,
            closes: 0,
        }
    }

    // State.

    pub fn check(&self) {
        if let Some(error) = &self.error {
            panic!("{error}");
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, ModelState::Open(_))
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state, ModelState::Closed(_))
    }

    pub fn is_reading(&self) -> bool {
        let flowing = self.state == ModelState::Open(Reading::Flowing)
            && self.due(Direction::Read) != Due::Expired;
        flowing || matches!(self.state, ModelState::Lingering(_))
    }

    pub fn is_writing(&self) -> bool {
        let deadline_passed = self.is_open() && self.due(Direction::Write) == Due::Expired;
        !self.queue.is_empty() && !deadline_passed
    }

    pub fn is_drained(&self) -> bool {
        self.full
            && self.queue.len() <= self.config.write_low
            && self.is_open()
            && self.due(Direction::Write) != Due::Expired
    }

    /// Bytes received, and neither handled nor dropped.
    pub fn held(&self) -> usize {
        if self.is_open() {
            self.fed - self.handled
        } else {
            0
        }
    }

    /// Bytes received and dropped: all or none of the unhandled ones.
    pub fn discarded(&self) -> u64 {
        (self.fed - self.handled - self.held()) as u64
    }

    /// True if a whole frame, or bytes that can never be one, are first in the inbox.
    pub fn is_frame_waiting(&self) -> bool {
        self.is_open()
            && self
                .codec
                .first(&self.stream[self.handled..self.fed])
                .is_some()
    }

    /// True if queued commands block all batches.
    pub fn is_blocked_by_commands(&self) -> bool {
        self.command_queued && self.config.command_high == 1
    }

    fn due(&self, direction: Direction) -> Due {
        self.deadlines[direction as usize]
    }

    fn is_due(&self, direction: Direction) -> bool {
        matches!(self.due(direction), Due::At(at) if at <= self.now)
    }

    fn has_expired(&self, direction: Direction) -> bool {
        self.is_due(direction) || self.due(direction) == Due::Expired
    }

    pub fn is_any_due(&self) -> bool {
        self.is_open() && (self.is_due(Direction::Read) || self.is_due(Direction::Write))
    }

    // Events.

    pub fn peer_sends(&mut self, body: &[u8]) {
        self.stream
            .extend(self.codec.encode(body).unwrap_or_default());
    }

    pub fn record_received(&mut self, n: usize) {
        self.fed += n;
        self.arrivals.push((self.fed, self.now));
        self.active = self.now;
        self.queue_before = self.queue.len();
    }

    pub fn before_proceed(&mut self) {
        self.queue_before = self.queue.len();
        if self.state == ModelState::Open(Reading::Yielded) {
            self.state = ModelState::Open(Reading::Flowing);
        }
    }

    /// After a batch every frame that could be handled was, or something else stops the batch.
    pub fn after_batch(&mut self, has_yielded: bool) {
        if self.state != ModelState::Open(Reading::Flowing) {
            return;
        }
        if self.has_expired(Direction::Read) || self.is_blocked_by_commands() {
            // It need not have checked whether the bytes are a whole frame.
            if has_yielded && self.held() > 0 {
                self.state = ModelState::Open(Reading::Yielded);
            } else if self.is_frame_waiting() {
                self.set_error("a frame that may not be handled yet was lost");
            }
            return;
        }
        match self.codec.first(&self.stream[self.handled..self.fed]) {
            None => {}
            Some(Ok(_)) => self.set_error("a whole frame was not handled"),
            Some(Err(error)) => self.close_gracefully(&CloseReason::Protocol(Box::new(error))),
        }
    }

    pub fn record_written(&mut self, n: usize) {
        self.queue.drain(..n);
        (self.active, self.moved) = (self.now, self.now);
    }

    pub fn after_flush(&mut self) {
        self.write_blocked &= self.queue.len() > self.config.write_low;
        match &self.state {
            ModelState::Open(Reading::WriteBlocked) if !self.write_blocked => {
                self.state = ModelState::Open(Reading::Flowing);
            }
            ModelState::Draining { reason, linger } if self.queue.is_empty() => {
                let reason = reason.clone();
                self.set_state(if *linger {
                    ModelState::Lingering(reason)
                } else {
                    ModelState::Closed(reason)
                });
            }
            _ => {}
        }
    }

    pub fn record_resume(&mut self) {
        if self.state == ModelState::Open(Reading::Paused) {
            self.state = ModelState::Open(if self.write_blocked {
                Reading::WriteBlocked
            } else {
                Reading::Flowing
            });
        }
    }

    /// Another connection sends a message here. Returns its bytes.
    pub fn record_message(&mut self, size: usize) -> Vec<u8> {
        let body = self.body(size);
        let bytes = self.codec.encode(&body).unwrap_or(body);
        let (queued, cap) = (self.queue.len() + bytes.len(), self.config.write_cap);
        if self.has_expired(Direction::Write) {
            self.close_at_once(&CloseReason::WriteDeadline { unsent: queued });
        } else if queued > cap {
            self.close_gracefully(&CloseReason::OutboxFull { queued, cap });
        } else {
            self.enqueue(&bytes);
        }
        bytes
    }

    /// The peer's FIN is read. The handler is called after that.
    pub fn record_eof(&mut self) {
        self.input_ended = true;
        if let ModelState::Lingering(reason) = &self.state {
            return self.set_state(ModelState::Closed(reason.clone()));
        }
        let held = self.held();
        self.state = ModelState::Open(Reading::Ended);
        if held > 0 {
            self.close_gracefully(&CloseReason::Truncated { held });
        }
    }

    /// The timeouts that may have expired.
    pub fn possible_timeouts(&self) -> Vec<Timeout> {
        let mut ends = Vec::new();
        let mut consider = |since: u64, time: Option<Duration>, slack: u64, state: ModelState| {
            let Some(over) = time.map(|time| since + time.as_millis() as u64) else {
                return;
            };
            if over <= self.now {
                ends.push(Timeout {
                    state,
                    is_late: self.now > over + slack,
                });
            }
        };
        let Config {
            idle_timeout,
            frame_timeout,
            write_timeout,
            handshake_timeout,
            drain_timeout,
            linger_timeout,
            ..
        } = self.config;
        let after = |time: Option<Duration>| time.unwrap_or_default();
        let (held, unsent) = (self.held(), self.queue.len());
        match &self.state {
            ModelState::Open(_) => {
                if let Some(since) = self.handshake {
                    let reason = CloseReason::HandshakeTimeout {
                        after: after(handshake_timeout),
                    };
                    consider(since, handshake_timeout, 20, self.closing(&reason));
                }
                if self.is_reading() && held > 0 {
                    let began = self
                        .arrivals
                        .iter()
                        .find(|(end, _)| *end > self.handled)
                        .map_or(self.now, |(_, when)| *when);
                    let reason = CloseReason::FrameTimeout {
                        held,
                        after: after(frame_timeout),
                    };
                    consider(began, frame_timeout, u64::MAX / 2, self.closing(&reason));
                }
                if self.is_writing() {
                    let reason = CloseReason::WriteTimeout {
                        unsent,
                        after: after(write_timeout),
                    };
                    consider(
                        self.moved,
                        write_timeout,
                        20,
                        ModelState::Closed(text::<R>(&reason)),
                    );
                }
                let reason = CloseReason::IdleTimeout {
                    after: after(idle_timeout),
                };
                consider(self.active, idle_timeout, 20, self.closing(&reason));
            }
            ModelState::Draining { reason, .. } => {
                let late = text::<R>(&CloseReason::DrainTimeout { unsent });
                let reason = if unsent > 0 { late } else { reason.clone() };
                consider(
                    self.moved,
                    Some(drain_timeout),
                    2,
                    ModelState::Closed(reason),
                );
            }
            ModelState::Lingering(reason) => {
                consider(
                    self.active,
                    Some(linger_timeout),
                    2,
                    ModelState::Closed(reason.clone()),
                );
                consider(
                    self.moved,
                    Some(drain_timeout),
                    2,
                    ModelState::Closed(reason.clone()),
                );
            }
            ModelState::Connecting | ModelState::Closed(_) => {}
        }
        ends
    }

    pub fn before_deadlines(&mut self) {
        self.notified.clear();
        self.deadline_set = false;
    }

    /// The handler may be notified later of deadlines that it sets during a notification.
    pub fn after_deadlines(&mut self) {
        if self.is_any_due() && !self.deadline_set {
            self.set_error("a deadline has expired, and the handler was not called");
        }
    }

    /// Changes the state.
    pub fn set_state(&mut self, state: ModelState) {
        if state == self.state {
            return;
        }
        if let ModelState::Closed(_) = state {
            self.dropped += self.queue.len() as u64;
            self.queue.clear();
        }
        (self.active, self.moved) = (self.now, self.now);
        self.state = state;
    }

    fn closing(&self, reason: &CloseReason) -> ModelState {
        use CloseReason::{FrameTimeout, HandshakeTimeout, IdleTimeout, ReadDeadline};
        let is_peer_timeout = matches!(
            reason,
            FrameTimeout { .. } | HandshakeTimeout { .. } | IdleTimeout { .. } | ReadDeadline
        );
        let linger = !is_peer_timeout && self.state != ModelState::Open(Reading::Ended);
        ModelState::Draining {
            reason: text::<R>(reason),
            linger,
        }
    }

    /// Closes the connection after sending the queue.
    fn close_gracefully(&mut self, reason: &CloseReason) {
        if self.is_open() {
            self.set_state(self.closing(reason));
        }
    }

    /// Closes the connection at once.
    fn close_at_once(&mut self, reason: &CloseReason) {
        if let ModelState::Open(_) | ModelState::Draining { .. } = self.state {
            self.set_state(ModelState::Closed(text::<R>(reason)));
        }
    }

    fn set_error(&mut self, error: impl Into<String>) {
        self.error.get_or_insert(error.into());
    }

    fn expect(&mut self, right: bool, what: &str) {
        if !right {
            self.set_error(format!("{what}; the connection should be {:?}", self.state));
        }
    }

    fn enqueue(&mut self, wire: &[u8]) {
        if self.queue.is_empty() {
            self.moved = self.now;
        }
        self.queue.extend_from_slice(wire);
        self.full |= self.queue.len() >= self.config.write_high;
    }

    /// A body that differs from all others, so that a lost or repeated message is noticed.
    fn body(&mut self, n: usize) -> Vec<u8> {
        self.serial += 1;
        (self.serial..)
            .take(n)
            .map(|n| b'a' + (n % 26) as u8)
            .collect()
    }

    // Responses.

    /// A callback that the driver asked for.
    pub fn called(&mut self, cx: &mut Context<'_, Self>, how: u8, amount: u8) -> Verdict {
        self.answer(cx, (how, amount), CloseReason::Handler)
    }

    fn next_response(&mut self) -> (u8, u8) {
        let [how, amount] = [0, 1].map(|n| {
            self.responses
                .get((self.next_index + n) % self.responses.len().max(1))
                .copied()
                .unwrap_or(0)
        });
        self.next_index += 2;
        (how, amount)
    }

    /// Does what the two bytes of a response say, in one callback. A verdict to close has the
    /// reason `close`.
    fn answer(
        &mut self,
        cx: &mut Context<'_, Self>,
        (how, amount): (u8, u8),
        close: CloseReason,
    ) -> Verdict {
        self.expect(
            self.refused.is_none() && cx.pending() == self.queue.len(),
            "a callback starts with the queue that the previous one left",
        );
        match how >> 4 {
            0 | 1 => {}
            2..=5 => self.send(cx, size(amount)),
            6 | 7 => self.try_send(cx, size(amount)),
            8 => (0..amount % 8).for_each(|n| self.send(cx, n.into())),
            9 => self.set_deadline(cx, Direction::Read, amount),
            10 => self.set_deadline(cx, Direction::Write, amount),
            11 => {
                cx.resume(cx.id());
                self.command_queued = true;
            }
            12 => {
                cx.expect_handshake();
                self.handshake = Some(self.now);
            }
            13 => self.send(cx, self.codec.max().min(MAX_BODY) + usize::from(amount)),
            14 => self.try_send(
                cx,
                self.config.write_cap.min(MAX_BODY) + usize::from(amount),
            ),
            _ => {
                cx.set_deadline(None);
                self.deadlines = [Due::Never; 2];
            }
        }
        let verdict = match how & 15 {
            10 | 15 => Verdict::Pause,
            CLOSE => Verdict::Close,
            12 => Verdict::Abort,
            13 => Verdict::Stop,
            14 => self.panic(),
            _ => Verdict::Continue,
        };
        self.apply_verdict(verdict, close);
        verdict
    }

    fn apply_verdict(&mut self, verdict: Verdict, close: CloseReason) {
        match (verdict, self.refused.take()) {
            (Verdict::Abort, _) => self.close_at_once(&CloseReason::Aborted),
            (_, Some(reason @ CloseReason::WriteDeadline { .. })) => self.close_at_once(&reason),
            (_, Some(reason)) => self.close_gracefully(&reason),
            (Verdict::Pause, None)
                if self.is_open() && self.state != ModelState::Open(Reading::Ended) =>
            {
                self.state = ModelState::Open(Reading::Paused);
            }
            (Verdict::Close, None) => match close {
                CloseReason::WriteDeadline { .. } => {
                    self.close_at_once(&CloseReason::WriteDeadline {
                        unsent: self.queue.len(),
                    });
                }
                close => self.close_gracefully(&close),
            },
            _ => {}
        }
    }

    /// Panics without calling the panic hook.
    fn panic(&mut self) -> ! {
        self.panics += 1;
        self.refused = None;
        self.close_gracefully(&CloseReason::HandlerPanicked);
        resume_unwind(Box::new("deliberate"));
    }

    /// The expected result of sending a message.
    fn expected_result(&self, body: &[u8]) -> Result<Vec<u8>, SendError<ErrorOf<R>>> {
        if self.refused.is_some() || self.is_closed() {
            return Err(SendError::Closed);
        }
        if self.has_expired(Direction::Write) {
            return Err(SendError::DeadlinePassed);
        }
        let wire = self.codec.encode(body).map_err(SendError::Unencodable)?;
        let (queued, cap) = (self.queue.len() + wire.len(), self.config.write_cap);
        if queued > cap {
            Err(SendError::OutboxFull { queued, cap })
        } else {
            Ok(wire)
        }
    }

    fn send(&mut self, cx: &mut Context<'_, Self>, size: usize) {
        let body = self.body(size);
        let expected_result = self.expected_result(&body);
        cx.send(R::message(&body));
        match expected_result {
            Ok(wire) => self.enqueue(&wire),
            Err(SendError::DeadlinePassed) => {
                self.refused = Some(CloseReason::WriteDeadline {
                    unsent: self.queue.len(),
                });
            }
            Err(SendError::OutboxFull { queued, cap }) => {
                self.refused = Some(CloseReason::OutboxFull { queued, cap });
            }
            Err(SendError::Unencodable(error)) => {
                self.refused = Some(CloseReason::Unencodable(Box::new(error)));
            }
            Err(_) => {}
        }
        self.check_queue(cx);
    }

    fn try_send(&mut self, cx: &mut Context<'_, Self>, size: usize) {
        let body = self.body(size);
        let expected_result = self.expected_result(&body);
        let message: MessageOf<'_, Self> = R::message(&body);
        match (cx.try_send(message), expected_result) {
            (Ok(()), Ok(wire)) => self.enqueue(&wire),
            (Err(notified), Err(expected)) if notified.to_string() == expected.to_string() => {}
            (result, expected) => {
                self.set_error(format!("{result:?} where {expected:?} was expected"));
            }
        }
        self.check_queue(cx);
    }

    fn check_queue(&mut self, cx: &Context<'_, Self>) {
        let is_right = cx.pending() == self.queue.len()
            && cx.has_room() == (self.queue.len() < self.config.write_high);
        self.expect(is_right, "the queue is wrong");
    }

    fn set_deadline(&mut self, cx: &mut Context<'_, Self>, direction: Direction, amount: u8) {
        // A time in the past, now, in the future, or none.
        let at = match amount {
            0..=9 => Some(self.now.saturating_sub(amount.into())),
            10..=219 => Some(self.now + u64::from(amount)),
            _ => None,
        };
        let instant = at.map(|at| self.begun + Duration::from_millis(at));
        match direction {
            Direction::Read => cx.set_read_deadline(instant),
            Direction::Write => cx.set_write_deadline(instant),
        }
        self.deadlines[direction as usize] = at.map_or(Due::Never, Due::At);
        self.deadline_set = true;
    }
}

impl<R: Duplex> Handler for ModelHandler<R> {
    type Codec = R::Codec;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (R::Codec, ()) {
        (self.codec.codec(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.opens += 1;
        self.expect(self.opens == 1, "open is called once");
        let response = self.next_response();
        self.answer(cx, response, CloseReason::Handler)
    }

    fn frame(&mut self, frame: FrameOf<'_, R>, cx: &mut Context<'_, Self>) -> Verdict {
        let parts = R::parts(&frame);
        self.expect(
            self.state == ModelState::Open(Reading::Flowing),
            "a frame is handled only while the connection reads",
        );
        self.expect(
            !self.has_expired(Direction::Read) && !self.is_blocked_by_commands(),
            "a frame is handled only before its deadline, without blocking commands",
        );
        match self.codec.first(&self.stream[self.handled..self.fed]) {
            Some(Ok((length, expected))) if expected == parts => self.handled += length,
            other => self.set_error(format!(
                "{parts:?} at byte {}, where {other:?} was expected",
                self.handled
            )),
        }
        self.frames += 1;
        self.handshake = None;
        let byte = |n: usize| parts.1.get(n).copied().unwrap_or(0);
        let verdict = self.answer(cx, (byte(0), byte(1)), CloseReason::Handler);
        if self.queue.len() >= self.config.write_high && self.queue.len() > self.queue_before {
            self.write_blocked = true;
            if self.state == ModelState::Open(Reading::Flowing) {
                self.state = ModelState::Open(Reading::WriteBlocked);
            }
        }
        verdict
    }

    fn eof(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.eofs += 1;
        self.expect(
            self.eofs == 1 && self.state == ModelState::Open(Reading::Ended),
            "eof is called once, after all frames",
        );
        let response = self.next_response();
        self.answer(cx, response, CloseReason::PeerClosed)
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.expect(
            self.is_drained(),
            "drained is called when there is room again",
        );
        self.full = false;
        let response = self.next_response();
        let verdict = self.answer(cx, response, CloseReason::Handler);
        self.full |= self.queue.len() >= self.config.write_high;
        verdict
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        self.expect(
            self.is_open() && self.is_due(which) && !self.notified.contains(&which),
            "deadline is called once, after it has expired",
        );
        self.notified.push(which);
        self.deadlines[which as usize] = Due::Expired;
        let response = self.next_response();
        let close = match which {
            Direction::Read => CloseReason::ReadDeadline,
            Direction::Write => CloseReason::WriteDeadline { unsent: 0 },
        };
        self.answer(cx, response, close)
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        self.closes += 1;
        let is_right = self.closes == 1 && self.state == ModelState::Closed(text::<R>(reason));
        self.expect(is_right, "close is called once, with the first reason");
        let response = self.next_response();
        let _ = self.answer(cx, response, CloseReason::Handler);
        self.expect(self.queue.is_empty(), "nothing is queued after the close");
    }
}

impl<R> ModelHandler<R> {
    /// Checks the number of calls after the close.
    pub fn check_callbacks(&self) {
        assert!(
            self.closes == 1 && self.opens == 1,
            "{} opens, {} closes",
            self.opens,
            self.closes
        );
    }
}
