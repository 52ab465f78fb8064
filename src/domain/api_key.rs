//! API keys: `uak_<id>_<secret><checksum>`.
//!
//! The prefix and the checksum let scanners for leaked secrets recognise a key, and let a mistyped one be refused
//! without a look-up. Only the SHA-256 of a key is stored: its secret has 256 random bits, so that a slow password hash
//! would add nothing.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::KeyId;

const PREFIX: &str = "uak_";
/// Letters and digits with at least 256 bits.
const SECRET_LENGTH: usize = 43;
/// Letters and digits of a CRC-32.
const CHECKSUM_LENGTH: usize = 6;
const LENGTH: usize = PREFIX.len() + KeyId::LENGTH + 1 + SECRET_LENGTH + CHECKSUM_LENGTH;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The SHA-256 of a key's id and secret, the only thing that is stored of its secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Returns the digest with these bytes, as they are stored.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in a time that does not depend on the digests.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A well-formed key. Its text is not kept.
#[derive(Clone, Copy)]
pub struct ApiKey {
    /// The id by which it is found.
    pub id: KeyId,
    /// The digest that proves it.
    pub digest: KeyDigest,
}

impl ApiKey {
    /// Generates a key. The text is shown once and stored nowhere.
    ///
    /// # Errors
    ///
    /// The operating system has no random bytes.
    pub fn generate() -> Result<(Self, String), getrandom::Error> {
        let mut text = PREFIX.to_owned();
        push_random(&mut text, KeyId::LENGTH)?;
        text.push('_');
        push_random(&mut text, SECRET_LENGTH)?;
        let checksum = checksum(text.as_bytes());
        text.extend(checksum.map(char::from));
        match Self::parse(text.as_bytes()) {
            Some(key) => Ok((key, text)),
            None => Err(getrandom::Error::UNEXPECTED),
        }
    }

    /// Parses a key; `None` if the text is not one.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = text.try_into().ok()?;
        let (body, found) = bytes.split_at(LENGTH - CHECKSUM_LENGTH);
        let rest = body.strip_prefix(PREFIX.as_bytes())?;
        let (id, secret) = rest.split_first_chunk::<{ KeyId::LENGTH }>()?;
        let secret = secret.strip_prefix(b"_")?;
        if !secret.iter().all(u8::is_ascii_alphanumeric) || found != checksum(body) {
            return None;
        }
        // 55 bytes, which is one block: prefix and checksum would add a second one, and no information.
        let digest = Sha256::new().chain_update(id).chain_update(secret).finalize();
        Some(Self { id: KeyId::from_bytes(*id)?, digest: KeyDigest(digest.into()) })
    }
}

/// Appends random letters and digits.
pub(super) fn push_random(text: &mut String, count: usize) -> Result<(), getrandom::Error> {
    // The largest multiple of 62: bytes from here on would favour the first letters.
    const LIMIT: u8 = 248;
    let end = text.len() + count;
    while text.len() < end {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes)?;
        let letters =
            bytes.iter().filter(|byte| **byte < LIMIT).map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        text.extend(letters.take(end - text.len()));
    }
    Ok(())
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut rest = crc32fast::hash(body) as usize;
    let mut digits = [0; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[rest % 62];
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_generated_key_is_parsed() {
        let (key, text) = ApiKey::generate().unwrap();
        let parsed = ApiKey::parse(text.as_bytes()).unwrap();
        assert_eq!(text.len(), 66);
        assert_eq!(&text[4..16], key.id.as_str());
        assert!(parsed.id == key.id && parsed.digest.matches(&key.digest));
        let (other, _) = ApiKey::generate().unwrap();
        assert!(other.id != key.id && !other.digest.matches(&key.digest));
    }

    #[test]
    fn every_letter_is_as_likely_as_another() {
        let mut text = String::new();
        push_random(&mut text, 62_000).unwrap();
        for letter in ALPHABET {
            let count = text.bytes().filter(|byte| byte == letter).count();
            // Twelve standard deviations around 1000.
            assert!((620..1380).contains(&count), "{}: {count}", char::from(*letter));
        }
    }

    proptest! {
        #[test]
        fn a_changed_key_is_not_one(position in 0..66_usize, letter in "[0-9A-Za-z_]") {
            let (_, text) = ApiKey::generate().unwrap();
            let mut changed = text.clone();
            changed.replace_range(position..=position, &letter);
            prop_assert_eq!(ApiKey::parse(changed.as_bytes()).is_some(), changed == text);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            prop_assert!(ApiKey::parse(text.as_bytes()).is_none());
        }
    }
}
