//! Join tokens: what an operator carries from a member to a new server.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{SecurityError, random, sha256};

const PREFIX: &str = "sk1-";
/// 128 bits of the fingerprint: nobody finds another certificate with the same.
const FINGERPRINT_BYTES: usize = 16;
const SECRET_BYTES: usize = 16;
const BYTES: usize = FINGERPRINT_BYTES + SECRET_BYTES;

/// A one-time token: by its fingerprint the joiner knows the cluster, by its secret the cluster
/// knows the joiner.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    fingerprint: [u8; FINGERPRINT_BYTES],
    secret: [u8; SECRET_BYTES],
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as a token does.
    #[error("this is no join token: it does not begin with {PREFIX}")]
    Prefix,
    /// It is shorter or longer than a token.
    #[error("this is no whole join token: {actual} characters follow {PREFIX}, not {expected}")]
    Length {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        actual: usize,
    },
    /// It has characters that no token has.
    #[error("this is no join token: it contains characters no token has")]
    Encoding,
}

impl JoinToken {
    /// A fresh token of the cluster whose authority has this fingerprint.
    ///
    /// # Errors
    /// `NoRandomness`.
    pub fn generate(ca_fingerprint: [u8; 32]) -> Result<JoinToken, SecurityError> {
        let mut fingerprint = [0; FINGERPRINT_BYTES];
        fingerprint.copy_from_slice(&ca_fingerprint[..FINGERPRINT_BYTES]);
        let secret = random()?;
        Ok(JoinToken {
            fingerprint,
            secret,
        })
    }

    /// SHA-256 of the secret: what the cluster keeps instead of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.secret)
    }

    /// Whether this is the certificate (DER) of the authority the token speaks of.
    pub(super) fn names_authority(&self, certificate: &[u8]) -> bool {
        sha256(certificate)[..FINGERPRINT_BYTES] == self.fingerprint
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.fingerprint, self.secret].concat();
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// The secret stays out of logs.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({PREFIX}...)")
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let expected = (BYTES * 8).div_ceil(6);
        let actual = encoded.chars().count();
        if actual != expected {
            return Err(TokenError::Length { expected, actual });
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_| TokenError::Encoding)?;
        let bytes: [u8; BYTES] = bytes.try_into().map_err(|_| TokenError::Encoding)?;
        let mut token = JoinToken {
            fingerprint: [0; FINGERPRINT_BYTES],
            secret: [0; SECRET_BYTES],
        };
        token
            .fingerprint
            .copy_from_slice(&bytes[..FINGERPRINT_BYTES]);
        token.secret.copy_from_slice(&bytes[FINGERPRINT_BYTES..]);
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_paper() {
        let token = JoinToken::generate([7; 32]).unwrap();
        let text = format!("  {token}\n");
        let read: JoinToken = text.parse().unwrap();
        assert_eq!(read, token);
        assert_eq!(read.hash(), token.hash());
        assert_ne!(JoinToken::generate([7; 32]).unwrap(), token);
        assert!(!format!("{token:?}").contains(&token.to_string()));
    }

    #[test]
    fn what_is_no_token_says_why() {
        let whole = JoinToken::generate([7; 32]).unwrap().to_string();
        let parsed = |text: &str| text.parse::<JoinToken>().unwrap_err();
        assert_eq!(parsed(""), TokenError::Prefix);
        assert_eq!(parsed("hello"), TokenError::Prefix);
        assert_eq!(parsed(&whole[1..]), TokenError::Prefix);
        let length = |actual| TokenError::Length {
            expected: 43,
            actual,
        };
        assert_eq!(parsed(&whole[..whole.len() - 1]), length(42));
        assert_eq!(parsed(&format!("{whole}a")), length(44));
        assert_eq!(parsed("sk1-"), length(0));
        let strange = format!("sk1-{}", "!".repeat(43));
        assert_eq!(parsed(&strange), TokenError::Encoding);
        let wide = format!("sk1-{}", "é".repeat(43));
        assert_eq!(parsed(&wide), TokenError::Encoding);
    }
}
