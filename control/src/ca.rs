//! The certificate authority of the mesh.
//!
//! Its root is made at first start and kept in the state directory, or given by files. Of a certificate signing request it
//! takes the public key and nothing else: who the certificate is for was proven before, and what it may be used for is
//! decided here.
//!
//! One value is one state of the files: immutable. What replaces it when they change is `authority`; what
//! changes the files of the state directory, step by step, is [`rotation`](crate::rotation).

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
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;

use crate::state::{StateDirectory, StateError, read};

/// Certificate file in the state directory.
pub const ROOT_CERTIFICATE: &str = "root.pem";
/// Key file in the state directory.
pub const ROOT_KEY: &str = "root.key";
/// The root that is to come, while a rotation lasts.
pub(crate) const NEXT_CERTIFICATE: &str = "root.next.pem";
/// Its key.
pub(crate) const NEXT_KEY: &str = "root.next.key";
/// The root that has come, certified by the one that goes: who knows only the latter still finds a way to an anchor.
pub(crate) const CROSS_CERTIFICATE: &str = "root.cross.pem";

/// Lifetime of a root made here.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from a while before they are made: clocks differ, by ten minutes if it must be.
const BACKDATING: Duration = Duration::from_secs(25 * 60);
/// Shortest lifetime that is certified.
const SHORTEST: Duration = Duration::from_secs(5);
/// Largest certificate signing request, in bytes.
const REQUEST_LIMIT: usize = 64 << 10;

/// Where the root comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// The state directory; made there at first start.
    State,
    /// Files that somebody else keeps, and may replace. The certificate file holds the signing certificate first, then what
    /// leads to its root; every self-signed certificate in it is a trust anchor.
    Files {
        /// PEM certificates.
        certificate: PathBuf,
        /// PEM private key of the first of them.
        key: PathBuf,
    },
}

/// The authority.
pub struct CertificateAuthority {
    issuer: Arc<Issuer<'static, KeyPair>>,
    /// What stands between a leaf and the trust anchors: the signing certificate and what is above it, without the root.
    between: Vec<CertificateDer<'static>>,
    /// The same as PEM.
    between_texts: Vec<String>,
    /// The root of what is signed here comes first. Never empty.
    anchors: Vec<Anchor>,
    trust_bundle: Arc<str>,
    expires: SystemTime,
    lifetime: Duration,
    provider: Arc<CryptoProvider>,
}

/// A trust anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The same as PEM.
    pub pem: String,
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: Arc<str>,
    /// Its subject, for people.
    pub subject: String,
    /// When it ends.
    pub expires: SystemTime,
}

