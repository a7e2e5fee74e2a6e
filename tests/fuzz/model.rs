//! What a connection should be, by the rules of its documentation, written down as naively as can be: and the handler that knows them.

use std::panic::resume_unwind;
use std::time::{Duration, Instant};

use glassloop::codec::Codec;
use glassloop::internals::{Reading, State};
use glassloop::{
    CloseReason, Config, Context, Direction, Handler, MessageOf, Origin, SendError, Verdict,
};

use super::draw::size;
use super::reference::{ErrorOf, Field, FrameOf, Line, Rules};

/// Rules for both directions: what is sent looks like what comes in.
pub trait Talk: Rules {
    fn message(body: &[u8]) -> <Self::Codec as Codec>::Message<'_>;
}

impl Talk for Field {
    fn message(body: &[u8]) -> glassloop::codec::Framed<'_> {
        body.into()
    }
}

impl Talk for Line {
    fn message(body: &[u8]) -> &[u8] {
        body
    }
}

/// A state that can be compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Stand {
    Connecting,
    Open(Reading),
    Draining { reason: String, linger: bool },
    Lingering(String),
    Closed(String),
}

impl Stand {
    pub fn of<R: Rules>(state: &State) -> Self {
        match state {
            State::Connecting => Stand::Connecting,
            State::Open(reading) => Stand::Open(*reading),
            State::Draining { reason, linger } => Stand::Draining {
                reason: text::<R>(reason),
                linger: *linger,
            },
            State::Lingering(reason) => Stand::Lingering(text::<R>(reason)),
            State::Closed(reason) => Stand::Closed(text::<R>(reason)),
        }
    }
}

/// A reason with all its numbers.
fn text<R: Rules>(reason: &CloseReason) -> String {
    match reason.protocol().copied().map(R::essence) {
        Some(error) => format!("{}: {error}", reason.name()),
        None => reason.to_string(),
    }
}

/// How a connection may end when its time is up.
#[derive(Debug)]
pub struct End {
    pub stand: Stand,
    /// Whether it should have ended by now.
    pub is_late: bool,
}

/// A deadline of the handler's.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Due {
    Never,
    At(u64),
    Passed,
}

/// What the handler's answer says besides its verdict, in the upper half of a byte.
pub const CLEAR_DEADLINES: u8 = 0xf0;
/// No message is made longer than this for a limit that is longer: it would take gigabytes.
const LONGEST: usize = 70_000;
/// The verdict [`Verdict::Close`], in the lower half.
pub const CLOSE: u8 = 0x0b;

/// The handler, and the model. What it finds wrong in a callback it writes down: a panic there would only end the connection.
pub struct Puppet<R> {
    rules: R,
    config: Config,
    moods: Vec<u8>,
    mood: usize,
    wrong: Option<String>,
    /// Milliseconds since the beginning, which was then.
    pub now: u64,
    begun: Instant,

    /// All that the peer has written; how much of it was received, and how much of that handled.
    pub stream: Vec<u8>,
    pub fed: usize,
    handled: usize,
    /// Up to which byte had come when.
    arrivals: Vec<(usize, u64)>,
    pub input_ended: bool,

    pub state: Stand,
    /// Sent, and not yet written.
    pub queue: Vec<u8>,
    /// How much of it there was before the batch.
    queue_before: usize,
    held_back: bool,
    full: bool,
    /// Why a message was not taken, in this callback.
    refused: Option<CloseReason>,
    /// Whether other connections were asked for something: nobody carries it out here.
    asked: bool,
    serial: usize,

