//! Tickets, which open one WebSocket: browsers cannot send credentials with it.

use sha2::{Digest, Sha256};

use super::api_key::push_random;

const PREFIX: &str = "uwt_";
/// Letters and digits with at least 256 bits.
const SECRET_LENGTH: usize = 43;

/// The SHA-256 of a ticket, the only thing that is stored of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketDigest([u8; 32]);

impl TicketDigest {
    /// Generates a ticket. Its text is stored nowhere.
    ///
    /// # Errors
    ///
    /// The operating system has no random bytes.
    pub fn generate() -> Result<(Self, String), getrandom::Error> {
        let mut text = PREFIX.to_owned();
        push_random(&mut text, SECRET_LENGTH)?;
        Ok((Self(Sha256::digest(&text).into()), text))
    }

    /// Returns the digest of a ticket; `None` if the text is not one.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let secret = text.strip_prefix(PREFIX)?;
        let is_ticket = secret.len() == SECRET_LENGTH && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_ticket.then(|| Self(Sha256::digest(text).into()))
    }

    /// Returns the bytes to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tickets_have_a_digest() {
        let (digest, text) = TicketDigest::generate().unwrap();
        assert_eq!(TicketDigest::of(&text), Some(digest));
        assert_ne!(TicketDigest::generate().unwrap().0, digest);
        for other in ["", "uwt_", &text[1..], &text[..text.len() - 1], &format!("{text}0"), &text.replacen('_', "-", 1)]
        {
            assert_eq!(TicketDigest::of(other), None, "{other}");
        }
    }
}
