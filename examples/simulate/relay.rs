//! A relay handler: for each client it dials a backend, and forwards frames both ways.

use std::collections::BTreeMap;
use std::time::Duration;

use glassloop::codec::{Framed, LengthField};
use glassloop::{Address, CloseReason, ConnectionId, Context, Handler, Origin, Verdict};

use crate::delivery::{HANDLER, Party};
use crate::record::SharedRecord;
use crate::wire::read;

/// The relay and its backends.
pub(crate) struct Relay {
    record: SharedRecord,
    backends: Vec<Address>,
    fronts: BTreeMap<u64, Front>,
    dials: u64,
}

/// The most unanswered bytes of one client. Without it a slow reader on one side would fill the
/// buffers of the other.
const WINDOW: usize = 262_144;

/// A client of the relay.
#[derive(Debug)]
struct Front {
    id: ConnectionId,
    client: Option<Party>,
    back: Option<ConnectionId>,
    /// Bytes of requests forwarded and not answered; and whether the client is paused because of
    /// them.
    unanswered: usize,
    waits: bool,
    ended: bool,
}

/// The role of a connection.
#[derive(Debug)]
pub(crate) enum Role {
    Front(Option<u64>),
    Back(u64),
    /// The accepted end of a dial to the loop's own second listener.
    Backend,
}

impl Relay {
    pub(crate) fn new(record: SharedRecord, backends: Vec<Address>) -> Self {
        Self {
            record,
            backends,
            fronts: BTreeMap::new(),
            dials: 0,
        }
    }

    /// Forwards a request, and records that its answer is expected.
    fn forward(&mut self, key: u64, body: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        let Some(front) = self.fronts.get_mut(&key) else {
            return Verdict::Close;
        };
        let (Some(back), Some((id, _, intact))) = (front.back, read(body)) else {
            return Verdict::Close;
        };
        front.client = Some(id.from);
        front.unanswered += body.len();
        front.waits = front.unanswered >= WINDOW;
        let verdict = if front.waits {
            Verdict::Pause
        } else {
            Verdict::Continue
        };
        let mut record = self.record.borrow_mut();
        record.delivery.receive(HANDLER, id.from, id.number, intact);
        record.delivery.expect_message(id.from, id.from);
        record.ids.insert(id.from, front.id);
        cx.send_to(back, body);
        verdict
    }

    /// Forwards an answer to the client.
    fn back(&mut self, key: u64, body: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        let Some(front) = self.fronts.get_mut(&key) else {
            return Verdict::Close;
        };
        cx.send_to(front.id, body);
        front.unanswered -= body.len();
        if front.unanswered < WINDOW && std::mem::take(&mut front.waits) {
            cx.resume(front.id);
        }
        self.close_if_done(key, cx)
    }

    fn close_if_done(&mut self, key: u64, cx: &mut Context<'_, Self>) -> Verdict {
        let front = &self.fronts[&key];
        if front.ended && front.unanswered == 0 {
            self.record.borrow_mut().relayed.extend(front.client);
            cx.close(front.id);
            front.back.into_iter().for_each(|back| cx.close(back));
        }
        Verdict::Continue
    }
}

impl Handler for Relay {
    type Codec = LengthField;
    type State = Role;
    type Mail = u16;

    fn connection(&mut self, origin: &Origin) -> (LengthField, Role) {
        let role = match origin {
            Origin::Accepted { listener: 0, .. } => Role::Front(None),
            Origin::Dialed { key, .. } => Role::Back(*key),
            _ => Role::Backend,
        };
        (LengthField::whole(4), role)
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        let id = cx.id();
        match cx.state() {
            Role::Front(key) => {
                self.dials += 1;
                *key = Some(self.dials);
                let key = self.dials;
                cx.expect_handshake();
                self.fronts.insert(
                    key,
                    Front {
                        id,
                        client: None,
                        back: None,
                        unanswered: 0,
                        waits: false,
                        ended: false,
                    },
                );
                let first = self.dials as usize % self.backends.len();
                let backends = self.backends[first..]
                    .iter()
                    .chain(&self.backends[..first])
                    .cloned()
                    .collect();
                cx.connect(backends, Duration::from_secs(30), key);
                Verdict::Pause
            }
            Role::Back(key) => match self.fronts.get_mut(key) {
                Some(front) => {
                    front.back = Some(id);
                    cx.resume(front.id);
                    Verdict::Continue
                }
                None => Verdict::Close,
            },
            Role::Backend => {
                cx.expect_handshake();
                Verdict::Continue
            }
        }
    }

    fn frame(&mut self, frame: Framed<'_>, cx: &mut Context<'_, Self>) -> Verdict {
        match cx.state() {
            Role::Front(key) => {
                let key = key.expect("open was called");
                self.forward(key, frame.body, cx)
            }
            Role::Back(key) => {
                let key = *key;
                self.back(key, frame.body, cx)
            }
            Role::Backend => {
                cx.send(frame.body);
                Verdict::Continue
            }
        }
    }

    fn eof(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        let Role::Front(Some(key)) = *cx.state() else {
            return Verdict::Close;
        };
        if let Some(front) = self.fronts.get_mut(&key) {
            front.ended = true;
        }
        self.close_if_done(key, cx)
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, _: &CloseReason) {
        let (Role::Front(Some(key)) | Role::Back(key)) = *cx.state() else {
            return;
        };
        let id = cx.id();
        // The other side of the relay closes, too.
        if let Some(front) = self.fronts.remove(&key) {
            for other in [Some(front.id), front.back]
                .into_iter()
                .flatten()
                .filter(|other| *other != id)
            {
                cx.close(other);
            }
        }
    }
}
