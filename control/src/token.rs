//! Join tokens: what a sidecar outside Kubernetes shows to obtain its first certificate.
//!
//! A JWT (ES256) of the control server's own key, bound to an identity and an audience, expiring, if wanted for one use only, and
//! revocable. Refuses everything else, and says what was claimed by what it refuses, marked as unverified. Nothing secret is compared
//! here: what decides is a signature.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use malla_xds::SpiffeId;
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};

use crate::state::{StateDirectory, StateError};
use crate::token_book::{TokenBook, TokenRecord};

/// Key file in the state directory: a P-256 private key, PKCS #8 PEM.
pub const TOKEN_KEY: &str = "token.key";

/// Issuer and audience of join tokens.
const MALLA: &str = "malla";
/// How far clocks may differ between the replicas that make and check tokens.
const LEEWAY: Duration = Duration::from_secs(5);
/// Longest token that is looked at, in bytes.
const TOKEN_LIMIT: usize = 8192;

/// What a join token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinClaims {
    /// Issuer: `malla`.
    pub iss: String,
    /// Audience: `malla`.
    pub aud: String,
    /// The identity: a SPIFFE ID.
    pub sub: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Expiry, seconds since 1970.
    pub exp: u64,
    /// Time of issue, seconds since 1970.
    pub iat: u64,
    /// Unique id, for logs and for revoking it.
    pub jti: String,
    /// Whether it is used up by the first certificate that is asked for with it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub once: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl JoinClaims {
    /// Claims of a token for an identity, from now until `lifetime` has passed.
    pub fn new(identity: &SpiffeId, lifetime: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        JoinClaims {
            iss: MALLA.to_owned(),
            aud: MALLA.to_owned(),
            sub: identity.to_string(),
            namespace: identity.namespace().to_owned(),
            service_account: identity.service_account().to_owned(),
            exp: now.saturating_add(lifetime.as_secs()),
            iat: now,
            jti: format!("{:032x}", fastrand::u128(..)),
            once: false,
        }
    }
}

/// What a valid token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Who its bearer is.
    pub identity: SpiffeId,
    /// The token's unique id, for logs.
    pub token: String,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
    /// Whether it can be used once.
    pub once: bool,
}

/// Makes and checks join tokens.
pub struct TokenAuthority {
    signing: EncodingKey,
    verifying: DecodingKey,
    book: TokenBook,
}

/// Why there is no token authority.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// The state directory's fault.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key file holds something else.
    #[error(
        "{path} does not hold a P-256 private key in PEM: restore it, or delete it to make a new one (tokens made with the old one end)"
    )]
    Key {
        /// The file.
        path: String,
        /// What was wrong.
        #[source]
        cause: jsonwebtoken::errors::Error,
    },
    /// No key could be generated.
    #[error("cannot generate a key for join tokens")]
    Generate(#[source] rcgen::Error),
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token at all.
    #[error("it is not a join token")]
    Malformed,
    /// Not signed by this server's key.
    #[error("its signature is not by this control server's key")]
    Forged,
    /// Too old.
    #[error("it has expired: make a new one with `malla token create`")]
    Expired,
    /// Meant for somebody else.
    #[error("it is meant for another audience or issuer than malla")]
    WrongAudience,
    /// What it says contradicts itself, or names no identity of a mesh.
    #[error("its claims do not name an identity of a mesh")]
    InvalidIdentity,
    /// Somebody has revoked it.
    #[error("it was revoked")]
    Revoked,
    /// It was for one use, and was used.
    #[error("it was for one use and has been used: make a new one with `malla token create`")]
    Used,
    /// What became of tokens cannot be read or written, and nothing is believed unread.
    #[error("whether it was used or revoked cannot be found out")]
    Unknown,
}

impl TokenError {
    /// One word for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            TokenError::Malformed => "malformed",
            TokenError::Forged => "forged",
            TokenError::Expired => "expired",
            TokenError::WrongAudience => "wrong_audience",
            TokenError::InvalidIdentity => "invalid_identity",
            TokenError::Revoked => "revoked",
            TokenError::Used => "used",
            TokenError::Unknown => "internal",
        }
    }
}

