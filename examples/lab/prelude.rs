//! What nearly every experiment uses.

pub(crate) use std::io::{self, ErrorKind, Read, Write};
pub(crate) use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
pub(crate) use std::thread;
pub(crate) use std::time::{Duration, Instant};

pub(crate) use super::claim::{Lab, Outcome, Run, Verdict};
pub(crate) use super::tools::*;
pub(crate) use super::value::values;
