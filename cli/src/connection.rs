//! The unix socket of the daemon.

use crate::failure::Failure;
use hyper_util::rt::TokioIo;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::Response;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// How long a call may take beyond what the caller is ready to wait for.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Connects to the daemon.
pub(crate) async fn connect(socket: &Path) -> Result<Channel, Failure> {
    let unreachable = |source: io::Error| Failure::Unreachable {
        socket: socket.to_owned(),
        source,
    };
    // The first connection is made here and not in the connector: its error stays an io::Error that can be explained.
    let first = UnixStream::connect(socket).await.map_err(unreachable)?;
    let mut first = Some(first);
    let path: PathBuf = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let first = first.take();
        let path = path.clone();
        async move {
            let stream = match first {
                Some(stream) => stream,
                None => UnixStream::connect(path).await?,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // The address is a placeholder: the connector knows the way.
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| unreachable(io::Error::other(error)))
}

/// Waits for the answer to one call, `wait_s` seconds longer than usual.
pub(crate) async fn answer<T>(
    wait_s: u64,
    call: impl Future<Output = Result<Response<T>, tonic::Status>>,
) -> Result<T, Failure> {
    let deadline = ANSWER_DEADLINE + Duration::from_secs(wait_s);
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::from_status(status)),
        Err(_) => Err(Failure::Silent { after: deadline }),
    }
}