impl TokenAuthority {
    /// The authority whose key is in a state directory; makes the key if there is none.
    ///
    /// # Errors
    /// The key cannot be read, is not one, or cannot be written.
    pub fn open(state: &StateDirectory) -> Result<Self, TokenKeyError> {
        let text = match state.read(TOKEN_KEY)? {
            Some(text) => text,
            None => {
                let _lock = state.lock()?;
                match state.read(TOKEN_KEY)? {
                    Some(text) => text,
                    None => {
                        let key =
                            KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(TokenKeyError::Generate)?;
                        let text = key.serialize_pem();
                        state.write(TOKEN_KEY, &text)?;
                        text
                    }
                }
            }
        };
        let path = || state.file(TOKEN_KEY).display().to_string();
        let invalid = |cause: jsonwebtoken::errors::Error| TokenKeyError::Key { path: path(), cause };
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(&text, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| invalid(ErrorKind::InvalidKeyFormat.into()))?;
        let signing = EncodingKey::from_ec_pem(text.as_bytes()).map_err(invalid)?;
        let verifying = DecodingKey::from_ec_pem(key.public_key_pem().as_bytes()).map_err(invalid)?;
        Ok(TokenAuthority { signing, verifying, book: TokenBook::open(state) })
    }

    /// Signs claims.
    ///
    /// # Errors
    /// The cryptographic library's, which a key that was accepted does not cause.
    pub fn create(&self, claims: &JoinClaims) -> Result<String, jsonwebtoken::errors::Error> {
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &self.signing)
    }

    /// The identity that a token proves.
    ///
    /// # Errors
    /// It proves none.
    pub fn verify(&self, token: &str) -> Result<Proven, TokenError> {
        if token.len() > TOKEN_LIMIT {
            return Err(TokenError::Malformed);
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[MALLA]);
        validation.set_audience(&[MALLA]);
        validation.leeway = LEEWAY.as_secs();
        let claims: JoinClaims = match jsonwebtoken::decode(token, &self.verifying, &validation) {
            Ok(token) => token.claims,
            Err(error) => {
                return Err(match error.kind() {
                    ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::Forged,
                    ErrorKind::ExpiredSignature => TokenError::Expired,
                    ErrorKind::InvalidAudience | ErrorKind::InvalidIssuer => TokenError::WrongAudience,
                    _ => TokenError::Malformed,
                });
            }
        };
        let identity = SpiffeId::parse(&claims.sub).map_err(|_| TokenError::InvalidIdentity)?;
        if (identity.namespace(), identity.service_account()) != (&*claims.namespace, &*claims.service_account) {
            return Err(TokenError::InvalidIdentity);
        }
        match self.record(&claims.jti)? {
            Some(record) if record.revoked => Err(TokenError::Revoked),
            Some(record) if record.used => Err(TokenError::Used),
            _ => Ok(Proven { identity, token: claims.jti, expires: claims.exp, once: claims.once }),
        }
    }

    /// Uses a token up if it is for one use. Of two who show it at the same time, one may.
    ///
    /// # Errors
    /// It has been used.
    pub fn use_up(&self, proven: &Proven) -> Result<(), TokenError> {
        if !proven.once {
            return Ok(());
        }
        match self.book.use_up(&proven.token, proven.expires) {
            Ok(true) => Ok(()),
            Ok(false) => Err(TokenError::Used),
            Err(error) => Err(unknown(&error)),
        }
    }

    /// What became of tokens.
    pub fn book(&self) -> &TokenBook {
        &self.book
    }

    fn record(&self, id: &str) -> Result<Option<TokenRecord>, TokenError> {
        self.book.find(id).map_err(|error| unknown(&error))
    }
}

fn unknown(error: &StateError) -> TokenError {
    tracing::error!(error = error as &dyn std::error::Error, "what became of join tokens is not known, none is taken");
    TokenError::Unknown
}

/// What a refused token claims to be, unverified: for the log only. Shortened, and without control characters.
pub fn claimed_identity(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Subject {
        sub: String,
    }
    if token.len() > TOKEN_LIMIT {
        return None;
    }
    let subject: Subject = jsonwebtoken::dangerous::insecure_decode(token).ok()?.claims;
    Some(subject.sub.chars().filter(|c| !c.is_control()).take(256).collect())
}

