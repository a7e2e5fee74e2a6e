//! A connection, driven through anything that can happen to one, beside a model of what it should be.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use glassloop::internals::{Connection, Reading, Shared, State};
use glassloop::{Config, ConnectionId, Origin};

use super::draw::{Draw, size};
use super::model::{CLEAR_DEADLINES, CLOSE, Puppet, Stand, Talk};
use super::reference::{Field, Line};

/// Input: which codec, and its limit; the marks; the times; how the handler answers what is no frame; what happens, one after the other.
pub fn connection(data: &[u8]) {
    let draw = &mut Draw::new(data);
    let (codec, number) = (draw.byte(), usize::from(draw.byte() % 4));
    // One in four with a limit at an extreme, as far as a field has room for it.
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

fn play<R: Talk>(rules: &R, draw: &mut Draw<'_>) {
    let scale = draw.of(&[1, 1, 16, 200]);
    let write_low = usize::from(draw.byte()) * scale;
    let write_high = write_low + 1 + usize::from(draw.byte()) * scale;
    let above = usize::from(draw.byte());
    let times = draw.byte();
    // One in eight without any bound: the cap is the largest number, or the mark as well.
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
    let moods = draw.take(count).to_vec();
    while !draw.is_empty() {
        let begun = Instant::now();
        let puppet = Puppet::new(rules.clone(), config.clone(), moods.clone(), begun);
        Stage::new(
            puppet,
            Shared::new(config.clone(), begun),
            begun,
            draw.bool(),
        )
        .play(draw);
    }
}

/// A connection and all that a reactor would have beside it.
struct Stage<R: Talk> {
    connection: Connection<R::Codec, ()>,
    puppet: Puppet<R>,
    shared: Shared,
    begun: Instant,
    lent: bool,
}

impl<R: Talk> Stage<R> {
    fn new(mut puppet: Puppet<R>, shared: Shared, begun: Instant, dialed: bool) -> Self {
        let mut connection = Connection::unconnected(&mut puppet);
        if dialed {
            let origin = Origin::Dialed {
                peer: connection.peer_addr(),
                key: 7,
            };
            connection =
                Connection::new(ConnectionId::new(1, NonZeroU32::MAX), &origin, &mut puppet);
            assert!(
                matches!(connection.state(), State::Connecting)
                    && !connection.is_reading()
                    && !connection.is_writing()
            );
        }
        Self {
            connection,
            puppet,
            shared,
            begun,
            lent: false,
        }
    }

    /// Lets things happen until the connection is over or the bytes are used up; then sees to it that it ends well.
    fn play(mut self, draw: &mut Draw<'_>) {
        self.connection
            .established(&mut self.puppet, &mut self.shared);
        self.check();
        while !draw.is_empty() && !self.puppet.is_closed() {
            self.step(draw);
            self.check();
        }
        if !self.puppet.is_closed() {
            self.heal();
            self.end();
        }
        self.settle();
        let Self {
            connection,
            mut puppet,
            mut shared,
            ..
        } = self;
        connection.finish_close(&mut puppet, &mut shared);
        puppet.check();
        puppet.check_farewell();
        assert_eq!(
            shared.observe.counters().panics,
            puppet.panics,
            "panics of the handler, and no others"
        );
    }

    fn step(&mut self, draw: &mut Draw<'_>) {
        match draw.byte() % 20 {
            0 => {
                let count = draw.byte().into();
                self.puppet.stream.extend_from_slice(draw.take(count));
            }
            1 | 2 => {
                let (how, much, more) = (draw.byte(), draw.byte(), size(draw.byte()));
                self.puppet
                    .peer_sends(&[&[how, much], &vec![b'p'; more][..]].concat());
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

    fn receive(&mut self, most: usize, placed: bool) {
        if self.puppet.input_ended {
            return; // nothing comes after the end
        }
        let place = if placed {
            self.connection.frame_space()
        } else {
            &mut []
        };
        let fresh = &self.puppet.stream[self.puppet.fed..];
        let fresh = fresh[..fresh.len().min(most)].to_vec();
        let (placed, scratch) = fresh.split_at(fresh.len().min(place.len()));
        place[..placed.len()].copy_from_slice(placed);
        self.connection.filled(placed.len());
        self.puppet.receives(fresh.len());
        self.connection
            .receive(scratch, &mut self.puppet, &mut self.shared);
        self.after_batch();
    }

    fn proceed(&mut self) {
        self.puppet.proceeds();
        self.connection.proceed(&mut self.puppet, &mut self.shared);
        self.after_batch();
    }

    fn after_batch(&mut self) {
        self.puppet.after_batch(matches!(
            self.connection.state(),
            State::Open(Reading::Yielded)
        ));
        assert!(
            !self.connection.has_backlog(),
            "a batch ends with nothing left that could be handled at once"
        );
    }

    fn write(&mut self, most: usize) {
        if self.connection.is_writing() {
            let n = most.min(self.connection.unsent().len());
            self.puppet.writes(n);
            self.connection.sent(n, &self.shared);
        }
    }

    fn after_flush(&mut self) {
        self.puppet.after_flush();
        self.connection.after_flush(&mut self.shared);
    }

    /// What a reactor does when it leaves a connection for another one.
    fn settle(&mut self) {
        if self.lent {
            self.connection.return_write_buffer(&mut self.shared);
            self.lent = false;
        } else {
            self.connection.shrink();
        }
        if self.connection.is_drained(&self.shared) {
            self.connection.drained(&mut self.puppet, &mut self.shared);
            self.after_flush();
            self.connection.shrink();
        }
        self.check();
        let (held, unsent, heap) = (
            self.puppet.held(),
            self.puppet.queue.len(),
            self.connection.heap(),
        );
        let most = |bytes: usize| if bytes > 0 { 5 * bytes + 4096 } else { 0 };
        assert!(
            heap <= most(held) + most(unsent),
            "{heap} bytes of memory for {held} received and {unsent} to be sent"
        );
    }

    fn borrow_write_buffer(&mut self) {
        if !self.lent {
            self.lent = self.connection.borrow_write_buffer(&mut self.shared);
            assert!(
                !self.lent || self.connection.unsent().is_empty(),
                "what is lent is empty"
            );
        }
    }

    fn end_of_input(&mut self) {
        if self.connection.is_reading() && !self.connection.has_backlog() {
            self.puppet.ends_input();
            self.connection
                .end_of_input(&mut self.puppet, &mut self.shared);
        }
    }

    /// Like a reactor it asks nothing more of who is ending.
    fn queue(&mut self, size: usize) {
        if self.puppet.is_open() {
            let bytes = self.puppet.is_sent(size);
            self.connection.queue(&bytes, &mut self.shared);
        }
    }

    fn resume(&mut self) {
        self.puppet.resumes();
        self.connection.resume(&mut self.shared);
    }

    fn call(&mut self, how: u8, much: u8) {
        if self.puppet.is_open() {
            self.connection
                .call(&mut self.puppet, &mut self.shared, |puppet, cx| {
                    puppet.called(cx, how, much)
                });
        }
    }

    fn advance(&mut self, byte: u8) {
        let ms = u64::from(byte) * if byte < 128 { 1 } else { 10 };
        self.puppet.now += ms;
        self.shared
            .advance(self.begun + Duration::from_millis(self.puppet.now));
    }

    fn expire(&mut self, only_tell: bool) {
        self.puppet.begins_telling();
        if only_tell {
            self.connection
                .notify_deadlines(&mut self.puppet, &mut self.shared);
            return self.puppet.after_telling();
        }
        let possible = self.puppet.possible_ends();
        let expired = self.connection.expire(&mut self.puppet, &mut self.shared);
        if !expired {
            let late = possible.iter().find(|end| end.is_late);
            return assert!(
                late.is_none() && !self.puppet.is_any_due(),
                "it should be over by now: {late:?}"
            );
        }
        if !self.puppet.told.is_empty() {
            return self.puppet.after_telling();
        }
        let stand = Stand::of::<R>(self.connection.state());
        let end = possible.into_iter().find(|end| end.stand == stand);
        self.puppet.moves_to(
            end.unwrap_or_else(|| {
                panic!("{stand:?} is too early, or wrong: {:?}", self.puppet.state)
            })
            .stand,
        );
    }

    /// From here on nobody stands in its way, so all whole frames are handled.
    fn heal(&mut self) {
        for _ in 0..2 * self.puppet.stream.len() + 4 {
            self.write(usize::MAX);
            self.after_flush();
            self.check();
            if !self.puppet.is_open() || self.puppet.input_ended || self.puppet.is_silenced() {
                return;
            }
            self.call(CLEAR_DEADLINES, 0);
            self.resume();
            self.check();
            if matches!(self.puppet.state, Stand::Open(Reading::Yielded))
                || self.connection.has_backlog()
            {
                self.proceed();
            } else if self.puppet.queue.is_empty() {
                return assert!(
                    !self.puppet.is_frame_waiting(),
                    "a frame waits, and nobody will ever come for it"
                );
            }
            self.check();
        }
        panic!("there is no end to what it does: {:?}", self.puppet.state);
    }

    fn end(&mut self) {
        if self.puppet.is_open() {
            self.connection
                .call(&mut self.puppet, &mut self.shared, |puppet, cx| {
                    puppet.called(cx, CLEAR_DEADLINES | CLOSE, 0)
                });
        }
        self.check();
        self.write(usize::MAX);
        self.after_flush();
        self.check();
        self.end_of_input();
        self.check();
        assert!(
            self.puppet.is_closed(),
            "{:?} after all was sent and the peer's end was read",
            self.puppet.state
        );
    }

    /// The connection is what the model says.
    fn check(&self) {
        let (connection, puppet) = (&self.connection, &self.puppet);
        puppet.check();
        assert_eq!(Stand::of::<R>(connection.state()), puppet.state);
        assert!(
            connection.unsent() == puppet.queue,
            "{} bytes to be sent, {} expected",
            connection.unsent().len(),
            puppet.queue.len()
        );
        assert_eq!(connection.is_reading(), puppet.is_reading());
        assert_eq!(connection.is_writing(), puppet.is_writing());
        assert_eq!(connection.is_drained(&self.shared), puppet.is_drained());
        if puppet.is_reading() && puppet.is_frame_waiting() {
            assert!(
                connection.has_backlog() && !connection.is_caught_up(),
                "a whole frame is inside, and nobody is told"
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
            (
                puppet.frames,
                puppet.panics,
                puppet.discarded(),
                puppet.dropped
            ),
            "frames, panics, bytes discarded, dropped"
        );
    }
}
