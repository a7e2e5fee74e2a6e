//! Writing to a socket: C49 to C57. Blocked writes are in `write_blocks.rs`, deadlines in `write_deadlines.rs`.

use std::io::{self, ErrorKind, Read, Write};

use glassloop::Flush;
use glassloop::internals::{Readiness, flush};

use super::claim::{Claim, Lab, Outcome, State, Verdict};
use super::parts::Part;
use super::tools::{has_come, name_of, pair, queues_of, thousands, timed, wait_for};
use super::write_blocks::{c51, c52, c53, c54, reader};
use super::write_deadlines::{c55, c56};

pub(crate) const PARTS: &[(&str, Part)] = &[("reader", reader)];

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "C49",
        says: "“当Write调用的返回值n的值，与预期要写入的数据长度相等，且err = nil时，我们就执行了一次成功的Socket写操作” A Write has \
              succeeded if n is the length and err is nil",
        asks: "Rust's write is given 16 MiB on a non-blocking socket, and nobody reads. Does it fail?",
        why: "Go's Write is a loop: it returns fewer bytes only together with an error, so n == len and err == nil say the same. Rust's \
              write is the system call itself, and write(2) may take a part and call that a success: n is then the only thing that tells. \
              The loop is write_all, which is for blocking sockets: on a non-blocking one it fails at EAGAIN, and does not say how much \
              it had sent. That is why an event loop keeps a queue, and takes off it what each write took.",
        look: "strace -s 4 -e trace=sendto target/release/examples/lab run C49",
        exercise: "Write 5 bytes, print n. Then make the socket non-blocking and write 16 MiB: print n, and what write_all says in its \
              place.",
        state: State::Runs(c49),
    },
    Claim {
        id: "C50",
        says: "“调用Write向Socket写入数据，实际上是将数据写入到操作系统协议栈的数据缓冲区中……每个方向都有独立的数据缓冲” Write only \
              copies into the kernel's buffer, and each direction has its own",
        asks: "One byte is written to a peer that never reads, and then closes. What does the write say?",
        why: "send(2) returns when the bytes are copied into the send buffer. The two kernels do the rest, and acknowledge to each other \
              what neither program has looked at: a byte may be acknowledged and still never be read. So n says how many bytes the kernel \
              has taken, and nothing about the peer. Who must know that a request was handled needs an answer to it, such as the lesson's \
              submit ack; Go's Write and Rust's write_all promise no more than this call.",
        look: "strace -f -T -e trace=sendto,recvfrom target/release/examples/lab run C50",
        exercise: "Write to a peer that accepts and sleeps, and look at both ends with `ss -tn`. Then let it close without reading, and \
              write twice more: which write is the first to fail?",
        state: State::Runs(c50),
    },
    Claim {
        id: "C51",
        says: "“当发送方将对方的接收缓冲区，以及自身的发送缓冲区都写满后，再调用Write方法就会出现阻塞的情况” With both buffers full, \
              Write blocks",
        asks: "Both buffers are full. How much must the peer read until epoll says that the socket is writable again?",
        why: "A blocking write sleeps, a non-blocking one says EAGAIN; and EPOLLOUT is gone. It does not come back with the first free \
              byte: Linux calls a socket writable when a third of its send buffer is free (the free part is at least half of the used \
              one: sk_stream_is_writeable in the kernel), and the receiver opens its window only when a segment fits, of up to 64 KiB on \
              loopback. So a slow reader wakes the writer now and then, for many bytes, and not with each read. mio and Go's netpoller \
              see just these edges.",
        look: "strace -s 4 -e trace=recvfrom,poll,ppoll target/release/examples/lab run C51",
        exercise: "Fill a connection until EAGAIN. Read 1,000 bytes at a time at the other end, and poll for POLLOUT after each: print \
              how many bytes it took.",
        state: State::Runs(c51),
    },
    Claim {
        id: "C52",
        says: "“write 65536 bytes this time, 655360 bytes in total <-- 之后，写操作将阻塞” A client that writes 65,536 bytes at a time \
              blocks after 655,360",
        asks: "After how many bytes does it block here?",
        why: "That it blocks is TCP; where it does is the system's affair. The lesson ran on macOS. Linux lets the send buffer grow with \
              use, up to the third number of net.ipv4.tcp_wmem, and offers a window from the receive buffer, so the figure is another \
              with each system, and with its settings. With SO_SNDBUF and SO_RCVBUF the growing is off, and the kernel doubles what it is \
              asked for, for its own bookkeeping (socket(7)): the figure is smaller then, and as a rule the same on each run. The write \
              that blocks has already taken a part of its 65,536 bytes; the two queues show how much.",
        look: "strace -f -s 4 -e trace=sendto target/release/examples/lab run C52 2>&1 | head -75",
        exercise: "Write the lesson's client and a server that sleeps. Print the total as it does. Then set both buffers to 65,536 and \
              see whether two runs differ.",
        state: State::Runs(c52),
    },
    Claim {
        id: "C53",
        says: "“当服务端每隔5秒进行一次读操作后，内核socket缓冲区腾出了空间，客户端就又可以写入了” The server reads 60,000 bytes every 5 \
              seconds, and the client goes on writing",
        asks: "Buffers are full and the server reads 60,000 bytes at a time. Does the client's next write finish with each of its reads?",
        why: "Room is made where the server reads, and is used where the client writes, and between the two stand the window and the mark \
              of C51: so what was written is a staircase, flat for some reads, then several writes at once. The distance between the two \
              lines is what the buffers hold. Nobody has told the client to be slow: a peer that reads slowly is all that back-pressure \
              is, as long as the writer waits, in Go's Write or by not reading further requests, as the loop here does, and does not pile \
              up memory of its own.",
        look: "strace -f -r -s 4 -e trace=sendto,recvfrom target/release/examples/lab run C53",
        exercise: "Log time and total at both ends of the lesson's pair, with 50 ms for its 5 s, and draw both lines.",
        state: State::Runs(c53),
    },
    Claim {
        id: "C54",
        says: "“我们杀掉服务端……write 24108 bytes, error:write tcp ……: write: broken pipe” The server is killed while Write blocks: a part was \
              written, and the error is broken pipe",
        asks: "The reader is killed while the writer blocks. Which error comes first: EPIPE or ECONNRESET?",
        why: "The dead process's socket is closed by the kernel, with bytes in it that nobody has read, so it sends a reset (RFC 1122, \
              4.2.2.13). On Linux that is told once, as ECONNRESET, to the call that waits or comes next; from then on a write says \
              EPIPE. The write that waited returns the part that it had copied, without an error; Go's Write, which goes on by itself, \
              returns that part and the error together. All that was in the two buffers is lost, and not just the last part: what was \
              written minus what the server has read.",
        look: "strace -f -s 4 -e trace=sendto,kill target/release/examples/lab run C54 2>&1 | grep -B3 -A5 'kill('",
        exercise: "Let the server read 60,000 bytes and print how many, then `kill -9` it while the client blocks. Print n and the error \
              of the client's last three writes.",
        state: State::Runs(c54),
    },
    Claim {
        id: "C55",
        says: "“在Write方法写入超时时，依旧存在数据部分写入（仅写入24108个字节）的情况” A Write that runs into its deadline has written a \
              part",
        asks: "The peer stalls, and the write deadline passes. Does the peer get a part of what was to be written, or nothing?",
        why: "Bytes that were copied into the send buffer cannot be called back: the deadline ends the waiting, not the sending. Go's \
              Write returns n < len together with os.ErrDeadlineExceeded. With SO_SNDTIMEO (Rust's set_write_timeout) send(2) returns the \
              part as a success, and EAGAIN when it has taken nothing. In the loop a message is queued whole, and the close reason of a \
              write deadline says how many bytes of the queue were not taken. Whoever goes on must know n, or close: the peer has half a \
              frame.",
        look: "strace -r -s 4 -e trace=sendto,setsockopt target/release/examples/lab run C55",
        exercise: "Set a write timeout of 50 ms, write 65,536 bytes at a time to a peer that sleeps: print n of the last two writes. Then \
              count at the peer what arrives.",
        state: State::Runs(c55),
    },
    Claim {
        id: "C56",
        says: "“只要我们通过SetWriteDeadline设置了写超时……如果不重新设置写超时或取消写超时，后续对Socket的写操作都将以超时失败告终” Once \
              the write deadline has passed, all later Writes fail until it is set anew or cleared",
        asks: "The write deadline has passed, then the peer reads everything: there is room. Does the next write go out? And with \
              SO_SNDTIMEO?",
        why: "As with reading, Go's Write looks at the deadline before it looks at the socket, so room does not help. The loop keeps that \
              rule: what is queued stays where it is, and try_send refuses, until set_write_deadline is called again; clearing it lets \
              the queue go out. SO_SNDTIMEO is a length of time for each call and remembers nothing. The sticky one is safer after a \
              partial write: a next message cannot get in after half a one by mistake.",
        look: "strace -r -s 4 -e trace=sendto,setsockopt target/release/examples/lab run C56",
        exercise: "Let a write time out with set_write_timeout, drain the peer, and write again without setting anything: it succeeds. \
              Find out what the peer has by then: whole messages?",
        state: State::Runs(c56),
    },
    Claim {
        id: "C57",
        says: "“在调用Read和Write时，依旧要综合函数返回的n和err的结果以做出正确处理” With Read and Write, use n and err together",
        asks: "A stream takes a few bytes, none now, or breaks, at random. How many of 2,000 messages come out wrong if only the error is \
              looked at?",
        why: "n says where to go on, the error whether one may. A loop that keeps both cannot do harm: what has left is always the \
              beginning of what was to leave, and how long it is, is known, whatever happens in between. Go returns both at once, n bytes \
              and then the error; in Rust a call returns one of them, and the error comes with the next call. That is why the transport \
              here (src/net/transport.rs) has three answers, some bytes, blocked or failed, and the queue only ever gives up its first n \
              bytes.",
        look: "sed -n '/^pub fn flush/,/^}/p' src/net/transport.rs",
        exercise: "Write a type that implements Write and takes a random part of what it is given, or fails. Test your own write loop \
              with it, a thousand times, each with another seed.",
        state: State::Runs(c57),
    },
];