/// What the files of an authority hold at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Material {
    certificate_path: PathBuf,
    certificates: String,
    /// Candidates: which of them is the signing certificate's, its public key says.
    keys: Vec<(PathBuf, String)>,
    cross: Option<String>,
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
    /// PEM, the leaf first; the last text is the trust bundle, in which the root comes first.
    pub chain: Vec<String>,
    /// Serial number, hexadecimal: for the log.
    pub serial: String,
    /// Fingerprint of its root.
    pub root: Arc<str>,
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
        if *source == RootSource::State && !is_complete(state)? {
            let _lock = state.lock()?;
            // Another server may have made it while this one waited.
            if !is_complete(state)? {
                make_root(state, &provider)?;
            }
        }
        Self::load(&Material::read(state, source)?, lifetime, provider)
    }

    /// The authority of these files.
    ///
    /// # Errors
    /// They do not fit together, or cannot be used.
    pub(crate) fn load(
        material: &Material,
        lifetime: Duration,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, AuthorityError> {
        let path = &material.certificate_path;
        let invalid = |problem| AuthorityError::Certificate { path: path.clone(), problem };
        let certificates = certificates(&material.certificates).map_err(invalid)?;
        let signing = certificates.first().ok_or_else(|| invalid("there is none in it"))?;
        if !signing.is_authority {
            return Err(invalid("the first may not sign (basicConstraints says that it is no authority)"));
        }
        if signing.expires <= SystemTime::now() {
            return Err(invalid("it has expired"));
        }
        let key = signing_key(material, signing)?;
        let (between, root) = way_to_root(&certificates)
            .ok_or_else(|| invalid("its certificates do not lead from the first to a root (self-signed)"))?;
        let mut between: Vec<&Parsed> = between;
        let cross = material.cross.as_deref().map(self::certificates).transpose().map_err(invalid)?.unwrap_or_default();
        between.extend(cross.iter().filter(|cross| cross.public_key == root.public_key));
        let others = certificates.iter().filter(|other| other.is_self_signed() && other.der != root.der);
        let anchors: Vec<Anchor> = std::iter::once(root).chain(others).map(Parsed::anchor).collect();
        let issuer = Issuer::from_ca_cert_der(&signing.der, key).map_err(|_| invalid("its subject cannot be read"))?;
        Ok(CertificateAuthority {
            issuer: Arc::new(issuer),
            between_texts: between.iter().map(|certificate| certificate.pem.clone()).collect(),
            between: between.iter().map(|certificate| certificate.der.clone()).collect(),
            trust_bundle: bundle(&anchors),
            expires: signing.expires,
            anchors,
            lifetime,
            provider,
        })
    }

    /// Trust anchors, PEM: what sidecars trust. The root of what is signed here comes first.
    pub fn trust_bundle(&self) -> &Arc<str> {
        &self.trust_bundle
    }

    /// Trust anchors, the root of what is signed here first.
    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// Fingerprint of the root of what is signed here.
    pub fn root(&self) -> Arc<str> {
        self.anchors.first().map(|root| root.fingerprint.clone()).unwrap_or_default()
    }

    /// The same signer, which also trusts these.
    pub(crate) fn trusting(&self, more: impl IntoIterator<Item = Anchor>) -> Self {
        let mut anchors = self.anchors.clone();
        for anchor in more {
            if anchors.iter().all(|known| known.fingerprint != anchor.fingerprint) {
                anchors.push(anchor);
            }
        }
        CertificateAuthority {
            issuer: self.issuer.clone(),
            between: self.between.clone(),
            between_texts: self.between_texts.clone(),
            trust_bundle: bundle(&anchors),
            anchors,
            expires: self.expires,
            lifetime: self.lifetime,
            provider: self.provider.clone(),
        }
    }

    /// Trust anchors, for verifying clients.
    ///
    /// # Errors
    /// One of them is of a kind that rustls cannot use.
    pub fn trust_anchors(&self) -> Result<RootCertStore, rustls::Error> {
        let mut anchors = RootCertStore::empty();
        for anchor in &self.anchors {
            anchors.add(anchor.certificate.clone())?;
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
        let mut chain = vec![leaf.pem()];
        chain.extend(self.between_texts.iter().cloned());
        chain.push(self.trust_bundle.to_string());
        Ok(Issued { chain, serial: hexadecimal(&serial), root: self.root(), not_after })
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
        let chain = std::iter::once(leaf.der().clone()).chain(self.between.iter().cloned()).collect();
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
    let (params, key) = new_root(provider)?;
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

/// A new root, not yet signed by anybody, and its key.
pub(crate) fn new_root(provider: &CryptoProvider) -> Result<(CertificateParams, KeyPair), AuthorityError> {
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
    Ok((params, key))
}

impl Material {
    /// Reads the files of an authority.
    pub(crate) fn read(state: &StateDirectory, source: &RootSource) -> Result<Material, StateError> {
        match source {
            RootSource::Files { certificate, key } => Ok(Material {
                certificate_path: certificate.clone(),
                certificates: read(certificate)?,
                keys: vec![(key.clone(), read(key)?)],
                cross: None,
            }),
            RootSource::State => {
                let mut keys = vec![(state.file(ROOT_KEY), read(&state.file(ROOT_KEY))?)];
                keys.extend(state.read(NEXT_KEY)?.map(|text| (state.file(NEXT_KEY), text)));
                Ok(Material {
                    certificate_path: state.file(ROOT_CERTIFICATE),
                    certificates: read(&state.file(ROOT_CERTIFICATE))?,
                    keys,
                    cross: state.read(CROSS_CERTIFICATE)?,
                })
            }
        }
    }
}

/// The key of the signing certificate.
fn signing_key(material: &Material, signing: &Parsed) -> Result<KeyPair, AuthorityError> {
    let mut found = None;
    for (path, text) in &material.keys {
        match KeyPair::from_pem(text) {
            Ok(key) if key.public_key_raw() == signing.public_key => return Ok(key),
            Ok(_) => found = found.or(Some((path, None))),
            Err(cause) => found = found.or(Some((path, Some(cause)))),
        }
    }
    let (path, cause) = found.unwrap_or((&material.certificate_path, None));
    Err(AuthorityError::Key { path: path.clone(), certificate: material.certificate_path.clone(), cause })
}

/// A certificate of an authority.
#[derive(Debug)]
struct Parsed {
    der: CertificateDer<'static>,
    pem: String,
    subject_raw: Vec<u8>,
    issuer_raw: Vec<u8>,
    subject: String,
    public_key: Vec<u8>,
    expires: SystemTime,
    is_authority: bool,
}

impl Parsed {
    fn is_self_signed(&self) -> bool {
        self.is_authority && self.subject_raw == self.issuer_raw
    }

    fn anchor(&self) -> Anchor {
        Anchor {
            certificate: self.der.clone(),
            pem: self.pem.clone(),
            fingerprint: fingerprint(&self.der),
            subject: self.subject.clone(),
            expires: self.expires,
        }
    }
}

/// The certificates of a PEM text.
fn certificates(text: &str) -> Result<Vec<Parsed>, &'static str> {
    let parse = |pem: String| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| "it is not PEM")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| "one of them is not X.509")?;
        let expires = parsed.validity().not_after.timestamp().try_into().unwrap_or(0);
        Ok(Parsed {
            subject_raw: parsed.subject().as_raw().to_vec(),
            issuer_raw: parsed.issuer().as_raw().to_vec(),
            subject: parsed.subject().to_string().chars().filter(|c| !c.is_control()).take(200).collect(),
            public_key: parsed.public_key().subject_public_key.as_ref().to_vec(),
            expires: UNIX_EPOCH + Duration::from_secs(expires),
            is_authority: parsed.is_ca(),
            der: der.clone(),
            pem,
        })
    };
    // What stands between the certificates is for people. A text without any of them may be something else altogether.
    if CertificateDer::pem_slice_iter(text.as_bytes()).any(|certificate| certificate.is_err()) {
        return Err("it is not PEM");
    }
    certificate_texts(text).into_iter().map(parse).collect()
}

