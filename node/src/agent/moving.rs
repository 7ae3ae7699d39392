//! One LAN less is no reason to lose the secondary: the session goes on over whichever LAN answers.

use std::sync::Arc;

use consensus::state::{ModuleName, ServerId};
use fs_mirror::{Hello, Primary, Start};
use tokio::sync::watch;

use super::partnership::greeting;
use crate::member::Member;

/// Moves the sessions of one tenure. A task of its own: the partnership may be waiting for the log when a LAN is lost, and the
/// session ends after a second of silence.
pub(super) struct Moving {
    pub(super) member: Arc<Member>,
    pub(super) module: ModuleName,
    pub(super) primary: Arc<Primary>,
}

impl Moving {
    /// Works until the tenure ends. `quiet`: the session on whose link nothing is heard, told again as long as that lasts.
    pub(super) async fn run(self, mut quiet: watch::Receiver<Option<u64>>) {
        while quiet.changed().await.is_ok() {
            let session = *quiet.borrow_and_update();
            if let Some(hello) = session.and_then(|session| self.hello(session)) {
                self.move_on(hello).await;
            }
        }
    }

    /// As long as this server is the primary.
    fn hello(&self, session: u64) -> Option<Hello> {
        let me = self.member.id();
        let state = self.member.consensus.state();
        let record = state.modules.get(&self.module)?;
        let peer = record.peer_of(me).filter(|_| record.primary == Some(me))?;
        // How many bytes have arrived is known when the link in use is given up.
        let start = Start::Resume { received: 0 };
        Some(greeting(me, record, peer, session, start))
    }

    async fn move_on(&self, hello: Hello) {
        let (module, peer) = (&self.module, hello.to);
        let link = match self.member.dial_mirror(ServerId(peer)).await {
            Ok(link) => link,
            Err(error) => {
                tracing::debug!(%module, %error, "no LAN to server {peer} answers");
                return;
            }
        };
        // From here on the link in use is given up: it may be heard again by now, or the session may be over.
        if !self.primary.is_quiet(hello.session) {
            return;
        }
        let primary = Arc::clone(&self.primary);
        match tokio::task::spawn_blocking(move || primary.resume(link, hello)).await {
            Ok(Ok(())) => tracing::info!(%module, "the stream goes on over another connection"),
            Ok(Err(error)) => {
                tracing::info!(%module, %error, "the stream does not go on over another connection");
            }
            Err(error) => tracing::error!(%module, %error, "moving the stream panicked"),
        }
    }
}
