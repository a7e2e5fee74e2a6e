//! The smallest embedding: an echo server for lines.
//!
//! Run `cargo run --example echo`, and `nc 127.0.0.1 7000` in another terminal. The optional
//! argument is another address to listen on.

use glassloop::codec::Line;
use glassloop::{Context, Handler, Origin, Reactor, Verdict};

struct Echo;

impl Handler for Echo {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(line);
        Verdict::Continue
    }
}

fn main() {
    let addr = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7000".into());
    let served = Reactor::bind(addr, Echo).and_then(|mut reactor| {
        println!("listening on {}", reactor.local_addrs()[0]);
        reactor.run()
    });
    if let Err(error) = served {
        eprintln!("echo: {error}");
        std::process::exit(1);
    }
}
