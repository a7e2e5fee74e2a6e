//! The reactor inside tokio: a task of a `current_thread` runtime, beside another task that prints
//! ticks.
//!
//! Run `cargo run --example embed_tokio`, and `nc 127.0.0.1 PORT` in another terminal, with the
//! port that it prints: it echoes every line while the ticks continue. A connection that is idle
//! for two seconds is closed.

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

    /// Takes a turn whenever the poller is readable or a deadline expires.
    // `AsyncFd::with_interest`'s successor is unsafe, since the descriptor must stay open. A
    // reactor's descriptor stays open as long as the reactor exists.
    #[allow(deprecated)]
    async fn serve(reactor: Reactor<Echo>) -> Result<(), Box<dyn Error>> {
        let mut reactor = AsyncFd::with_interest(reactor, Interest::READABLE)?;
        loop {
            let due = reactor.get_ref().next_deadline();
            tokio::select! {
                // Cleared before the turn: readiness that arrives during the turn is reported
                // again.
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
    eprintln!("embed_tokio: only on Unix does a poller have a descriptor to wait for");
}
