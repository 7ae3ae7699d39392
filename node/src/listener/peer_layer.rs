//! Tells every service behind the common port which member calls.

use std::task::{Context, Poll};

use consensus::Peer;
use tower::{Layer, Service};

use super::connection::ConnectionInfo;

/// Puts `consensus::Peer` into the extensions of each request that came over a connection with a
/// certificate of the cluster. A stranger's requests carry none, whatever they claim.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerLayer;

impl<S> Layer<S> for PeerLayer {
    type Service = PeerService<S>;

    fn layer(&self, inner: S) -> PeerService<S> {
        PeerService { inner }
    }
}

/// A service behind [`PeerLayer`].
#[derive(Clone, Debug)]
pub struct PeerService<S> {
    inner: S,
}

impl<S, B> Service<http::Request<B>> for PeerService<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        let info = request.extensions().get::<ConnectionInfo>();
        if let Some(peer) = info.and_then(|info| info.peer) {
            request.extensions_mut().insert(Peer(peer.server));
        }
        self.inner.call(request)
    }
}