    /// For reading and for writing; those of which the handler was told in this round, and whether it has set any in it.
    deadlines: [Due; 2],
    pub told: Vec<Direction>,
    set_anew: bool,
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

impl<R: Talk> Puppet<R> {
    pub fn new(rules: R, config: Config, moods: Vec<u8>, begun: Instant) -> Self {
        Self {
            rules,
            config,
            moods,
            mood: 0,
            wrong: None,
            now: 0,
            begun,
            stream: Vec::new(),
            fed: 0,
            handled: 0,
            arrivals: Vec::new(),
            input_ended: false,
            state: Stand::Open(Reading::Flowing),
            queue: Vec::new(),
            queue_before: 0,
            held_back: false,
            full: false,
            refused: None,
            asked: false,
            serial: 0,
            deadlines: [Due::Never; 2],
            told: Vec::new(),
            set_anew: false,
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

    // What is so.

    pub fn check(&self) {
        if let Some(wrong) = &self.wrong {
            panic!("{wrong}");
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, Stand::Open(_))
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state, Stand::Closed(_))
    }

    pub fn is_reading(&self) -> bool {
        let flowing =
            self.state == Stand::Open(Reading::Flowing) && self.due(Direction::Read) != Due::Passed;
        flowing || matches!(self.state, Stand::Lingering(_))
    }

    pub fn is_writing(&self) -> bool {
        let held_up = self.is_open() && self.due(Direction::Write) == Due::Passed;
        !self.queue.is_empty() && !held_up
    }

    pub fn is_drained(&self) -> bool {
        self.full
            && self.queue.len() <= self.config.write_low
            && self.is_open()
            && self.due(Direction::Write) != Due::Passed
    }

    /// Received, and neither handled nor dropped.
    pub fn held(&self) -> usize {
        if self.is_open() {
            self.fed - self.handled
        } else {
            0
        }
    }

    /// Received and dropped: all or nothing of what was not handled.
    pub fn discarded(&self) -> u64 {
        (self.fed - self.handled - self.held()) as u64
    }

    /// Whether a whole frame stands first, or something that can never be one.
    pub fn is_frame_waiting(&self) -> bool {
        self.is_open()
            && self
                .rules
                .first(&self.stream[self.handled..self.fed])
                .is_some()
    }

    /// Whether what was asked of others holds up all batches.
    pub fn is_silenced(&self) -> bool {
        self.asked && self.config.command_high == 1
    }

    fn due(&self, direction: Direction) -> Due {
        self.deadlines[direction as usize]
    }

    fn is_due(&self, direction: Direction) -> bool {
        matches!(self.due(direction), Due::At(at) if at <= self.now)
    }

    fn is_over(&self, direction: Direction) -> bool {
        self.is_due(direction) || self.due(direction) == Due::Passed
    }

    pub fn is_any_due(&self) -> bool {
        self.is_open() && (self.is_due(Direction::Read) || self.is_due(Direction::Write))
    }

    // What happens.

    pub fn peer_sends(&mut self, body: &[u8]) {
        self.stream
            .extend(self.rules.dress(body).unwrap_or_default());
    }

    pub fn receives(&mut self, n: usize) {
        self.fed += n;
        self.arrivals.push((self.fed, self.now));
        self.active = self.now;
        self.queue_before = self.queue.len();
    }

    pub fn proceeds(&mut self) {
        self.queue_before = self.queue.len();
        if self.state == Stand::Open(Reading::Yielded) {
            self.state = Stand::Open(Reading::Flowing);
        }
    }

    /// Every frame that could be handled was, and nothing else stops a batch.
    pub fn after_batch(&mut self, has_yielded: bool) {
        if self.state != Stand::Open(Reading::Flowing) {
            return;
        }
        if self.is_over(Direction::Read) || self.is_silenced() {
            // It need not have looked at what is no whole frame.
            if has_yielded && self.held() > 0 {
                self.state = Stand::Open(Reading::Yielded);
            } else if self.is_frame_waiting() {
                self.fails("a frame that may not be handled yet was forgotten");
            }
            return;
        }
        match self.rules.first(&self.stream[self.handled..self.fed]) {
            None => {}
            Some(Ok(_)) => self.fails("a whole frame was not handled"),
            Some(Err(error)) => self.closes_for(&CloseReason::Protocol(Box::new(error))),
        }
    }

    pub fn writes(&mut self, n: usize) {
        self.queue.drain(..n);
        (self.active, self.moved) = (self.now, self.now);
    }

    pub fn after_flush(&mut self) {
        self.held_back &= self.queue.len() > self.config.write_low;
        match &self.state {
            Stand::Open(Reading::WriteBlocked) if !self.held_back => {
                self.state = Stand::Open(Reading::Flowing);
            }
            Stand::Draining { reason, linger } if self.queue.is_empty() => {
                let reason = reason.clone();
                self.moves_to(if *linger {
                    Stand::Lingering(reason)
                } else {
                    Stand::Closed(reason)
                });
            }
            _ => {}
        }
    }

    pub fn resumes(&mut self) {
        if self.state == Stand::Open(Reading::Paused) {
            self.state = Stand::Open(if self.held_back {
                Reading::WriteBlocked
            } else {
                Reading::Flowing
            });
        }
    }

    /// Another connection sends something here. Returns its bytes.
    pub fn is_sent(&mut self, size: usize) -> Vec<u8> {
        let words = self.words(size);
        let bytes = self.rules.dress(&words).unwrap_or(words);
        let (queued, cap) = (self.queue.len() + bytes.len(), self.config.write_cap);
        if self.is_over(Direction::Write) {
            self.fails_for(&CloseReason::WriteDeadline { unsent: queued });
        } else if queued > cap {
            self.closes_for(&CloseReason::OutboxFull { queued, cap });
        } else {
            self.enqueue(&bytes);
        }
        bytes
    }

    /// The peer's end comes, and the handler is not told of it before it has happened.
    pub fn ends_input(&mut self) {
        self.input_ended = true;
        if let Stand::Lingering(reason) = &self.state {
            return self.moves_to(Stand::Closed(reason.clone()));
        }
        let held = self.held();
        self.state = Stand::Open(Reading::Ended);
        if held > 0 {
            self.closes_for(&CloseReason::Truncated { held });
        }
    }

    /// What may come of it that the time is up for something, and nobody is told.
    pub fn possible_ends(&self) -> Vec<End> {
        let mut ends = Vec::new();
        let mut consider = |since: u64, time: Option<Duration>, slack: u64, stand: Stand| {
            let Some(over) = time.map(|time| since + time.as_millis() as u64) else {
                return;
            };
            if over <= self.now {
                ends.push(End {
                    stand,
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
            Stand::Open(_) => {
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
                        Stand::Closed(text::<R>(&reason)),
                    );
                }
                let reason = CloseReason::IdleTimeout {
                    after: after(idle_timeout),
                };
                consider(self.active, idle_timeout, 20, self.closing(&reason));
            }
            Stand::Draining { reason, .. } => {
                let late = text::<R>(&CloseReason::DrainTimeout { unsent });
                let reason = if unsent > 0 { late } else { reason.clone() };
                consider(self.moved, Some(drain_timeout), 2, Stand::Closed(reason));
            }
            Stand::Lingering(reason) => {
                consider(
                    self.active,
                    Some(linger_timeout),
                    2,
                    Stand::Closed(reason.clone()),
                );
                consider(
                    self.moved,
                    Some(drain_timeout),
                    2,
                    Stand::Closed(reason.clone()),
                );
            }
            Stand::Connecting | Stand::Closed(_) => {}
        }
        ends
    }

    pub fn begins_telling(&mut self) {
        self.told.clear();
        self.set_anew = false;
    }

    /// Of deadlines that the handler sets while it is told of others it may learn later.
    pub fn after_telling(&mut self) {
        if self.is_any_due() && !self.set_anew {
            self.fails("a deadline has passed, and the handler was not told");
        }
    }

    /// It goes over into another state.
    pub fn moves_to(&mut self, stand: Stand) {
        if stand == self.state {
            return;
        }
        if let Stand::Closed(_) = stand {
            self.dropped += self.queue.len() as u64;
            self.queue.clear();
        }
        (self.active, self.moved) = (self.now, self.now);
        self.state = stand;
    }

    fn closing(&self, reason: &CloseReason) -> Stand {
        use CloseReason::{FrameTimeout, HandshakeTimeout, IdleTimeout, ReadDeadline};
        let was_too_slow = matches!(
            reason,
            FrameTimeout { .. } | HandshakeTimeout { .. } | IdleTimeout { .. } | ReadDeadline
        );
        let linger = !was_too_slow && self.state != Stand::Open(Reading::Ended);
        Stand::Draining {
            reason: text::<R>(reason),
            linger,
        }
    }

    /// It ends, and sends what is queued first.
    fn closes_for(&mut self, reason: &CloseReason) {
        if self.is_open() {
            self.moves_to(self.closing(reason));
        }
    }

    /// It ends at once.
    fn fails_for(&mut self, reason: &CloseReason) {
        if let Stand::Open(_) | Stand::Draining { .. } = self.state {
            self.moves_to(Stand::Closed(text::<R>(reason)));
        }
    }

    fn fails(&mut self, wrong: impl Into<String>) {
        self.wrong.get_or_insert(wrong.into());
    }

    fn expect(&mut self, right: bool, what: &str) {
        if !right {
            self.fails(format!("{what}; the connection should be {:?}", self.state));
        }
    }

    fn enqueue(&mut self, wire: &[u8]) {
        if self.queue.is_empty() {
            self.moved = self.now;
        }
        self.queue.extend_from_slice(wire);
        self.full |= self.queue.len() >= self.config.write_high;
    }

    /// A body that is like no other, so that it is seen if one is lost or comes twice.
    fn words(&mut self, n: usize) -> Vec<u8> {
        self.serial += 1;
        (self.serial..)
            .take(n)
            .map(|n| b'a' + (n % 26) as u8)
            .collect()
    }

    // What it does.

    /// A callback that the stage has asked for.
    pub fn called(&mut self, cx: &mut Context<'_, Self>, how: u8, much: u8) -> Verdict {
        self.answer(cx, (how, much), CloseReason::Handler)
    }

    fn mood(&mut self) -> (u8, u8) {
        let [how, much] = [0, 1].map(|n| {
            self.moods
                .get((self.mood + n) % self.moods.len().max(1))
                .copied()
                .unwrap_or(0)
        });
        self.mood += 2;
        (how, much)
    }

    /// Does what two bytes say, in one callback; a verdict to close means `close` there.
    fn answer(
        &mut self,
        cx: &mut Context<'_, Self>,
        (how, much): (u8, u8),
        close: CloseReason,
    ) -> Verdict {
        self.expect(
            self.refused.is_none() && cx.pending() == self.queue.len(),
            "a callback begins with what the one before has left",
        );
        match how >> 4 {
            0 | 1 => {}
            2..=5 => self.send(cx, size(much)),
            6 | 7 => self.try_send(cx, size(much)),
            8 => (0..much % 8).for_each(|n| self.send(cx, n.into())),
            9 => self.set_deadline(cx, Direction::Read, much),
            10 => self.set_deadline(cx, Direction::Write, much),
            11 => {
                cx.resume(cx.id());
                self.asked = true;
            }
            12 => {
                cx.expect_handshake();
                self.handshake = Some(self.now);
            }
            13 => self.send(cx, self.rules.max().min(LONGEST) + usize::from(much)),
            14 => self.try_send(cx, self.config.write_cap.min(LONGEST) + usize::from(much)),
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
        self.conclude(verdict, close);
        verdict
    }

    fn conclude(&mut self, verdict: Verdict, close: CloseReason) {
        match (verdict, self.refused.take()) {
            (Verdict::Abort, _) => self.fails_for(&CloseReason::Aborted),
            (_, Some(reason @ CloseReason::WriteDeadline { .. })) => self.fails_for(&reason),
            (_, Some(reason)) => self.closes_for(&reason),
            (Verdict::Pause, None)
                if self.is_open() && self.state != Stand::Open(Reading::Ended) =>
            {
                self.state = Stand::Open(Reading::Paused);
            }
            (Verdict::Close, None) => match close {
                CloseReason::WriteDeadline { .. } => self.fails_for(&CloseReason::WriteDeadline {
                    unsent: self.queue.len(),
                }),
                close => self.closes_for(&close),
            },
            _ => {}
        }
    }

    /// Panics past the panic hook: it is meant so.
    fn panic(&mut self) -> ! {
        self.panics += 1;
        self.refused = None;
        self.closes_for(&CloseReason::HandlerPanicked);
        resume_unwind(Box::new("meant so"));
    }

    /// What becomes of a message.
    fn fate(&self, body: &[u8]) -> Result<Vec<u8>, SendError<ErrorOf<R>>> {
        if self.refused.is_some() || self.is_closed() {
            return Err(SendError::Closed);
        }
        if self.is_over(Direction::Write) {
            return Err(SendError::DeadlinePassed);
        }
        let wire = self.rules.dress(body).map_err(SendError::Unencodable)?;
        let (queued, cap) = (self.queue.len() + wire.len(), self.config.write_cap);
        if queued > cap {
            Err(SendError::OutboxFull { queued, cap })
        } else {
            Ok(wire)
        }
    }

    fn send(&mut self, cx: &mut Context<'_, Self>, size: usize) {
        let body = self.words(size);
        let fate = self.fate(&body);
        cx.send(R::message(&body));
        match fate {
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
        let body = self.words(size);
        let fate = self.fate(&body);
        let message: MessageOf<'_, Self> = R::message(&body);
        match (cx.try_send(message), fate) {
            (Ok(()), Ok(wire)) => self.enqueue(&wire),
            (Err(told), Err(expected)) if told.to_string() == expected.to_string() => {}
            (told, expected) => self.fails(format!("{told:?} where {expected:?} was expected")),
        }
        self.check_queue(cx);
    }

    fn check_queue(&mut self, cx: &Context<'_, Self>) {
        let is_right = cx.pending() == self.queue.len()
            && cx.has_room() == (self.queue.len() < self.config.write_high);
        self.expect(is_right, "what is queued");
    }

    fn set_deadline(&mut self, cx: &mut Context<'_, Self>, direction: Direction, much: u8) {
        // What has been over for long, what is over now, what comes, none.
        let at = match much {
            0..=9 => Some(self.now.saturating_sub(much.into())),
            10..=219 => Some(self.now + u64::from(much)),
            _ => None,
        };
        let instant = at.map(|at| self.begun + Duration::from_millis(at));
        match direction {
            Direction::Read => cx.set_read_deadline(instant),
            Direction::Write => cx.set_write_deadline(instant),
        }
        self.deadlines[direction as usize] = at.map_or(Due::Never, Due::At);
        self.set_anew = true;
    }
}

impl<R: Talk> Handler for Puppet<R> {
    type Codec = R::Codec;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (R::Codec, ()) {
        (self.rules.codec(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.opens += 1;
        self.expect(self.opens == 1, "opened once");
        let mood = self.mood();
        self.answer(cx, mood, CloseReason::Handler)
    }

    fn frame(&mut self, frame: FrameOf<'_, R>, cx: &mut Context<'_, Self>) -> Verdict {
        let parts = R::parts(&frame);
        self.expect(
            self.state == Stand::Open(Reading::Flowing),
            "a frame comes only while frames are wanted",
        );
        self.expect(
            !self.is_over(Direction::Read) && !self.is_silenced(),
            "a frame comes only while frames may come",
        );
        match self.rules.first(&self.stream[self.handled..self.fed]) {
            Some(Ok((length, expected))) if expected == parts => self.handled += length,
            other => self.fails(format!(
                "{parts:?} at byte {}, where {other:?} was expected",
                self.handled
            )),
        }
        self.frames += 1;
        self.handshake = None;
        let byte = |n: usize| parts.1.get(n).copied().unwrap_or(0);
        let verdict = self.answer(cx, (byte(0), byte(1)), CloseReason::Handler);
        if self.queue.len() >= self.config.write_high && self.queue.len() > self.queue_before {
            self.held_back = true;
            if self.state == Stand::Open(Reading::Flowing) {
                self.state = Stand::Open(Reading::WriteBlocked);
            }
        }
        verdict
    }

    fn eof(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.eofs += 1;
        self.expect(
            self.eofs == 1 && self.state == Stand::Open(Reading::Ended),
            "the end of input comes once, and after all frames",
        );
        let mood = self.mood();
        self.answer(cx, mood, CloseReason::PeerClosed)
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.expect(
            self.is_drained(),
            "the handler is told of room when there is room again",
        );
        self.full = false;
        let mood = self.mood();
        let verdict = self.answer(cx, mood, CloseReason::Handler);
        self.full |= self.queue.len() >= self.config.write_high;
        verdict
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        self.expect(
            self.is_open() && self.is_due(which) && !self.told.contains(&which),
            "a deadline is told once, when it has passed",
        );
        self.told.push(which);
        self.deadlines[which as usize] = Due::Passed;
        let mood = self.mood();
        let close = match which {
            Direction::Read => CloseReason::ReadDeadline,
            Direction::Write => CloseReason::WriteDeadline { unsent: 0 },
        };
        self.answer(cx, mood, close)
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        self.closes += 1;
        let is_right = self.closes == 1 && self.state == Stand::Closed(text::<R>(reason));
        self.expect(is_right, "the end comes once, and its reason stays");
        let mood = self.mood();
        let _ = self.answer(cx, mood, CloseReason::Handler);
        self.expect(self.queue.is_empty(), "nothing is sent after the end");
    }
}

impl<R> Puppet<R> {
    /// All is over.
    pub fn check_farewell(&self) {
        assert!(
            self.closes == 1 && self.opens == 1,
            "{} opens, {} closes",
            self.opens,
            self.closes
        );
    }
}
