//! A guide to event loops, in the order of the lessons that this crate answers: an evening's reading, with the lab beside it. Documentation only, no code.
//!
//! It is for those who write servers in Go or Rust and want to see what a call does that looks as if it waited. The lessons are Tony Bai's,
//! 《Go语言第一课》, 36 to 38: how to build a TCP server, and how to make it fast. They say what Go shows; this guide says what it hides, and where each part of that stands in this crate.
//!
//! | | chapter | what it answers |
//! |---|---|---|
//! | 1 | [`sockets`] | Where are the bytes while two programs talk? |
//! | 2 | [`models`] | Who waits, and where? Nine servers |
//! | 3 | [`turn`] | What does the loop do between two sleeps? |
//! | 4 | [`states`] | What does a connection remember? Every transition, and its test |
//! | 5 | [`reading`] | What may a read answer, and when to read again? |
//! | 6 | [`writing`] | What does a write promise, and what if nobody reads? |
//! | 7 | [`connecting`] | What happens before the first byte? |
//! | 8 | [`closing`] | How to end, and not lose the last reply? |
//! | 9 | [`deadlines`] | How long is too long, and what does it cost to know? |
//! | 10 | [`sharing`] | Whose is a connection, among several threads? |
//! | 11 | [`tasks`] | How does straight-line code come back? And what does Go do? |
//! | 12 | [`measuring`] | What does a request cost, and how does one know? |
//!
//! To look things up:
//!
//! | | |
//! |---|---|
//! | [`errors`] | each error of a socket: what it means, what Go does, what this crate does |
//! | [`mod@epoll`] | what has happened, what epoll reports, what the loop does |
//! | [`errata`] | where the lessons and the machine disagree |
//! | [`lab`] | each claim of the lessons: the question, the reason, and how to see it yourself |
//! | [`glossary`] | the words, in English and Chinese |
//! | [`faults`] | what goes wrong in servers of this kind, and the test that holds each of it here |
//! | [`simulation`] | what the simulator does, and which bugs it finds |
//!
//! # The lab
//!
//! Each claim of the lessons has a number, C1 to C67 for the sockets, D1 to D18 for the protocol, E1 to E8 for the speed; w1 to w8 are reactors that are wrong, each in one way. A chapter's last line names those that belong to it.
//! They are experiments, and run on Linux:
//!
//! ```sh
//! cargo run --release --example lab -- list
//! cargo run --release --example lab -- run C43 --predict     # guess first
//! cargo run --release --example lab -- explain C43
//! cargo run --release --example lab -- exercise C43          # a program to begin with
//! cargo run --release --example lab -- wrong
//! ```
//!
//! Figures in these pages were measured on the machine that stands beside them, and yours will differ; most experiments print yours. Names such as `closing::a_stop_at_once_drops_everything` are tests: that one stands in `tests/closing.rs`.
//! `tests/guide.rs` checks that each number, test and file that is named here exists.

// Where the pages' links to the crate's items are looked up.
#[cfg(doc)]
use super::*;

/// Declares a page for each name, with the text that stands in `guide/`, and with the chapters' numbers
/// as links. Names in brackets are parts of a page, in a folder of its name.
macro_rules! pages {
    ($($page:ident $([$($part:ident)*])?)*) => {$(
        #[doc = include_str!(concat!(stringify!($page), ".md"))]
        $(
            #[allow(clippy::doc_markdown)] // a terminal shows the parts, too
            $(#[doc = include_str!(concat!(stringify!($page), "/", stringify!($part), ".md"))])*
        )?
        ///
        /// [chapter 1]: sockets
        /// [chapter 2]: models
        /// [chapter 3]: turn
        /// [chapter 4]: states
        /// [chapter 5]: reading
        /// [chapter 6]: writing
        /// [chapter 7]: connecting
        /// [chapter 8]: closing
        /// [chapter 9]: deadlines
        /// [chapter 10]: sharing
        /// [chapter 11]: tasks
        /// [chapter 12]: measuring
        pub mod $page {}
    )*};
}

pages! {
    sockets models turn states reading writing connecting closing deadlines sharing tasks measuring
    errors epoll errata glossary faults simulation
    lab [
        protocol models go listen dial buffers read write share close course packets speed wrong
    ]
}
