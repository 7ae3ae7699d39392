//! The agent of a module, as the rest of the daemon knows it.

use tokio::sync::{mpsc, watch};

use super::{Report, Request};

/// How to talk to an agent.
#[derive(Clone)]
pub struct AgentHandle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) report: watch::Receiver<Report>,
}

impl AgentHandle {
    /// Hands a request to the agent; false when the agent has ended or is too busy.
    pub fn ask(&self, request: Request) -> bool {
        self.requests.try_send(request).is_ok()
    }

    /// Hands a request to the agent, once it has room for it; false when the agent has ended.
    pub async fn ask_when_free(&self, request: Request) -> bool {
        self.requests.send(request).await.is_ok()
    }

    /// Nothing of the agent is left.
    pub fn has_ended(&self) -> bool {
        self.requests.is_closed()
    }

    /// What the agent last said of the module on this server.
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn regression_a_busy_agent_is_told_to_leave_all_the_same() {
        let (requests, mut incoming) = mpsc::channel(1);
        let (_reported, report) = watch::channel(Report::default());
        let agent = AgentHandle { requests, report };
        let leave = || Request::Leave {
            done: oneshot::channel().0,
        };
        assert!(agent.ask(leave()));
        assert!(!agent.ask(leave()), "there is no room for another one");
        let asking = tokio::spawn(async move { agent.ask_when_free(leave()).await });
        for _ in 0..2 {
            assert!(matches!(incoming.recv().await, Some(Request::Leave { .. })));
        }
        assert!(asking.await.unwrap());
    }
}
