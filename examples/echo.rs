//! The smallest embedding: every line comes back. Try it with `nc 127.0.0.1 7000`.

use glassloop::codec::Line;
use glassloop::{Context, Handler, Origin, Reactor, Verdict};

struct Echo;

impl Handler for Echo {
    type Codec = Line;
    type State = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(line);
        Verdict::Continue
    }
}

fn main() -> Result<(), glassloop::Error> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".into());
    let mut reactor = Reactor::bind(addr, Echo)?;
    println!("listening on {}", reactor.local_addrs()[0]);
    reactor.run()
}
