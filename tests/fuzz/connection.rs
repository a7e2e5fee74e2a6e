//! Drives a connection through random events, and compares it with a model.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use glassloop::internals::{Connection, Reading, Shared, State};
use glassloop::{Config, ConnectionId, Origin};

use super::draw::{Draw, size};
use super::model::{CLEAR_DEADLINES, CLOSE, Duplex, ModelHandler, ModelState};
use super::reference::{Field, Line};

/// Input: the codec and its limit; the write marks; the timeouts; the handler's responses in
/// callbacks other than `frame`; the events.
pub fn connection(data: &[u8]) {
    let draw = &mut Draw::new(data);
    let (codec, number) = (draw.byte(), usize::from(draw.byte() % 4));
    // One in four has an extreme limit, as far as the field has room for it.
    let is_extreme = codec >> 2 & 3 == 1;
    let max = (if is_extreme {
        [1, 2, u32::MAX - 1, u32::MAX]
    } else {
        [300, 16, 60_000, 3000]
    })[number];
    if codec & 1 == 0 {
        let width = if is_extreme { 4 } else { 2 };
        play(
            &Field {
                offset: 0,
                width,
                whole: codec & 2 > 0,
                min: 0,
                max: max.max(width.into()),
            },
            draw,
        );
    } else {
        play(
            &Line {
                delimiter: if codec & 2 > 0 { b'.' } else { b'\n' },
                max,
            },
            draw,
        );
    }
}

fn play<R: Duplex>(codec: &R, draw: &mut Draw<'_>) {
    let scale = draw.of(&[1, 1, 16, 200]);
    let write_low = usize::from(draw.byte()) * scale;
    let write_high = write_low + 1 + usize::from(draw.byte()) * scale;
    let above = usize::from(draw.byte());
    let times = draw.byte();
    // One in eight has no write cap, and one in eight neither cap nor mark.
    let (write_high, write_cap) = match times >> 5 {
        6 => (write_high, usize::MAX),
        7 => (usize::MAX, usize::MAX),
        _ => (write_high, write_high + above * scale),
    };
    let time = |bit: u8, ms| (times >> bit & 1 > 0).then(|| Duration::from_millis(ms));
    let config = Config {
        write_low,
        write_high,
        write_cap,
        command_high: if times & 1 > 0 { 1 } else { usize::MAX },
        idle_timeout: time(1, 900),
        frame_timeout: time(2, 300),
        write_timeout: time(3, 500),
        handshake_timeout: time(4, 100),
        drain_timeout: Duration::from_millis(400),
        linger_timeout: Duration::from_millis(200),
        ..Config::default()
    };
    config.check().expect("the marks are in order");
    let count = usize::from(draw.byte() % 32);
    let responses = draw.take(count).to_vec();
    while !draw.is_empty() {
        let begun = Instant::now();
        let model = ModelHandler::new(codec.clone(), config.clone(), responses.clone(), begun);
        Driver::new(
            model,
            Shared::new(config.clone(), begun),
            begun,
            draw.bool(),
        )
        .play(draw);
    }
}

/// A connection and everything that a reactor has beside it.
struct Driver<R: Duplex> {
    connection: Connection<R::Codec, ()>,
    model: ModelHandler<R>,
    shared: Shared,
    begun: Instant,
    has_borrowed_buffer: bool,
}

impl<R: Duplex> Driver<R> {
    fn new(mut model: ModelHandler<R>, shared: Shared, begun: Instant, dialed: bool) -> Self {
        let mut connection = Connection::unconnected(&mut model);
        if dialed {
            let origin = Origin::Dialed {
                peer: connection.peer_addr(),
                key: 7,
            };
            connection =
                Connection::new(ConnectionId::new(1, NonZeroU32::MAX), &origin, &mut model);
            assert!(
                matches!(connection.state(), State::Connecting)
                    && !connection.is_reading()
                    && !connection.is_writing()
            );
        }
        Self {
            connection,
            model,
            shared,
            begun,
            has_borrowed_buffer: false,
        }
    }

