//! The reactor in a thread of its own, beside a `main` that blocks on stdin: each line typed here
//! is sent to all connections.
//!
//! Run `cargo run --example embed_thread`, and `nc 127.0.0.1 PORT` in another terminal, with the
//! port that it prints. Then type lines in both. Ctrl-D ends the program after all lines typed
//! before it were sent.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;
use std::{io, thread};

use glassloop::codec::Line;
use glassloop::{
    CloseReason, ConnectionId, Context, Handler, LoopContext, Origin, PostError, Reactor, Verdict,
};

/// Echoes every line, and sends each post to all connections.
#[derive(Default)]
struct Broadcaster {
    open: BTreeSet<ConnectionId>,
}

impl Handler for Broadcaster {
    type Codec = Line;
    type State = ();
    type Mail = String;

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.open.insert(cx.id());
        Verdict::Continue
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(line);
        Verdict::Continue
    }

    fn mail(&mut self, line: String, cx: &mut LoopContext<'_, Self>) {
        cx.send_to_many(self.open.iter().copied(), line.as_bytes());
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, _: &CloseReason) {
        self.open.remove(&cx.id());
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:0".into());

    // A reactor stays in the thread that made it. That thread sends a handle back.
    let (started, wait_for_start) = mpsc::channel();
    let serving = thread::spawn(move || {
        let mut reactor = Reactor::bind(addr, Broadcaster::default())?;
        let _ = started.send((reactor.local_addrs()[0].clone(), reactor.handle()));
        reactor.run()
    });

    if let Ok((addr, handle)) = wait_for_start.recv() {
        println!("listening on {addr}");
        for line in io::stdin().lines() {
            let mut line = line?;
            // A full mailbox returns the line: wait, and try again.
            while let Err(PostError::Full(returned)) = handle.post(line) {
                thread::sleep(Duration::from_millis(1));
                line = returned;
            }
        }
        handle.shutdown(Duration::from_secs(2));
    }
    Ok(serving.join().expect("the loop does not panic")?)
}
