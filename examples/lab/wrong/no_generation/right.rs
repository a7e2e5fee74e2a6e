//! A server that takes jobs (`?`), answers them (`=`) when somebody says that they are done (`!`), and any other byte with itself: mio.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);
/// So many bits of a token say which slot it is. Those above count the connections.
const BITS: u32 = usize::BITS / 2;

pub(crate) fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let (mut poll, mut events, mut conns) = (Poll::new()?, Events::with_capacity(64), Slab::new());
    let (mut listener, mut jobs, mut accepted) = (TcpListener::from_std(listener), Vec::new(), 0);
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let slot = conns.vacant_entry();
                    let token = Token(slot.key() | accepted << BITS);
                    accepted += 1;
                    poll.registry()
                        .register(&mut stream, token, Interest::READABLE)?;
                    slot.insert((token, stream));
                }
                continue;
            }
            let token = event.token();
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
                    b'!' => jobs
                        .drain(..)
                        .for_each(|token| answer(&mut conns, token, b'=')),
                    other => answer(&mut conns, token, other),
                }
            }
        }
    }
}

fn answer(conns: &mut Slab<(Token, TcpStream)>, token: Token, byte: u8) {
    if let Some(stream) = find(conns, token) {
        let _ = stream.write(&[byte]); // one byte always finds room here
    }
}

fn find(conns: &mut Slab<(Token, TcpStream)>, token: Token) -> Option<&mut TcpStream> {
    let (owner, stream) = conns.get_mut(slot_of(token))?;
    (*owner == token).then_some(stream)
}

fn slot_of(token: Token) -> usize {
    token.0 & ((1 << BITS) - 1)
}
