//! The loop inside of tokio: one more task of a `current_thread` runtime, beside another that ticks.
//!
//! Type `cargo run --example embed_tokio`, and in another terminal `nc 127.0.0.1 PORT` with the port that it names: every line
//! comes back, while the ticks go on. Who says nothing for two seconds is let go.

#[cfg(unix)]
mod unix {
    use std::error::Error;
    use std::future;
    use std::time::{Duration, Instant};

    use glassloop::codec::Line;
    use glassloop::{Config, Context, Handler, Origin, Reactor, Turn, Verdict};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    use tokio::time;

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

    /// Takes a turn whenever the poller has something to tell, or a deadline has come.
    #[allow(deprecated)] // Its successor is unsafe: the descriptor must stay open. That of a reactor does, for as long as there is the reactor.
    async fn serve(reactor: Reactor<Echo>) -> Result<(), Box<dyn Error>> {
        let mut reactor = AsyncFd::with_interest(reactor, Interest::READABLE)?;
        loop {
            let due = reactor.get_ref().next_deadline();
            tokio::select! {
                // Cleared before the turn: what becomes ready during it is told anew.
                ready = reactor.readable() => ready?.clear_ready(),
                () = until(due) => {}
            }
            if reactor.get_mut().turn(Some(Duration::ZERO))? == Turn::Stopped {
                return Ok(());
            }
        }
    }

    async fn until(due: Option<Instant>) {
        match due {
            Some(at) => time::sleep_until(at.into()).await,
            None => future::pending().await,
        }
    }

    async fn tick() {
        for n in 1_u64.. {
            time::sleep(Duration::from_secs(1)).await;
            println!("tick {n}");
        }
    }

    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn main() -> Result<(), Box<dyn Error>> {
        let addr = std::env::args()
            .nth(1)
            .unwrap_or_else(|| "127.0.0.1:0".into());
        let config = Config {
            idle_timeout: Some(Duration::from_secs(2)),
            ..Config::default()
        };
        let mut reactor = Reactor::new(Echo, config)?;
        println!("listening on {}", reactor.listen(addr)?);
        tokio::spawn(tick());
        serve(reactor).await
    }
}

#[cfg(unix)]
fn main() {
    if let Err(error) = unix::main() {
        eprintln!("embed_tokio: {error}");
        std::process::exit(1);
    }
}

#[cfg(not(unix))]
fn main() {
    eprintln!("embed_tokio: a poller can be waited for by its descriptor on Unix only");
}
