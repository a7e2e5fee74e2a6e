//! A guide to event loops. Documentation only, no code.
//!
//! It is for programmers of servers in Go or Rust, and shows what a call does that seems to block.
//! The chapters follow the lessons that this crate accompanies: Tony Bai's, 《Go语言第一课》, 36 to
//! 38, on how to build a TCP server and how to make it fast. The lessons show what Go offers. This
//! guide shows what Go hides, and where each part of that is in this crate.
//!
//! | | chapter | what it answers |
//! |---|---|---|
//! | 1 | [`sockets`] | Where are the bytes while two programs talk? |
//! | 2 | [`models`] | Where does a server wait? Nine servers |
//! | 3 | [`turn`] | What does the loop do between two waits? |
//! | 4 | [`states`] | What does a connection remember? Every transition, and its test |
//! | 5 | [`reading`] | What may a read return, and when to read again? |
//! | 6 | [`writing`] | What does a write promise, and what if the peer does not read? |
//! | 7 | [`connecting`] | What happens before the first byte? |
//! | 8 | [`closing`] | How to close without losing the last reply? |
//! | 9 | [`deadlines`] | How long is too long, and what does it cost to know? |
//! | 10 | [`sharing`] | Which of several threads owns a connection? |
//! | 11 | [`tasks`] | How does straight-line code return? And what does Go do? |
//! | 12 | [`measuring`] | What does a request cost, and how to measure it? |
//!
//! To read in real code: [`walkthrough`], one request from `epoll_wait` to `send`.
//!
//! To look things up:
//!
//! | | |
//! |---|---|
//! | [`errors`] | each error of a socket: what it means, what Go does, what this crate does |
//! | [`mod@epoll`] | what happened, what epoll reports, what the loop does |
//! | [`errata`] | where the lessons and the machine disagree |
//! | [`lab`] | each claim of the lessons: the question, the reason, and how to see it yourself |
//! | [`glossary`] | the terms, in English and Chinese |
//! | [`faults`] | what goes wrong in servers of this kind, and the tests that would catch it here |
//! | [`operating`] | how to run the example server: listeners, signals, logs, limits |
//! | [`performance`] | what a request costs, beside other servers |
//! | [`testing`] | what each part of the test suite shows |
//! | [`simulation`] | what the simulator does, and which bugs it finds |
//! | [`contributing`] | how to change the crate: the files to touch, in order |
//! | [`changelog`] | what changed for users |
//!
//! # The lab
//!
//! Each claim of the lessons has a number: C1 to C67 for the sockets, D1 to D18 for the protocol,
//! E1 to E8 for the speed. w1 to w8 are reactors that are wrong, each in one way. A chapter's last
//! line has the numbers that belong to it. They are experiments, and run on Linux:
//!
//! ```sh
//! cargo run --release --example lab -- list
//! cargo run --release --example lab -- run C43 --predict     # guess first
//! cargo run --release --example lab -- explain C43
//! cargo run --release --example lab -- exercise C43          # a program to begin with
//! cargo run --release --example lab -- wrong
//! ```
//!
//! Every figure in these pages was measured, on the machine that is named with it. Yours will
//! differ; most experiments print yours. Names such as `closing::immediate_stop_drops_everything`
//! are tests: that one is in `tests/closing.rs`. `tests/guide.rs` checks that each number, test and
//! file in these pages exists.

// The pages link to the crate's items by their names.
#[cfg(doc)]
use super::*;

/// Declares a module for each page, with the text of its file, and with the chapters' numbers as
/// links. Names in brackets are parts of a page, in a folder of its name.
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
    walkthrough
    errors epoll errata glossary faults operating performance testing simulation contributing
    changelog
    lab [
        protocol models go listen dial buffers read write share close course packets speed wrong
    ]
}