impl fmt::Debug for TokenAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenAuthority")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> SpiffeId {
        SpiffeId::new("cluster.local", "shop", "cart").expect("valid")
    }

    fn authority() -> (tempfile::TempDir, TokenAuthority) {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(directory.path().join("state")).expect("opens");
        let authority = TokenAuthority::open(&state).expect("a key");
        (directory, authority)
    }

    #[test]
    fn a_token_proves_its_identity_also_after_a_restart() {
        let (directory, authority) = authority();
        let token = authority.create(&JoinClaims::new(&identity(), Duration::from_secs(60))).expect("signs");
        let state = StateDirectory::open(directory.path().join("state")).expect("opens");
        let again = TokenAuthority::open(&state).expect("the same key");
        assert_eq!(again.verify(&token).map(|proven| proven.identity), Ok(identity()));
        assert_eq!(claimed_identity(&token), Some(identity().to_string()));
    }

    #[test]
    fn refuses_what_is_expired_forged_or_meant_for_others() {
        let ((_one, authority), (_two, other)) = (authority(), authority());
        let good = JoinClaims::new(&identity(), Duration::from_secs(60));
        let cases = [
            (JoinClaims { exp: good.iat - 60, ..good.clone() }, TokenError::Expired),
            (JoinClaims { aud: "istio-ca".into(), ..good.clone() }, TokenError::WrongAudience),
            (JoinClaims { iss: "somebody".into(), ..good.clone() }, TokenError::WrongAudience),
            (JoinClaims { sub: "cart".into(), ..good.clone() }, TokenError::InvalidIdentity),
            (JoinClaims { namespace: "bank".into(), ..good.clone() }, TokenError::InvalidIdentity),
            (JoinClaims { service_account: "admin".into(), ..good.clone() }, TokenError::InvalidIdentity),
        ];
        for (claims, expected) in cases {
            assert_eq!(authority.verify(&authority.create(&claims).expect("signs")), Err(expected));
        }
        assert_eq!(authority.verify(&other.create(&good).expect("signs")), Err(TokenError::Forged));
        for garbage in ["", "a.b.c", "é", &"x".repeat(100_000)] {
            assert_eq!(authority.verify(garbage), Err(TokenError::Malformed));
            assert_eq!(claimed_identity(garbage), None);
        }
    }

    #[test]
    fn a_token_for_one_use_is_used_up_and_a_revoked_one_is_worth_nothing() {
        let (_directory, authority) = authority();
        let once = JoinClaims { once: true, ..JoinClaims::new(&identity(), Duration::from_secs(60)) };
        let token = authority.create(&once).expect("signs");
        let (first, second) = (authority.verify(&token).expect("good"), authority.verify(&token).expect("good"));
        assert_eq!(authority.use_up(&first), Ok(()));
        assert_eq!(authority.use_up(&second), Err(TokenError::Used));
        assert_eq!(authority.verify(&token), Err(TokenError::Used));
        let many = JoinClaims::new(&identity(), Duration::from_secs(60));
        let token = authority.create(&many).expect("signs");
        for _ in 0..2 {
            authority.use_up(&authority.verify(&token).expect("good")).expect("as often as wanted");
        }
        let record = TokenRecord { id: many.jti, expires: many.exp, revoked: true, ..Default::default() };
        authority.book().add(&record).expect("written");
        assert_eq!(authority.verify(&token), Err(TokenError::Revoked));
    }

    #[test]
    fn refuses_tokens_without_signature_and_with_changed_claims() {
        let (_directory, authority) = authority();
        let token = authority.create(&JoinClaims::new(&identity(), Duration::from_secs(60))).expect("signs");
        let parts: Vec<&str> = token.split('.').collect();
        let other =
            JoinClaims::new(&SpiffeId::new("cluster.local", "bank", "vault").expect("valid"), Duration::from_secs(60));
        let swapped = authority.create(&other).expect("signs");
        let forged = format!("{}.{}.{}", parts[0], swapped.split('.').nth(1).expect("claims"), parts[2]);
        assert_eq!(authority.verify(&forged), Err(TokenError::Forged));
        // {"alg":"none","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
        assert_eq!(authority.verify(&unsigned), Err(TokenError::Malformed));
        // {"alg":"HS256","typ":"JWT"}: the public key must not pass for a secret.
        let confused = format!("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.{}.{}", parts[1], parts[2]);
        assert_eq!(authority.verify(&confused), Err(TokenError::Forged));
    }
}