fn c49(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    let written = client.write(b"hello")?;
    let arrived = server.read(&mut [0; 10])?;
    let much = vec![0; 16 << 20];
    client.set_nonblocking(true)?;
    let short = client.write(&much)?;
    let all = client
        .write_all(&much)
        .err()
        .map_or("ok".into(), |error| name_of(&error));
    let as_known =
        (written, arrived) == (5, 5) && short > 0 && short < much.len() && all == "EAGAIN";
    Ok(Outcome::new(Verdict::reproduced_if(as_known))
        .with(
            "write of 5 bytes",
            format!("{written}, and {arrived} arrived"),
        )
        .with(
            "write of 16,777,216 bytes, non-blocking, nobody reads",
            format!("{}, no error", thousands(short)),
        )
        .with("write_all of as many more", all))
}

fn c50(_: Lab) -> io::Result<Outcome> {
    let (client, server) = pair()?;
    let (took, written) = timed(|| (&client).write(b"x"));
    let written = written?;
    let acknowledged = has_come(&server, 1)
        && wait_for(|| queues_of(&client).is_ok_and(|queues| queues.sending == 0));
    (&server).write_all(b"abc")?;
    let apart = has_come(&client, 3) && has_come(&server, 1);
    drop(server); // it has read nothing
    let mut buffer = [0; 10];
    let after = loop {
        match (&client).read(&mut buffer) {
            Ok(0) => break "the end".to_string(),
            Ok(_) => {}
            Err(error) => break name_of(&error),
        }
    };
    let as_known = written == 1 && acknowledged && apart && after == "ECONNRESET";
    Ok(Outcome::new(Verdict::reproduced_if(as_known))
        .with("write of 1 byte", format!("{written} after {:.0} µs", took.as_secs_f64() * 1e6))
        .with("acknowledged, in the receive buffer of a peer that never reads", acknowledged)
        .with("3 bytes the other way have a buffer of their own", apart)
        .with("when that peer has closed, the writer reads", after)
        .note("\"Written\" is not \"received\": this byte was written and acknowledged, and nobody has ever read it."))
}

