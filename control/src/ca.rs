//! The certificate authority of the mesh.
//!
//! Its root is made at first start and kept in the state directory, or given by files. Of a certificate signing request it
//! takes the public key and nothing else: who the certificate is for was proven before, and what it may be used for is
//! decided here.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use malla_xds::SpiffeId;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::FromDer;

use crate::state::{StateDirectory, StateError, read};

/// Certificate file in the state directory.
pub const ROOT_CERTIFICATE: &str = "root.pem";
/// Key file in the state directory.
pub const ROOT_KEY: &str = "root.key";

/// Lifetime of a root made here.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from a little before they are made: clocks differ.
const BACKDATING: Duration = Duration::from_secs(300);
/// Shortest lifetime that is certified.
const SHORTEST: Duration = Duration::from_secs(5);
/// Largest certificate signing request, in bytes.
const REQUEST_LIMIT: usize = 64 << 10;

/// Where the root comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// The state directory; made there at first start.
    State,
    /// Files that somebody else keeps. The certificate file holds the signing certificate first and the root last.
    Files {
        /// PEM certificates.
        certificate: PathBuf,
        /// PEM private key of the first of them.
        key: PathBuf,
    },
}

/// The authority.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    /// From the signing certificate to the root.
    chain: Vec<CertificateDer<'static>>,
    /// The same as PEM.
    chain_texts: Vec<String>,
    trust_bundle: Arc<str>,
    expires: SystemTime,
    lifetime: Duration,
    provider: Arc<CryptoProvider>,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The state directory's fault.
    #[error(transparent)]
    State(#[from] StateError),
    /// One of two files is there.
    #[error(
        "{} is missing although {} is there: restore it from a backup, or delete the other to make a new root \
         (then every sidecar needs the new root.pem and a new token)", missing.display(), present.display()
    )]
    Half {
        /// The one that is not there.
        missing: PathBuf,
        /// The one that is.
        present: PathBuf,
    },
    /// The certificate file is none.
    #[error("{} does not hold a certificate of an authority: {problem}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// The key file is none, or not the certificate's.
    #[error("{} does not hold the private key of {}", path.display(), certificate.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// The certificate file.
        certificate: PathBuf,
        /// What was wrong, if it is not a key at all.
        #[source]
        cause: Option<rcgen::Error>,
    },
    /// A new root could not be made.
    #[error("cannot make a root certificate")]
    Make(#[source] rcgen::Error),
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Not a certificate signing request, or not signed by its own key.
    #[error("the certificate signing request is not valid: {0}")]
    Request(&'static str),
    /// The authority's own certificate has expired, or is about to.
    #[error("the authority's certificate expires: nothing can be issued until it is replaced")]
    AuthorityExpired,
    /// The cryptographic library's.
    #[error("cannot sign")]
    Sign(#[source] rcgen::Error),
    /// The cryptographic library's.
    #[error("cannot load the new key")]
    Load(#[source] rustls::Error),
}

/// An issued certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// PEM, the leaf first, the root last.
    pub chain: Vec<String>,
    /// Serial number, hexadecimal: for the log.
    pub serial: String,
    /// When it ends.
    pub not_after: SystemTime,
}

impl CertificateAuthority {
    /// Opens the authority; makes a root if the state directory has none. `lifetime` is the longest (and the default) of what
    /// it issues.
    ///
    /// # Errors
    /// The root cannot be read, made or used.
    pub fn open(
        state: &StateDirectory,
        source: &RootSource,
        lifetime: Duration,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = match source {
            RootSource::State => (state.file(ROOT_CERTIFICATE), state.file(ROOT_KEY)),
            RootSource::Files { certificate, key } => (certificate.clone(), key.clone()),
        };
        if *source == RootSource::State && !is_complete(state)? {
            let _lock = state.lock()?;
            // Another server may have made it while this one waited.
            if !is_complete(state)? {
                make_root(state, &provider)?;
            }
        }
        let (certificates, key) = (read(&certificate_path)?, read(&key_path)?);
        let invalid = |problem| AuthorityError::Certificate { path: certificate_path.clone(), problem };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| invalid("it is not PEM"))?;
        let signing = chain.first().ok_or_else(|| invalid("there is none in it"))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(signing).map_err(|_| invalid("the first is not X.509"))?;
        if !parsed.is_ca() {
            return Err(invalid("the first may not sign (basicConstraints says that it is no authority)"));
        }
        let expires = UNIX_EPOCH + Duration::from_secs(parsed.validity().not_after.timestamp().try_into().unwrap_or(0));
        if expires <= SystemTime::now() {
            return Err(invalid("it has expired"));
        }
        let foreign =
            |cause| AuthorityError::Key { path: key_path.clone(), certificate: certificate_path.clone(), cause };
        let key = KeyPair::from_pem(&key).map_err(|cause| foreign(Some(cause)))?;
        if parsed.public_key().subject_public_key.as_ref() != key.public_key_raw() {
            return Err(foreign(None));
        }
        let issuer = Issuer::from_ca_cert_der(signing, key).map_err(|_| invalid("its subject cannot be read"))?;
        let chain_texts = certificate_texts(&certificates);
        let trust_bundle = chain_texts.last().cloned().unwrap_or_default().into();
        Ok(CertificateAuthority { issuer, chain, chain_texts, trust_bundle, expires, lifetime, provider })
    }

    /// Trust anchors, PEM: what sidecars trust.
    pub fn trust_bundle(&self) -> &Arc<str> {
        &self.trust_bundle
    }

    /// Trust anchors, for verifying clients.
    ///
    /// # Errors
    /// The root is of a kind that rustls cannot use.
    pub fn trust_anchors(&self) -> Result<RootCertStore, rustls::Error> {
        let mut anchors = RootCertStore::empty();
        if let Some(root) = self.chain.last() {
            anchors.add(root.clone())?;
        }
        Ok(anchors)
    }

    /// When the authority's own certificate ends.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Certifies the public key of a request for an identity. `wanted` shortens the lifetime.
    ///
    /// # Errors
    /// The request is not valid, or the authority cannot sign.
    pub fn issue(&self, request: &str, identity: &SpiffeId, wanted: Option<Duration>) -> Result<Issued, IssueError> {
        let key = public_key(request)?;
        let uri = Ia5String::try_from(identity.as_str()).map_err(IssueError::Sign)?;
        let lifetime = wanted.map_or(self.lifetime, |wanted| wanted.clamp(SHORTEST, self.lifetime.max(SHORTEST)));
        let mut params = self.params(lifetime)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let not_after = params.not_after.into();
        let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        let leaf = params.signed_by(&key, &self.issuer).map_err(IssueError::Sign)?;
        let chain = std::iter::once(leaf.pem()).chain(self.chain_texts.iter().cloned()).collect();
        Ok(Issued { chain, serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(), not_after })
    }

    /// A certificate and new key for this server itself, valid for DNS names and addresses.
    ///
    /// # Errors
    /// A name cannot stand in a certificate, or the authority cannot sign.
    pub fn server_certificate(&self, names: &[String]) -> Result<(CertifiedKey, SystemTime), IssueError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(IssueError::Sign)?;
        let mut params = self.params(self.lifetime)?;
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(Ia5String::try_from(name.as_str()).map_err(IssueError::Sign)?),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let not_after = params.not_after.into();
        let leaf = params.signed_by(&key, &self.issuer).map_err(IssueError::Sign)?;
        let chain = std::iter::once(leaf.der().clone()).chain(self.chain.iter().cloned()).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::from_der(chain, key, &self.provider).map_err(IssueError::Load)?;
        Ok((certified, not_after))
    }

    /// What all leaves have in common.
    fn params(&self, lifetime: Duration) -> Result<CertificateParams, IssueError> {
        let now = SystemTime::now();
        let not_after = (now + lifetime).min(self.expires);
        if not_after < now + SHORTEST.min(lifetime) {
            return Err(IssueError::AuthorityExpired);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = (now - BACKDATING).into();
        params.not_after = not_after.into();
        params.serial_number = Some(serial_number(&self.provider));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

/// Whether certificate and key are there.
fn is_complete(state: &StateDirectory) -> Result<bool, AuthorityError> {
    let there = |name| Ok::<bool, AuthorityError>(state.read(name)?.is_some());
    let half = |missing, present| AuthorityError::Half { missing: state.file(missing), present: state.file(present) };
    match (there(ROOT_CERTIFICATE)?, there(ROOT_KEY)?) {
        (true, true) => Ok(true),
        (false, false) => Ok(false),
        (false, true) => Err(half(ROOT_CERTIFICATE, ROOT_KEY)),
        (true, false) => Err(half(ROOT_KEY, ROOT_CERTIFICATE)),
    }
}

fn make_root(state: &StateDirectory, provider: &CryptoProvider) -> Result<(), AuthorityError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Make)?;
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Malla root {:08x}", fastrand::u32(..)));
    params.not_before = (now - BACKDATING).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    params.serial_number = Some(serial_number(provider));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).map_err(AuthorityError::Make)?;
    state.write(ROOT_KEY, &key.serialize_pem())?;
    if let Err(error) = state.write_public(ROOT_CERTIFICATE, &certificate.pem()) {
        // A key alone would be taken for half of something that was lost.
        let _ = std::fs::remove_file(state.file(ROOT_KEY));
        return Err(error.into());
    }
    tracing::info!(certificate = %state.file(ROOT_CERTIFICATE).display(), "made the root of a new mesh");
    Ok(())
}

