//! A handler that records its callbacks, on a real or a scripted network.

#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::time::Instant;

use glassloop::codec::Line;
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Direction, Handler, LoopContext, Origin, TimerId,
    Verdict,
};

use super::scripted::{self, NetState};

/// A loop on a scripted network with a [`Recorder`] as its handler.
pub type Harness = scripted::Harness<Recorder>;

impl Harness {
    /// Returns a loop with one listener and enough descriptors.
    pub fn new(config: Config) -> Self {
        Self::on(
            NetState {
                descriptors: Some(100_000),
                ..NetState::with_listeners(1)
            },
            Recorder::default(),
            config,
        )
    }

    /// Returns the callbacks since the last call, each with its time in milliseconds.
    pub fn log(&mut self) -> Vec<(u64, Call)> {
        let begun = self.at(0);
        let log = std::mem::take(&mut self.reactor.handler().log);
        log.into_iter()
            .map(|(at, call)| {
                (
                    u64::try_from(at.duration_since(begun).as_millis()).unwrap(),
                    call,
                )
            })
            .collect()
    }

    /// Returns the callbacks since the last call, without the times.
    pub fn calls(&mut self) -> Vec<Call> {
        self.log().into_iter().map(|(_, call)| call).collect()
    }

    /// Returns the id of the newest connection.
    pub fn last(&mut self) -> ConnectionId {
        self.reactor.handler().last.unwrap()
    }

    /// Runs `callback` on the newest connection.
    #[track_caller]
    pub fn with_last(&mut self, callback: impl FnOnce(&mut Context<'_, Recorder>) -> Verdict) {
        let id = self.last();
        assert!(
            self.reactor.with(id, |_, cx| callback(cx)),
            "{id} should be open"
        );
    }
}

/// A callback that a [`Recorder`] received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Open,
    Frame(String),
    Deadline(Direction),
    Timer(TimerId),
    LoopTimer(TimerId),
    Close(String),
}

pub fn frame(line: &str) -> Call {
    Call::Frame(line.into())
}

pub fn closed(reason: &str) -> Call {
    Call::Close(reason.into())
}

/// A handler that records each callback and then runs the function set for it.
pub struct Recorder {
    pub log: Vec<(Instant, Call)>,
    pub last: Option<ConnectionId>,
    pub on_open: fn(&mut Context<'_, Recorder>) -> Verdict,
    pub on_frame: fn(&[u8], &mut Context<'_, Recorder>) -> Verdict,
    pub on_deadline: fn(Direction, &mut Context<'_, Recorder>) -> Verdict,
    pub on_timer: fn(TimerId, &mut Context<'_, Recorder>) -> Verdict,
    pub on_loop_timer: fn(TimerId, &mut LoopContext<'_, Recorder>),
}

/// A function that another thread posts to a [`Recorder`].
pub type Task = Box<dyn FnOnce(&mut Recorder, &mut LoopContext<'_, Recorder>) + Send>;

impl Default for Recorder {
    /// Echoes each line, and keeps the connection open in all callbacks.
    fn default() -> Self {
        Self {
            log: Vec::new(),
            last: None,
            on_open: |_| Verdict::Continue,
            on_frame: |line, cx| {
                cx.send(line);
                Verdict::Continue
            },
            on_deadline: |_, _| Verdict::Continue,
            on_timer: |_, _| Verdict::Continue,
            on_loop_timer: |_, _| {},
        }
    }
}

impl Handler for Recorder {
    type Codec = Line;
    type State = ();
    type Mail = Task;

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default().max(1 << 20), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.last = Some(cx.id());
        self.log.push((cx.now(), Call::Open));
        (self.on_open)(cx)
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        self.log
            .push((cx.now(), Call::Frame(String::from_utf8_lossy(line).into())));
        (self.on_frame)(line, cx)
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        self.log.push((cx.now(), Call::Deadline(which)));
        (self.on_deadline)(which, cx)
    }

    fn timer(&mut self, timer: TimerId, cx: &mut Context<'_, Self>) -> Verdict {
        self.log.push((cx.now(), Call::Timer(timer)));
        (self.on_timer)(timer, cx)
    }

    fn loop_timer(&mut self, timer: TimerId, cx: &mut LoopContext<'_, Self>) {
        self.log.push((cx.now(), Call::LoopTimer(timer)));
        (self.on_loop_timer)(timer, cx);
    }

    fn mail(&mut self, task: Task, cx: &mut LoopContext<'_, Self>) {
        task(self, cx);
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        self.log.push((cx.now(), Call::Close(reason.to_string())));
    }
}