    /// Runs events until the connection is closed or the bytes are used up. Then ends the
    /// connection cleanly.
    fn play(mut self, draw: &mut Draw<'_>) {
        self.connection
            .established(&mut self.model, &mut self.shared);
        self.check();
        while !draw.is_empty() && !self.model.is_closed() {
            self.step(draw);
            self.check();
        }
        if !self.model.is_closed() {
            self.unblock();
            self.end();
        }
        self.settle();
        let Self {
            connection,
            mut model,
            mut shared,
            ..
        } = self;
        connection.finish_close(&mut model, &mut shared);
        model.check();
        model.check_callbacks();
        assert_eq!(
            shared.observe.counters().panics,
            model.panics,
            "only the handler's own panics are counted"
        );
    }

    fn step(&mut self, draw: &mut Draw<'_>) {
        match draw.byte() % 20 {
            0 => {
                let count = draw.byte().into();
                self.model.stream.extend_from_slice(draw.take(count));
            }
            1 | 2 => {
                let (how, amount, more) = (draw.byte(), draw.byte(), size(draw.byte()));
                self.model
                    .peer_sends(&[&[how, amount], &vec![b'p'; more][..]].concat());
            }
            3..=5 => self.receive(size(draw.byte()), draw.bool()),
            6 => self.receive(usize::MAX, draw.bool()),
            7 => self.proceed(),
            8 | 9 => self.write(size(draw.byte())),
            10 => self.write(usize::MAX),
            11 => self.after_flush(),
            12 => self.settle(),
            13 => self.borrow_write_buffer(),
            14 => self.end_of_input(),
            15 => self.queue(size(draw.byte())),
            16 => self.resume(),
            17 => self.call(draw.byte(), draw.byte()),
            18 => self.advance(draw.byte()),
            _ => self.expire(draw.bool()),
        }
    }

    fn receive(&mut self, most: usize, direct: bool) {
        if self.model.input_ended {
            return; // no bytes follow a FIN
        }
        let place = if direct {
            self.connection.frame_space()
        } else {
            &mut []
        };
        let fresh = &self.model.stream[self.model.fed..];
        let fresh = fresh[..fresh.len().min(most)].to_vec();
        let (direct, scratch) = fresh.split_at(fresh.len().min(place.len()));
        place[..direct.len()].copy_from_slice(direct);
        self.connection.filled(direct.len());
        self.model.record_received(fresh.len());
        self.connection
            .receive(scratch, &mut self.model, &mut self.shared);
        self.after_batch();
    }

    fn proceed(&mut self) {
        self.model.before_proceed();
        self.connection.proceed(&mut self.model, &mut self.shared);
        self.after_batch();
    }

    fn after_batch(&mut self) {
        self.model.after_batch(matches!(
            self.connection.state(),
            State::Open(Reading::Yielded)
        ));
        assert!(
            !self.connection.has_backlog(),
            "no frame that could be handled is left after a batch"
        );
    }

    fn write(&mut self, most: usize) {
        if self.connection.is_writing() {
            let n = most.min(self.connection.unsent().len());
            self.model.record_written(n);
            self.connection.sent(n, &self.shared);
        }
    }

    fn after_flush(&mut self) {
        self.model.after_flush();
        self.connection.after_flush(&mut self.shared);
    }

    /// What a reactor does after it has served a connection.
    fn settle(&mut self) {
        if self.has_borrowed_buffer {
            self.connection.return_write_buffer(&mut self.shared);
            self.has_borrowed_buffer = false;
        } else {
            self.connection.shrink();
        }
        if self.connection.is_drained(&self.shared) {
            self.connection.drained(&mut self.model, &mut self.shared);
            self.after_flush();
            self.connection.shrink();
        }
        self.check();
        let (held, unsent, heap) = (
            self.model.held(),
            self.model.queue.len(),
            self.connection.heap(),
        );
        let most = |bytes: usize| if bytes > 0 { 5 * bytes + 4096 } else { 0 };
        assert!(
            heap <= most(held) + most(unsent),
            "{heap} bytes of memory for {held} bytes received and {unsent} unsent"
        );
    }

    fn borrow_write_buffer(&mut self) {
        if !self.has_borrowed_buffer {
            self.has_borrowed_buffer = self.connection.borrow_write_buffer(&mut self.shared);
            assert!(
                !self.has_borrowed_buffer || self.connection.unsent().is_empty(),
                "a borrowed buffer is empty"
            );
        }
    }

    fn end_of_input(&mut self) {
        if self.connection.is_reading() && !self.connection.has_backlog() {
            self.model.record_eof();
            self.connection
                .end_of_input(&mut self.model, &mut self.shared);
        }
    }