/// From the signing certificate up: what is below the root, and the root. Where nothing is self-signed, the last certificate
/// is what is trusted.
fn way_to_root(certificates: &[Parsed]) -> Option<(Vec<&Parsed>, &Parsed)> {
    let mut current = certificates.first()?;
    let mut between = Vec::new();
    while !current.is_self_signed() && between.len() < certificates.len() {
        let Some(next) = certificates.iter().find(|next| {
            next.subject_raw == current.issuer_raw && next.is_authority && next.subject_raw != current.subject_raw
        }) else {
            let partial = certificates.iter().all(|other| !other.is_self_signed());
            return partial.then_some((between, current));
        };
        between.push(current);
        current = next;
    }
    current.is_self_signed().then_some((between, current))
}

/// Trust anchors of a PEM text that was written here, if it is one.
pub(crate) fn anchors(text: &str) -> Option<Vec<Anchor>> {
    certificates(text).ok().map(|certificates| certificates.iter().map(Parsed::anchor).collect())
}

/// The root that a PEM text leads to: of the first certificate in it.
pub(crate) fn root_of(text: &str) -> Option<Anchor> {
    way_to_root(&certificates(text).ok()?).map(|(_, root)| root.anchor())
}

fn bundle(anchors: &[Anchor]) -> Arc<str> {
    anchors.iter().map(|anchor| anchor.pem.as_str()).collect::<String>().into()
}

/// SHA-256 of a certificate, hexadecimal.
fn fingerprint(certificate: &CertificateDer<'_>) -> Arc<str> {
    hexadecimal(&Sha256::digest(certificate)).into()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
        f.debug_struct("CertificateAuthority").field("anchors", &self.anchors.len()).finish_non_exhaustive()
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

/// The serial number of a certificate, hexadecimal.
pub(crate) fn serial(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(hexadecimal(parsed.raw_serial()))
}

#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
