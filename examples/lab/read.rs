//! Reading from a socket: C41 to C48.

use std::io::{self, Read, Write};

use super::claim::{Claim, Lab, Outcome, State, Verdict};
use super::tools::pair;

pub(crate) const CLAIMS: &[Claim] = &[Claim {
    id: "C43",
    says: "“如果Socket中有部分数据就绪，且数据数量小于一次读操作期望读出的数据长度，那么读操作将会成功读出这部分数据并返回” With less there than the buffer holds, Read returns what is there",
    asks: "A buffer of 10 bytes, 2 have come: what does read return?",
    why: "read(2) waits for some bytes, not for all that would fit. So a short read is no error and no end, and how many bytes came is known from its \
              result only. io.ReadFull in Go and read_exact in Rust are loops around it.",
    look: "strace -f -e trace=recvfrom,sendto target/release/examples/lab run C43",
    exercise: "Connect, send 2 bytes, read into 10: print n. Then do it with read_exact, and see who waits.",
    state: State::Runs(c43),
}];

fn c43(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    client.write_all(b"hi")?;
    let mut buffer = [0; 10];
    let count = server.read(&mut buffer)?;
    Ok(Outcome::new(Verdict::reproduced_if(count == 2)).with("buffer", "10 bytes").with("sent", "2 bytes").with("read", count))
}
