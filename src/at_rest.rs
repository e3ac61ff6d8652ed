//! Encryption of what we keep: the tickets, auth codes and permanent codes of agency-developed apps stand in
//! the store, and in its backups, as AES-256-GCM ciphertexts.
//!
//! The key is derived from the suite's secret (HKDF-SHA256, RFC 5869), so there is no other key to keep. What
//! was sealed with `previous_suite_secret` can still be opened, and is then to be sealed again. A sealed
//! secret is bound to its purpose, suite and record: copied to another record, it does not open.
//!
//! Deliberately absent: the stored form (see [`Sealed`]), the store, and decryption of what WeCom sends (see
//! [`crate::callback`]).

use std::fmt;
use std::sync::Arc;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use hkdf::Hkdf;
use secrecy::zeroize::{Zeroize as _, Zeroizing};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use crate::domain::ids::SuiteId;
use crate::domain::sealed::Sealed;

/// The HKDF salt. Names the scheme: another scheme takes another.
const SALT: &[u8] = b"unionlink at rest 1";

const TAG_BYTES: usize = 16;

/// The source of nonces. Random, but for simulations, which repeat.
pub type Nonces = Arc<dyn Fn() -> [u8; 12] + Send + Sync>;

/// What a sealed secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A `suite_ticket`.
    Ticket,
    /// An auth code.
    AuthCode,
    /// A permanent code.
    PermanentCode,
}

impl Purpose {
    /// Its name in the associated data, which is part of the stored format.
    const fn label(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::AuthCode => "auth code",
            Self::PermanentCode => "permanent code",
        }
    }
}

/// A secret cannot be opened: it was sealed with neither the suite's secret nor the previous one, or for
/// another purpose or record, or it is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed with another suite secret, or damaged")]
pub struct Unopened;

/// Seals and opens the secrets of one suite. Its keys are wiped from memory when dropped.
pub struct Sealer {
    suite_id: SuiteId,
    current: Key,
    previous: Option<Key>,
}

struct Key {
    id: [u8; 8],
    cipher: Box<Aes256Gcm>,
}

impl Sealer {
    /// The sealer of a suite with this secret, which can also open what was sealed with `previous`.
    #[must_use]
    pub fn new(suite_id: &SuiteId, secret: &SecretString, previous: Option<&SecretString>) -> Self {
        let key = |secret: &SecretString| Key::derived(secret.expose_secret().as_bytes(), suite_id);
        Self { suite_id: suite_id.clone(), current: key(secret), previous: previous.map(key) }
    }

    /// Encrypts `plain`. `owner` identifies the record it belongs to, and is empty where the suite has one
    /// such record only. A nonce must never be used twice.
    #[must_use]
    pub fn seal(&self, purpose: Purpose, owner: &str, plain: &SecretString, nonce: [u8; 12]) -> Sealed {
        let plain = plain.expose_secret().as_bytes();
        // Encrypted in place: with room for the tag, no copy of the secret is left behind.
        let mut text = Vec::with_capacity(plain.len() + TAG_BYTES);
        text.extend_from_slice(plain);
        self.current.encrypt(&nonce, &self.associated_data(purpose, owner), &mut text);
        Sealed { key: self.current.id, nonce, text }
    }

    /// Decrypts what [`seal`](Self::seal) made with the same purpose and owner.
    ///
    /// # Errors
    /// [`Unopened`] when it was sealed with neither secret or for something else, or is damaged.
    pub fn open(&self, purpose: Purpose, owner: &str, sealed: &Sealed) -> Result<SecretString, Unopened> {
        let mut keys = std::iter::once(&self.current).chain(&self.previous);
        let key = keys.find(|key| key.id == sealed.key).ok_or(Unopened)?;
        let mut text = Zeroizing::new(sealed.text.clone());
        key.cipher
            .decrypt_in_place(&sealed.nonce.into(), &self.associated_data(purpose, owner), &mut *text)
            .map_err(|_| Unopened)?;
        str::from_utf8(&text).map(SecretString::from).map_err(|_| Unopened)
    }

    /// Whether it was sealed with the suite's present secret. If not, it is to be sealed again.
    #[must_use]
    pub fn is_current(&self, sealed: &Sealed) -> bool {
        sealed.key == self.current.id
    }

    /// What the ciphertext is bound to. Unambiguous: neither a label nor a suite id contains NUL.
    fn associated_data(&self, purpose: Purpose, owner: &str) -> Vec<u8> {
        [purpose.label(), self.suite_id.as_str(), owner].join("\0").into_bytes()
    }
}

impl Key {
    fn derived(secret: &[u8], suite_id: &SuiteId) -> Self {
        let (mut prk, hkdf) = Hkdf::<Sha256>::extract(Some(SALT), secret);
        prk.as_mut_slice().zeroize();
        let key = Zeroizing::new(expanded::<32>(&hkdf, "key", suite_id));
        Self { id: expanded(&hkdf, "id", suite_id), cipher: Box::new(Aes256Gcm::new((&*key).into())) }
    }

    #[expect(clippy::expect_used, reason = "fails only for texts beyond 64 GiB")]
    fn encrypt(&self, nonce: &[u8; 12], associated_data: &[u8], text: &mut Vec<u8>) {
        self.cipher.encrypt_in_place(nonce.into(), associated_data, text).expect("a short text");
    }
}