    /// Like a reactor, it sends nothing on a closing connection.
    fn queue(&mut self, size: usize) {
        if self.model.is_open() {
            let bytes = self.model.record_message(size);
            self.connection.queue(&bytes, &mut self.shared);
        }
    }

    fn resume(&mut self) {
        self.model.record_resume();
        self.connection.resume(&mut self.shared);
    }

    fn call(&mut self, how: u8, amount: u8) {
        if self.model.is_open() {
            self.connection
                .call(&mut self.model, &mut self.shared, |model, cx| {
                    model.called(cx, how, amount)
                });
        }
    }

    fn advance(&mut self, byte: u8) {
        let ms = u64::from(byte) * if byte < 128 { 1 } else { 10 };
        self.model.now += ms;
        self.shared
            .advance(self.begun + Duration::from_millis(self.model.now));
    }

    fn expire(&mut self, notify_only: bool) {
        self.model.before_deadlines();
        if notify_only {
            self.connection
                .notify_deadlines(&mut self.model, &mut self.shared);
            return self.model.after_deadlines();
        }
        let possible = self.model.possible_timeouts();
        let expired = self.connection.expire(&mut self.model, &mut self.shared);
        if !expired {
            let late = possible.iter().find(|timeout| timeout.is_late);
            return assert!(
                late.is_none() && !self.model.is_any_due(),
                "a timeout is overdue: {late:?}"
            );
        }
        if !self.model.notified.is_empty() {
            return self.model.after_deadlines();
        }
        let state = ModelState::of::<R>(self.connection.state());
        let end = possible.into_iter().find(|end| end.state == state);
        self.model.set_state(
            end.unwrap_or_else(|| {
                panic!(
                    "{state:?} is too early or wrong, after {:?}",
                    self.model.state
                )
            })
            .state,
        );
    }

    /// Removes everything that blocks the connection, so that all whole frames are handled.
    fn unblock(&mut self) {
        for _ in 0..2 * self.model.stream.len() + 4 {
            self.write(usize::MAX);
            self.after_flush();
            self.check();
            if !self.model.is_open()
                || self.model.input_ended
                || self.model.is_blocked_by_commands()
            {
                return;
            }
            self.call(CLEAR_DEADLINES, 0);
            self.resume();
            self.check();
            if matches!(self.model.state, ModelState::Open(Reading::Yielded))
                || self.connection.has_backlog()
            {
                self.proceed();
            } else if self.model.queue.is_empty() {
                return assert!(
                    !self.model.is_frame_waiting(),
                    "a whole frame is left, and nothing will handle it"
                );
            }
            self.check();
        }
        panic!(
            "the connection does not come to rest: {:?}",
            self.model.state
        );
    }

    fn end(&mut self) {
        if self.model.is_open() {
            self.connection
                .call(&mut self.model, &mut self.shared, |model, cx| {
                    model.called(cx, CLEAR_DEADLINES | CLOSE, 0)
                });
        }
        self.check();
        self.write(usize::MAX);
        self.after_flush();
        self.check();
        self.end_of_input();
        self.check();
        assert!(
            self.model.is_closed(),
            "{:?} after everything was sent and the peer's FIN was read",
            self.model.state
        );
    }

    /// Compares the connection with the model.
    fn check(&self) {
        let (connection, model) = (&self.connection, &self.model);
        model.check();
        assert_eq!(ModelState::of::<R>(connection.state()), model.state);
        assert!(
            connection.unsent() == model.queue,
            "{} bytes unsent, {} expected",
            connection.unsent().len(),
            model.queue.len()
        );
        assert_eq!(connection.is_reading(), model.is_reading());
        assert_eq!(connection.is_writing(), model.is_writing());
        assert_eq!(connection.is_drained(&self.shared), model.is_drained());
        if model.is_reading() && model.is_frame_waiting() {
            assert!(
                connection.has_backlog() && !connection.is_caught_up(),
                "a whole frame is received, and the connection does not report it"
            );
        }
        let counters = self.shared.observe.counters();
        let counted = (
            counters.frames,
            counters.panics,
            counters.bytes_discarded,
            counters.bytes_dropped,
        );
        assert_eq!(
            counted,
            (model.frames, model.panics, model.discarded(), model.dropped),
            "frames, panics, bytes discarded, dropped"
        );
    }
}
