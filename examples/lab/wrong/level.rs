//! A server of submits: epoll, level-triggered. It can make the mistakes w4 and w8.

use std::io;
use std::net::TcpListener;
use std::sync::atomic::Ordering;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use slab::Slab;

use super::edge::serve_connection;
use super::{FAILED, W4, W8, WAKE_UPS};
use crate::linux::servers::session::Session;

const LISTENER: EventData = EventData::new_u64(u64::MAX);
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

pub(super) fn serve<const MISTAKE: u32>(listener: TcpListener) -> io::Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let (mut events, mut conns, mut paused) = (Vec::with_capacity(64), Slab::new(), false);
    epoll::add(&epoll, &listener, LISTENER, EventFlags::IN)?;
    loop {
        events.clear();
        let timeout = paused.then_some(&PAUSE);
        epoll::wait(&epoll, spare_capacity(&mut events), timeout)?;
        WAKE_UPS.fetch_add(1, Ordering::Relaxed); // for the detector
        if paused {
            // A connection may have closed, or time has passed: try again.
            epoll::modify(&epoll, &listener, LISTENER, EventFlags::IN)?;
            paused = false;
        }
        for event in &events {
            if event.data.u64() == LISTENER.u64() {
                let Ok((stream, _)) = listener.accept() else {
                    FAILED.fetch_add(1, Ordering::Relaxed); // for the detector
                    if MISTAKE != W8 {
                        epoll::modify(&epoll, &listener, LISTENER, EventFlags::empty())?;
                        paused = true;
                    }
                    continue;
                };
                stream.set_nonblocking(true)?;
                let slot = conns.vacant_entry();
                let data = EventData::new_u64(slot.key() as u64);
                epoll::add(&epoll, &stream, data, EventFlags::IN)?;
                slot.insert((stream, Session::default()));
                continue;
            }
            let key = event.data.u64() as usize;
            let (stream, session) = &mut conns[key];
            if !serve_connection::<0>(stream, session).unwrap_or(false) {
                conns.remove(key);
                continue;
            }
            let mut interest = EventFlags::IN | EventFlags::OUT;
            if MISTAKE != W4 && !session.wants_write() {
                interest = EventFlags::IN; // there is nearly always room to write
            }
            epoll::modify(&epoll, &*stream, event.data, interest)?;
        }
    }
}
