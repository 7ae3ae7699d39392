//! The certificate of this member is renewed by itself, long before it runs out.
//!
//! A server holds the authority's key and signs its own next certificate: it needs nobody, even when it was switched off until
//! the last one ran out. A witness asks a server. The key stays the same, so that one file changes and nothing can be torn.
//! Existing connections go on; new ones show the new certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::peer::v1::RenewRequest;
use api::peer::v1::peer_client::PeerClient;
use consensus::state::{Command, MemberKind, ServerId};

use crate::listener::DialError;
use crate::member::Member;
use crate::security::{Known, Security, SecurityError, Validity};

/// The clock may be set, or the machine may sleep: it is looked at at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Least pause between two attempts.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// How long the cluster is asked to take note of a new certificate.
const NOTE_DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// It could not be made, or is not good for this member.
    #[error("make a new certificate")]
    Security(#[from] SecurityError),
    /// No server signed.
    #[error("no server could be asked to sign a new certificate")]
    NobodySigns,
    /// A server could not be reached.
    #[error("ask {server} for a new certificate")]
    Unreachable {
        /// Who.
        server: String,
        /// Why.
        #[source]
        source: DialError,
    },
    /// A server refused.
    #[error("{server} does not sign: {text}")]
    Refused {
        /// Who.
        server: String,
        /// What it said.
        text: String,
    },
}

/// Renews the certificate whenever it is time, until the member is gone.
pub async fn keep_renewed(member: Arc<Member>, security: Arc<Security>) {
    let mut applied = member.consensus.watch();
    loop {
        let now = SystemTime::now();
        if security.validity().is_due(now)
            && let Err(error) = renew(&member, &security, "it was time").await
        {
            warn(&security, &error, now);
        }
        let pause = pause(security.validity(), SystemTime::now());
        let stopped = applied.wait_for(|_| false);
        if tokio::time::timeout(pause, stopped).await.is_ok() {
            return;
        }
    }
}

/// How long the certificate may be left alone. Never less than a moment: a clock that is wrong must not make it busy.
fn pause(validity: Validity, now: SystemTime) -> Duration {
    if validity.is_due(now) {
        return RETRY_AFTER;
    }
    let left = validity.renew_at().duration_since(now).unwrap_or_default();
    left.clamp(RETRY_AFTER, LOOK_EVERY)
}

fn warn(security: &Security, error: &RenewalError, now: SystemTime) {
    let text = error.to_string();
    match security.validity().over_for(now) {
        None => tracing::warn!(
            error = text,
            "the certificate of this member is not renewed yet"
        ),
        Some(_) => tracing::error!(
            error = text,
            "the certificate of this member has run out and was not renewed: the others refuse it; type `skcli cluster leave --alone` here and let it join again"
        ),
    }
}

/// A server signs for itself, before it asks anybody anything: the others refuse a certificate that has run out.
pub(crate) fn renew_alone(security: &Security, server: ServerId, now: SystemTime) {
    if !security.can_sign() || !security.validity().is_due(now) {
        return;
    }
    let renewed = security.renewal_request().and_then(|request| {
        let request = security.check_request(&request)?;
        let signed = security.sign(&request, server.0, MemberKind::Server)?;
        security.renew(&signed.pem)
    });
    match renewed {
        Ok(()) => {
            tracing::info!(until = ?security.validity().until, "this member has a new certificate: it was time")
        }
        Err(error) => warn(security, &error.into(), now),
    }
}

/// Makes, shows and notes a new certificate.
///
/// # Errors
/// The former one is still shown.
pub async fn renew(member: &Member, security: &Security, why: &str) -> Result<(), RenewalError> {
    let request = security.renewal_request()?;
    let pem = if security.can_sign() {
        let request = security.check_request(&request)?;
        security
            .sign(&request, member.id().0, MemberKind::Server)?
            .pem
    } else {
        ask_a_server(member, &request).await?
    };
    security.renew(&pem)?;
    tracing::info!(until = ?security.validity().until, "this member has a new certificate: {why}");
    note(member, security, why).await;
    Ok(())
}

/// Tells the cluster; whoever is not told finds out by the certificate itself.
async fn note(member: &Member, security: &Security, why: &str) {
    let command = Command::SetCertificate {
        server: member.id(),
        certificate: security.fingerprint(),
    };
    let proposal = member.proposal(command, why);
    if let Err(error) = member.consensus.propose(proposal, NOTE_DEADLINE).await {
        tracing::info!(%error, "the cluster has not taken note of the new certificate");
    }
}

async fn ask_a_server(member: &Member, request: &str) -> Result<String, RenewalError> {
    let mut failure = RenewalError::NobodySigns;
    for server in servers_known(member) {
        match ask(member, &server, request).await {
            Ok(pem) => return Ok(pem),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Who may sign: the servers of the cluster, or, before anything is applied here, whoever was known from the start.
fn servers_known(member: &Member) -> Vec<Known> {
    let state = member.state();
    if state.members.is_empty() {
        return member.identity.known.clone();
    }
    let servers = state
        .members
        .values()
        .filter(|other| other.kind == MemberKind::Server);
    servers
        .map(|server| Known {
            id: server.id.0,
            addresses: server.addresses.clone(),
        })
        .collect()
}

async fn ask(member: &Member, server: &Known, request: &str) -> Result<String, RenewalError> {
    let id = ServerId(server.id);
    let name = member.name_of(id);
    let channel = match member.dialer.channel(id, &server.addresses).await {
        Ok(channel) => channel,
        Err(source) => {
            return Err(RenewalError::Unreachable {
                server: name,
                source,
            });
        }
    };
    let request = RenewRequest {
        certificate_request_pem: request.to_owned(),
    };
    match PeerClient::new(channel).renew(request).await {
        Ok(reply) => Ok(reply.into_inner().certificate_pem),
        Err(status) => Err(RenewalError::Refused {
            server: name,
            text: status.message().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn regression_a_wrong_clock_renews_and_is_never_busy() {
        let from = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let validity = Validity {
            from,
            until: from + 90 * DAY,
        };
        let table = [
            (from - 400 * DAY, true, RETRY_AFTER),
            (from, false, LOOK_EVERY),
            (from + 60 * DAY - RETRY_AFTER * 2, false, RETRY_AFTER * 2),
            (from + 60 * DAY - RETRY_AFTER / 2, false, RETRY_AFTER),
            (from + 60 * DAY, true, RETRY_AFTER),
            (from + 400 * DAY, true, RETRY_AFTER),
        ];
        for (now, is_due, expected) in table {
            assert_eq!(validity.is_due(now), is_due, "{now:?}");
            assert_eq!(pause(validity, now), expected, "{now:?}");
        }
    }
}