/// HKDF-Expand for one use of the suite's secret.
#[expect(clippy::expect_used, reason = "fails only for outputs beyond 8160 bytes")]
fn expanded<const N: usize>(hkdf: &Hkdf<Sha256>, label: &str, suite_id: &SuiteId) -> [u8; N] {
    let mut out = [0; N];
    let info = [label.as_bytes(), b"\0", suite_id.as_str().as_bytes()];
    hkdf.expand_multi_info(&info, &mut out).expect("a short output");
    out
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("suite_id", &self.suite_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::hex;
    use proptest::prelude::*;

    const PURPOSES: [Purpose; 3] = [Purpose::Ticket, Purpose::AuthCode, Purpose::PermanentCode];

    fn of_suite(suite_id: &str, secret: &str, previous: Option<&str>) -> Sealer {
        let previous = previous.map(SecretString::from);
        Sealer::new(&SuiteId::new(suite_id).unwrap(), &secret.into(), previous.as_ref())
    }

    fn opened(by: &Sealer, purpose: Purpose, owner: &str, sealed: &Sealed) -> Result<String, Unopened> {
        by.open(purpose, owner, sealed).map(|plain| plain.expose_secret().to_owned())
    }

    #[test]
    fn hkdf_is_that_of_rfc_5869() {
        // Appendix A.1.
        let salt: Vec<_> = (0x00..=0x0c).collect();
        let info: Vec<_> = (0xf0..=0xf9).collect();
        let mut okm = [0; 42];
        Hkdf::<Sha256>::new(Some(&salt), &[0x0b; 22]).expand(&info, &mut okm).unwrap();
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(hex(&okm), expected);
    }

    #[test]
    fn the_stored_form_is_fixed() {
        // Computed with Python's cryptography 48.
        let right = of_suite("dkINVENTED", "suite-secret", None);
        let sealed = right.seal(Purpose::PermanentCode, "wpA", &"permanent".into(), [7; 12]);
        assert_eq!(hex(&sealed.key), "17d50577f294fca6");
        assert_eq!(hex(&sealed.text), "3d8b3583e90379661922804bbea94772d710988dabc2cabb84");
    }

    #[test]
    fn what_the_previous_secret_sealed_is_opened_until_that_is_removed() {
        let old = of_suite("dk1", "old", None);
        let sealed = old.seal(Purpose::AuthCode, "id", &"code".into(), [1; 12]);
        let both = of_suite("dk1", "new", Some("old"));
        assert_eq!(opened(&both, Purpose::AuthCode, "id", &sealed).unwrap(), "code");
        assert!(old.is_current(&sealed) && !both.is_current(&sealed));
        let again = both.seal(Purpose::AuthCode, "id", &"code".into(), [2; 12]);
        let new = of_suite("dk1", "new", None);
        assert!(new.is_current(&again));
        assert_eq!(opened(&new, Purpose::AuthCode, "id", &again).unwrap(), "code");
        assert_eq!(opened(&new, Purpose::AuthCode, "id", &sealed), Err(Unopened));
    }

    #[test]
    fn no_secret_is_printed() {
        let right = of_suite("dk1", "CANARY-secret", Some("CANARY-previous"));
        let sealed = right.seal(Purpose::Ticket, "", &"CANARY-ticket".into(), [1; 12]);
        let plain = right.open(Purpose::Ticket, "", &sealed).unwrap();
        let printed = format!("{right:?} {sealed:?} {plain:?} {Unopened}");
        assert!(!printed.contains("CANARY") && printed.contains("dk1"), "{printed}");
        let plain = b"CANARY-ticket";
        assert!(!sealed.text.windows(plain.len()).any(|window| window == plain));
    }

    proptest! {
        #[test]
        fn only_the_same_purpose_owner_suite_and_secret_open_a_secret(
            plain in ".{0,600}", owner in "[a-z]{0,9}", purpose in 0_usize..3, nonce in any::<[u8; 12]>(),
        ) {
            let (right, purpose) = (of_suite("dk1", "secret", None), PURPOSES[purpose]);
            let sealed = right.seal(purpose, &owner, &plain.as_str().into(), nonce);
            prop_assert_eq!(sealed.nonce, nonce);
            prop_assert_eq!(opened(&right, purpose, &owner, &sealed), Ok(plain));
            let other_owner = format!("{owner}x");
            prop_assert_eq!(opened(&right, purpose, &other_owner, &sealed), Err(Unopened));
            for other in PURPOSES.into_iter().filter(|other| *other != purpose) {
                prop_assert_eq!(opened(&right, other, &owner, &sealed), Err(Unopened));
            }
            for mut wrong in [of_suite("dk2", "secret", None), of_suite("dk1", "secres", Some("secreu"))] {
                prop_assert_eq!(opened(&wrong, purpose, &owner, &sealed), Err(Unopened));
                // Not only because the key has another id.
                wrong.current.id = sealed.key;
                prop_assert_eq!(opened(&wrong, purpose, &owner, &sealed), Err(Unopened));
            }
        }

        #[test]
        fn with_any_bit_flipped_it_does_not_open(plain in ".{0,40}", place in any::<prop::sample::Index>()) {
            let right = of_suite("dk1", "secret", Some("previous"));
            let sealed = right.seal(Purpose::AuthCode, "id", &plain.as_str().into(), [9; 12]);
            let mut bytes = [&sealed.key[..], &sealed.nonce, &sealed.text].concat();
            let bit = place.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (key, rest) = bytes.split_first_chunk().unwrap();
            let (nonce, text) = rest.split_first_chunk().unwrap();
            let flipped = Sealed { key: *key, nonce: *nonce, text: text.to_vec() };
            prop_assert_eq!(opened(&right, Purpose::AuthCode, "id", &flipped), Err(Unopened));
        }

        #[test]
        fn a_text_of_any_length_is_refused_without_a_panic(text in any::<Vec<u8>>()) {
            let right = of_suite("dk1", "secret", None);
            let sealed = Sealed { key: right.current.id, nonce: [0; 12], text };
            prop_assert_eq!(opened(&right, Purpose::Ticket, "", &sealed), Err(Unopened));
        }
    }
}
