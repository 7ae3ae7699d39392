//! Raft's calls from other members.

use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status};

use super::codec::{decode, encode};
use super::guard::Guard;
use super::network::SnapshotMessage;
use super::types::{Raft, Snapshot, TypeConfig};
use crate::admission::Admission;
use crate::proto::raft_server;
use crate::proto::{Envelope, Reply};

/// Answers for the local Raft.
pub(crate) struct RaftService {
    pub(crate) raft: Raft,
    pub(crate) guard: Guard,
    pub(crate) admission: Arc<Admission>,
}

impl RaftService {
    fn open<T: DeserializeOwned>(&self, request: Request<Envelope>) -> Result<T, Status> {
        let Envelope { from, to, .. } = *request.get_ref();
        self.guard.check(request.extensions(), from, to)?;
        self.admission
            .check()
            .map_err(|error| Status::unavailable(error.to_string()))?;
        decode(&request.into_inner().body)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

fn seal<T: Serialize>(answer: &T) -> Result<Response<Reply>, Status> {
    let body = encode(answer).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Response::new(Reply {
        body: Bytes::from(body),
    }))
}

/// The local Raft has stopped; the caller treats this member as unreachable.
fn stopped(error: impl std::error::Error) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append_entries(&self, request: Request<Envelope>) -> Result<Response<Reply>, Status> {
        let message: AppendEntriesRequest<TypeConfig> = self.open(request)?;
        seal(&self.raft.append_entries(message).await.map_err(stopped)?)
    }

    async fn vote(&self, request: Request<Envelope>) -> Result<Response<Reply>, Status> {
        let message: VoteRequest<TypeConfig> = self.open(request)?;
        seal(&self.raft.vote(message).await.map_err(stopped)?)
    }

    async fn pre_vote(&self, request: Request<Envelope>) -> Result<Response<Reply>, Status> {
        let message: VoteRequest<TypeConfig> = self.open(request)?;
        seal(&self.raft.pre_vote(message).await.map_err(stopped)?)
    }

    async fn snapshot(&self, request: Request<Envelope>) -> Result<Response<Reply>, Status> {
        let SnapshotMessage { vote, meta, data } = self.open(request)?;
        let snapshot = Snapshot {
            meta,
            snapshot: data,
        };
        seal(
            &self
                .raft
                .install_full_snapshot(vote, snapshot)
                .await
                .map_err(stopped)?,
        )
    }

    async fn transfer_leader(&self, request: Request<Envelope>) -> Result<Response<Reply>, Status> {
        let message: TransferLeaderRequest<TypeConfig> = self.open(request)?;
        seal(
            &self
                .raft
                .handle_transfer_leader(message)
                .await
                .map_err(stopped)?,
        )
    }
}
