//! Raft's calls to other members.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{
    NetworkError, RPCError, RemoteError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::codec::{decode, encode};
use super::dial::{Links, Purpose};
use super::types::{Snapshot, SnapshotData, SnapshotMeta, TypeConfig, Vote};
use crate::admission::Admission;
use crate::proto::raft_client::RaftClient;
use crate::proto::{Envelope, Reply};
use crate::state::ServerId;

/// Largest message: a snapshot of a cluster with all its events is far below.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Patience with a follower that writes entries to its disk. openraft's own limit is one heartbeat interval, which a slow disk
/// exceeds without being dead; whether the follower lives is found out by heartbeats, on another connection.
const APPEND_TIMEOUT: Duration = Duration::from_millis(500);

type RpcError = RPCError<TypeConfig>;

/// Makes Raft's clients.
pub(crate) struct Network {
    pub(crate) me: ServerId,
    pub(crate) links: Arc<Links>,
    pub(crate) admission: Arc<Admission>,
}

impl Network {
    fn peer(&self, target: u64, purpose: Purpose) -> PeerClient {
        PeerClient {
            me: self.me,
            peer: ServerId(target),
            purpose,
            links: self.links.clone(),
            admission: self.admission.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> PeerClient {
        self.peer(target, Purpose::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> PeerClient {
        self.peer(target, Purpose::Leadership)
    }
}

/// Raft's client for one member.
pub(crate) struct PeerClient {
    me: ServerId,
    peer: ServerId,
    purpose: Purpose,
    links: Arc<Links>,
    admission: Arc<Admission>,
}

/// What a snapshot message carries.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct SnapshotMessage {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) data: SnapshotData,
}

impl PeerClient {
    /// Makes one call. A failure drops the connection, so that the next call may take another LAN.
    async fn call<Q, A, F, R>(
        &self,
        purpose: Purpose,
        limit: Duration,
        message: &Q,
        method: F,
    ) -> Result<A, RpcError>
    where
        Q: Serialize,
        A: DeserializeOwned,
        F: FnOnce(RaftClient<Channel>, Request<Envelope>) -> R,
        R: Future<Output = Result<Response<Reply>, Status>>,
    {
        self.admission
            .check()
            .map_err(|error| unreachable(&error))?;
        let body = Bytes::from(encode(message).map_err(|error| network_error(&error))?);
        let envelope = Envelope {
            from: self.me.0,
            to: self.peer.0,
            body,
        };
        let exchange = async {
            let channel = self
                .links
                .channel(self.peer, purpose)
                .await
                .map_err(|error| unreachable(&error))?;
            let client = RaftClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            method(client, Request::new(envelope))
                .await
                .map_err(|status| {
                    self.links.forget(self.peer, purpose);
                    call_error(&status)
                })
        };
        // A late answer is no reason to drop the connection: a busy member would have to make a new one as well.
        let reply = timeout(limit, exchange)
            .await
            .map_err(|error| unreachable(&error))??;
        decode(&reply.into_inner().body).map_err(|error| network_error(&error))
    }
}

/// The member does not answer: openraft waits a little before it tries again.
fn unreachable(error: &(impl std::error::Error + 'static)) -> RpcError {
    RPCError::Unreachable(Unreachable::new(error))
}

/// The exchange failed, the member may be well: openraft tries again at once.
fn network_error(error: &(impl std::error::Error + 'static)) -> RpcError {
    RPCError::Network(NetworkError::new(error))
}

/// A refusal is no reason to hurry either: it will be refused again.
fn call_error(status: &Status) -> RpcError {
    match status.code() {
        Code::Cancelled | Code::Aborted => network_error(status),
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => unreachable(status),
    }
}

fn streaming_error(error: RpcError) -> StreamingError<TypeConfig> {
    match error {
        RPCError::Timeout(error) => StreamingError::Timeout(error),
        RPCError::Unreachable(error) => StreamingError::Unreachable(error),
        RPCError::Network(error) => StreamingError::Network(error),
        RPCError::RemoteError(RemoteError { source, .. }) => match source {},
    }
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let limit = match self.purpose {
            Purpose::Replication => APPEND_TIMEOUT.max(option.soft_ttl()),
            Purpose::Leadership | Purpose::Proposals => option.hard_ttl(),
        };
        self.call(self.purpose, limit, &rpc, async |mut client, request| {
            client.append_entries(request).await
        })
        .await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let call = async |mut client: RaftClient<Channel>, request| client.vote(request).await;
        self.call(Purpose::Leadership, option.hard_ttl(), &rpc, call)
            .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let call = async |mut client: RaftClient<Channel>, request| client.pre_vote(request).await;
        self.call(Purpose::Leadership, option.hard_ttl(), &rpc, call)
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let message = SnapshotMessage {
            vote,
            meta: snapshot.meta,
            data: snapshot.snapshot,
        };
        let call = async |mut client: RaftClient<Channel>, request| client.snapshot(request).await;
        let sending = self.call(Purpose::Replication, option.hard_ttl(), &message, call);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            outcome = sending => outcome.map_err(streaming_error),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let call =
            async |mut client: RaftClient<Channel>, request| client.transfer_leader(request).await;
        self.call(Purpose::Leadership, option.hard_ttl(), &request, call)
            .await
    }
}
