//! Heartbeats in: each is answered at once, with or without a lease.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::Liveness;
use crate::admission::Admission;
use crate::heard::Heard;
use crate::liveness::{self, BootTime};
use crate::position::LogPosition;
use crate::proto::heartbeats_server::Heartbeats;
use crate::proto::{Heartbeat, HeartbeatAnswer};
use crate::raft::guard::{Guard, Peer};
use crate::state::{Incarnation, LANS_MAX, ServerId};

/// The voter's end of heartbeat connections.
#[derive(Clone)]
pub(crate) struct HeartbeatService {
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) guard: Guard,
    pub(crate) admission: Arc<Admission>,
}

impl HeartbeatService {
    fn answer(&self, peer: Peer, message: &Heartbeat) -> Result<HeartbeatAnswer, Status> {
        let from = self
            .guard
            .check_peer(Some(peer), message.from, message.to)?;
        let lan = usize::try_from(message.lan).unwrap_or(usize::MAX);
        if lan >= LANS_MAX {
            return Err(Status::invalid_argument(format!("there is no LAN {lan}")));
        }
        let hears: BTreeSet<ServerId> = message.hears.iter().map(|id| ServerId(*id)).collect();
        self.heard.note_report(from, hears);
        let durable = LogPosition {
            term: message.durable_term,
            index: message.durable,
        };
        self.heard.note_durable(from, durable);
        let verdict = self.liveness.on_heartbeat(&liveness::Heartbeat {
            from,
            incarnation: Incarnation(message.incarnation),
            sent: BootTime(message.sent_at),
            applied: message.applied,
            lan,
        });
        // Whoever may have forgotten a takeover it knew of grants no lease to the former primary.
        let lease_ns = verdict.lease_ns().filter(|_| self.admission.is_open());
        Ok(HeartbeatAnswer {
            sent_at: message.sent_at,
            lease_ns: lease_ns.unwrap_or(0),
        })
    }
}

#[tonic::async_trait]
impl Heartbeats for HeartbeatService {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<HeartbeatAnswer, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<Heartbeat>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let peer = self.guard.peer(request.extensions())?;
        let service = self.clone();
        let answers = request
            .into_inner()
            .map(move |message| service.answer(peer, &message?));
        Ok(Response::new(Box::pin(answers)))
    }
}
