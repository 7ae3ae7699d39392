//! Looking at a running cluster through its administration API, from outside, with short deadlines: a daemon may be dead,
//! frozen or cut off, and then the answer is "nothing" and not a hang.

use anyhow::Context as _;
use api::v1;
use api::v1::cluster_client::ClusterClient;
use api::v1::module_client::ModuleClient;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

/// A living daemon answers within this time, even while it waits for a report of another that is dead or frozen.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);
/// Events of a whole run; the cluster keeps fewer.
const EVENTS_MAX: u64 = 10_000;

/// Asks daemons over their control sockets.
#[derive(Debug)]
pub struct Observer {
    runtime: Runtime,
}

impl Observer {
    /// # Errors
    /// No thread can be made.
    pub fn new() -> anyhow::Result<Observer> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Observer { runtime })
    }

    fn ask<T>(&self, answer: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.runtime
            .block_on(async { tokio::time::timeout(ANSWER_TIMEOUT, answer).await })
            .context("no answer from the daemon")?
    }

    /// State of the cluster as the daemon below `root` sees it.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn cluster(&self, root: &Path) -> anyhow::Result<v1::ClusterStateReply> {
        self.ask(async {
            let mut client = ClusterClient::new(channel(root).await?);
            let reply = client.state(v1::ClusterStateRequest {}).await?;
            Ok(reply.into_inner())
        })
    }

    /// State of a module as the daemon below `root` sees it.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn module(&self, root: &Path, module: &str) -> anyhow::Result<v1::ModuleStateReply> {
        self.ask(async {
            let mut client = ModuleClient::new(channel(root).await?);
            let request = v1::ModuleStateRequest {
                module: module.to_owned(),
            };
            Ok(client.state(request).await?.into_inner())
        })
    }

    /// State of every module as the daemon below `root` sees it.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn modules(&self, root: &Path) -> anyhow::Result<Vec<v1::ModuleStateReply>> {
        self.ask(async {
            let mut client = ModuleClient::new(channel(root).await?);
            let reply = client.list(v1::ModuleListRequest {}).await?;
            Ok(reply.into_inner().modules)
        })
    }

    /// All events the daemon below `root` knows, oldest first.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn events(&self, root: &Path) -> anyhow::Result<Vec<v1::EventReply>> {
        self.ask(async {
            let mut client = ClusterClient::new(channel(root).await?);
            let request = v1::EventsRequest {
                module: String::new(),
                newest: EVENTS_MAX,
                follow: false,
            };
            let mut stream = client.events(request).await?.into_inner();
            let mut events = Vec::new();
            while let Some(event) = stream.message().await? {
                events.push(event);
            }
            events.sort_by_key(|event| event.id);
            Ok(events)
        })
    }
}

async fn channel(root: &Path) -> anyhow::Result<Channel> {
    let path = control_socket(root);
    let connector = tower::service_fn(move |_uri: http::Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    // The address is a placeholder: the connector knows where to go.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .context("the daemon does not listen")
}

/// The control socket below a root directory.
pub fn control_socket(root: &Path) -> PathBuf {
    root.join("run/sidekick/control.sock")
}

/// The part of a module's state that belongs to one server.
pub fn of_server<'a>(
    state: &'a v1::ModuleStateReply,
    server: &str,
) -> Option<&'a v1::ServerModuleReply> {
    state.servers.iter().find(|s| s.server == server)
}

/// A module's state in one line.
pub fn summary(state: &v1::ModuleStateReply) -> String {
    let servers: Vec<String> = state
        .servers
        .iter()
        .map(|s| {
            let name = s.state().as_str_name().trim_start_matches("MODULE_STATE_");
            let quality = s.quality().as_str_name().trim_start_matches("QUALITY_");
            format!("{} {name} {quality} ({})", s.server, s.detail)
        })
        .collect();
    format!(
        "epoch {} primary {} in sync [{}]: {}",
        state.epoch,
        if state.primary.is_empty() {
            "none"
        } else {
            &state.primary
        },
        state.in_sync.join(" "),
        servers.join(", ")
    )
}
