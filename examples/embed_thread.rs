//! The loop in a thread of its own, beside a `main` that blocks: what is typed here is sent to everybody who is connected.
//!
//! Type `cargo run --example embed_thread`, in another terminal `nc 127.0.0.1 PORT` with the port that it names, and then something in both.
//! Ctrl-D ends it, and what was typed before that still arrives.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;
use std::{io, thread};

use glassloop::codec::Line;
use glassloop::{
    CloseReason, ConnectionId, Context, Handler, LoopContext, Origin, PostError, Reactor, Verdict,
};

/// Sends every line back, and each letter to all who are there.
#[derive(Default)]
struct Crier {
    present: BTreeSet<ConnectionId>,
}

impl Handler for Crier {
    type Codec = Line;
    type State = ();
    type Mail = String;

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.present.insert(cx.id());
        Verdict::Continue
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(line);
        Verdict::Continue
    }

    fn mail(&mut self, news: String, cx: &mut LoopContext<'_, Self>) {
        cx.send_to_many(self.present.iter().copied(), news.as_bytes());
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, _: &CloseReason) {
        self.present.remove(&cx.id());
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:0".into());

    // A reactor stays in the thread that made it. What comes back from there is a handle.
    let (tell, told) = mpsc::channel();
    let serving = thread::spawn(move || {
        let mut reactor = Reactor::bind(addr, Crier::default())?;
        let _ = tell.send((reactor.local_addrs()[0].clone(), reactor.handle()));
        reactor.run()
    });

    if let Ok((addr, handle)) = told.recv() {
        println!("listening on {addr}");
        for line in io::stdin().lines() {
            let mut news = line?;
            // Whoever talks faster than the loop can listen has his letter back, and tries again.
            while let Err(PostError::Full(back)) = handle.post(news) {
                thread::sleep(Duration::from_millis(1));
                news = back;
            }
        }
        handle.shutdown(Duration::from_secs(2));
    }
    Ok(serving.join().expect("the loop does not panic")?)
}