/// A stream that takes some bytes, none now, or breaks, as the dice fall.
struct Moody {
    dice: fastrand::Rng,
    taken: Vec<u8>,
    broken: bool,
}

impl Write for Moody {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.broken |= self.dice.u8(..) == 0;
        match self.dice.u8(..10) {
            _ if self.broken => Err(ErrorKind::ConnectionReset.into()),
            0 => Err(ErrorKind::Interrupted.into()),
            1 | 2 => Err(ErrorKind::WouldBlock.into()),
            _ => {
                let count = self.dice.usize(1..=bytes.len());
                self.taken.extend_from_slice(&bytes[..count]);
                Ok(count)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Goes on behind what was taken, with the crate's own transport. Says how many bytes were.
fn careful(message: &[u8], stream: &mut Moody) -> usize {
    let mut sent = 0;
    while sent < message.len() {
        match flush(stream, &message[sent..], &mut Readiness::default()) {
            Flush::Bytes(count) => sent += count,
            Flush::Blocked => {} // a loop would wait for an event
            Flush::Failed(_) => break,
        }
    }
    sent
}

/// Looks at the error, and not at n.
fn hasty(message: &[u8], stream: &mut Moody) {
    for part in message.chunks(100) {
        while let Err(error) = stream.write(part) {
            if error.kind() == ErrorKind::ConnectionReset {
                return;
            }
        }
    }
}

#[allow(clippy::unnecessary_wraps)] // as all experiments are
fn c57(_: Lab) -> io::Result<Outcome> {
    const MESSAGES: u64 = 2000;
    let (mut whole, mut broken, mut wrong, mut wrong_if_hasty) = (0, 0, 0, 0);
    for seed in 0..MESSAGES {
        let mut dice = fastrand::Rng::with_seed(seed);
        let message: Vec<u8> = (0..dice.usize(1..2000)).map(|_| dice.u8(..)).collect();
        let stream = || Moody {
            dice: fastrand::Rng::with_seed(!seed),
            taken: Vec::new(),
            broken: false,
        };
        let mut moody = stream();
        let sent = careful(&message, &mut moody);
        whole += u64::from(sent == message.len());
        broken += u64::from(moody.broken);
        wrong += u64::from(moody.taken != message[..sent]);
        let mut moody = stream();
        hasty(&message, &mut moody);
        wrong_if_hasty += u64::from(!message.starts_with(&moody.taken));
    }
    let all_ends = whole > 0 && broken > 0 && whole + broken >= MESSAGES;
    Ok(Outcome::new(Verdict::reproduced_if(
        wrong == 0 && all_ends && wrong_if_hasty > 0,
    ))
    .with(
        "messages",
        format!(
            "{}, on a stream that broke during {broken} of them",
            thousands(MESSAGES as usize)
        ),
    )
    .with(
        "n and error used",
        format!("{whole} came out whole, the others up to the byte that was told; {wrong} wrong"),
    )
    .with(
        "only the error used",
        format!("{wrong_if_hasty} wrong: bytes are missing in the middle"),
    ))
}