/// The public key of a certificate signing request whose signature is by that key.
fn public_key(request: &str) -> Result<impl PublicKeyData + use<>, IssueError> {
    if request.len() > REQUEST_LIMIT {
        return Err(IssueError::Request("it is too large"));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(request.as_bytes())
        .map_err(|_| IssueError::Request("it is not PEM of a CERTIFICATE REQUEST"))?;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&der)
        .map_err(|_| IssueError::Request("it is not PKCS #10"))?;
    request.verify_signature().map_err(|_| IssueError::Request("its signature is not by its own key"))?;
    let key = &request.certification_request_info.subject_pki;
    if let Ok(x509_parser::public_key::PublicKey::RSA(key)) = key.parsed()
        && key.key_size() < 2048
    {
        return Err(IssueError::Request("its RSA key is shorter than 2048 bits"));
    }
    SubjectPublicKeyInfo::from_der(key.raw)
        .map_err(|_| IssueError::Request("its key is of a kind that is not supported"))
}

/// 127 random bits (RFC 5280 §4.1.2.2: positive, at most 20 octets).
fn serial_number(provider: &CryptoProvider) -> SerialNumber {
    let mut bytes = [0; 16];
    if provider.secure_random.fill(&mut bytes).is_err() {
        bytes = fastrand::u128(..).to_be_bytes();
    }
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from_slice(&bytes)
}

/// The certificates of a PEM text, each as its own text.
fn certificate_texts(text: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let blocks = text.split_inclusive(END);
    let certificates =
        blocks.filter_map(|block| Some(format!("{}\n", &block[block.find("-----BEGIN CERTIFICATE-----")?..])));
    certificates.filter(|certificate| certificate.trim_end().ends_with(END)).collect()
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// The identity in a mesh certificate: its only URI.
pub(crate) fn identity(certificate: &CertificateDer<'_>) -> Option<SpiffeId> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut uris = parsed.valid_uri_names();
    match (uris.next(), uris.next()) {
        (Some(uri), None) => SpiffeId::parse(uri).ok(),
        _ => None,
    }
}

#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
