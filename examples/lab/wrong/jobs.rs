//! A server that takes jobs (`?`), answers all of them (`=`) when a client reports them done (`!`),
//! and echoes any other byte: mio. It can make the mistake w5.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::W5;

const LISTENER: Token = Token(usize::MAX);
/// The low bits of a token are the slot. The bits above count the connections.
const BITS: u32 = usize::BITS / 2;

pub(super) fn serve<const MISTAKE: u32>(listener: std::net::TcpListener) -> io::Result<()> {
    let (mut poll, mut events, mut conns) = (Poll::new()?, Events::with_capacity(64), Slab::new());
    let (mut listener, mut jobs, mut accepted) = (TcpListener::from_std(listener), Vec::new(), 0);
    let interest = Interest::READABLE;
    poll.registry()
        .register(&mut listener, LISTENER, interest)?;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            let token = event.token();
            if token == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let slot = conns.vacant_entry();
                    let mut token = Token(slot.key());
                    accepted += 1;
                    if MISTAKE != W5 {
                        token.0 |= accepted << BITS;
                    }
                    poll.registry().register(&mut stream, token, interest)?;
                    slot.insert((token, stream));
                }
                continue;
            }
            while let Some(stream) = find(&mut conns, token) {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    _ => {
                        conns.remove(slot_of(token));
                        break;
                    }
                }
                match byte[0] {
                    b'?' => jobs.push(token),
                    b'!' => jobs.drain(..).for_each(|job| answer(&mut conns, job, b'=')),
                    other => answer(&mut conns, token, other),
                }
            }
        }
    }
}

fn answer(conns: &mut Slab<(Token, TcpStream)>, token: Token, byte: u8) {
    if let Some(stream) = find(conns, token) {
        let _ = stream.write(&[byte]); // there is always room for one byte here
    }
}

fn find(conns: &mut Slab<(Token, TcpStream)>, token: Token) -> Option<&mut TcpStream> {
    let (owner, stream) = conns.get_mut(slot_of(token))?;
    (*owner == token).then_some(stream)
}

fn slot_of(token: Token) -> usize {
    token.0 & ((1 << BITS) - 1)
}
