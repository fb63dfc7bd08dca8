//! One certificate: a key is made, a request signed, the answer checked. The key never leaves the process here.
//!
//! Nothing of the answer is believed that can be checked: the certificate must be for our key, valid now, chained to a root that
//! came with it, and name one identity, of our namespace.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use malla_xds::grpc::{CertificateRequest, CertificateResponse};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use webpki::{EndEntityCert, KeyUsage};

use super::{Identity, KeyPem, anchors};
use crate::decode::{TrustBundle, secret};
use crate::names::SpiffeId;

/// A key and the request to certify it.
#[derive(Debug)]
pub(super) struct Application {
    key: KeyPair,
}

/// Why an answer is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    #[error("making a key")]
    Key(#[from] rcgen::Error),
    #[error("the certificate chain cannot be read: {0}")]
    Unreadable(String),
    #[error("the certificate is not for the key of this sidecar")]
    OtherKey,
    #[error("the certificate cannot be verified: {0}")]
    Unverified(webpki::Error),
    #[error("the certificate names {0} identities instead of one")]
    Identities(usize),
    #[error("the certificate's identity is not of this mesh: {0}")]
    Identity(String),
    #[error(
        "the certificate is for namespace {found}, this sidecar is in {expected}: give the token of the right namespace, or --namespace {found}"
    )]
    Namespace { found: String, expected: String },
    #[error("the certificate has a validity that cannot be used; are the clocks right?")]
    Validity,
}

impl Application {
    /// Makes a key.
    pub(super) fn new() -> Result<Self, IssueError> {
        Ok(Application { key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)? })
    }

    /// The request. It names no identity: the server takes that from the token.
    pub(super) fn request(&self) -> Result<CertificateRequest, IssueError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&self.key)?.pem()?;
        Ok(CertificateRequest { csr, validity_duration: 0, metadata: None })
    }

    /// Checks the answer.
    pub(super) fn identity(
        &self,
        response: &CertificateResponse,
        namespace: &str,
        provider: &CryptoProvider,
    ) -> Result<Identity, IssueError> {
        let (chain, bundle) = chain_and_bundle(&response.cert_chain)?;
        let leaf =
            chain.first().ok_or_else(|| IssueError::Unreadable("it holds only one certificate".to_owned()))?.clone();
        let trust_anchors =
            anchors(&bundle.certificates).ok_or_else(|| IssueError::Unreadable("no root".to_owned()))?;
        let root = bundle.certificates.first().cloned().ok_or_else(|| IssueError::Unreadable("no root".to_owned()))?;

        let end_entity = EndEntityCert::try_from(&leaf).map_err(IssueError::Unverified)?;
        let intermediates = chain.get(1..).unwrap_or_default();
        for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
            end_entity
                .verify_for_usage(
                    provider.signature_verification_algorithms.all,
                    &trust_anchors.roots,
                    intermediates,
                    UnixTime::now(),
                    usage,
                    None,
                    None,
                )
                .map_err(IssueError::Unverified)?;
        }
        let names: Vec<&str> = end_entity.valid_uri_names().collect();
        let [name] = names.as_slice() else { return Err(IssueError::Identities(names.len())) };
        let spiffe_id = SpiffeId::parse(name).map_err(|cause| IssueError::Identity(cause.to_string()))?;
        if spiffe_id.namespace() != namespace {
            let found = spiffe_id.namespace().to_owned();
            return Err(IssueError::Namespace { found, expected: namespace.to_owned() });
        }
        let (not_before, not_after) = validity(&leaf)?;
        let key_pem = self.key.serialize_pem();
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| IssueError::OtherKey)?;
        let signing = provider.key_provider.load_private_key(key).map_err(|_| IssueError::OtherKey)?;
        let certified_key = CertifiedKey::new(chain, signing);
        certified_key.keys_match().map_err(|_| IssueError::OtherKey)?;
        Ok(Identity {
            spiffe_id,
            certified_key: Arc::new(certified_key),
            key_pem: KeyPem::new(key_pem),
            root,
            trust_anchors,
            trust_certificates: bundle.certificates,
            federated: Default::default(),
            not_before,
            not_after,
            generation: 0,
        })
    }
}

/// What is to be presented, and what is to be trusted: the last text of the answer, in which the root comes first. Where all is in
/// one text, it is the last certificate.
fn chain_and_bundle(texts: &[String]) -> Result<(Vec<CertificateDer<'static>>, TrustBundle), IssueError> {
    let read = |text: &String| -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>();
        certificates.map_err(|cause| IssueError::Unreadable(format!("{cause:?}")))
    };
    let parts: Vec<_> = texts.iter().map(read).collect::<Result<_, _>>()?;
    let empty = || IssueError::Unreadable("it is empty".to_owned());
    let (mut roots, mut chain) = match parts.split_last() {
        Some((only, [])) => (Vec::new(), only.clone()),
        Some((roots, chain)) => (roots.clone(), chain.concat()),
        None => return Err(empty()),
    };
    if roots.is_empty() {
        roots.push(chain.pop().ok_or_else(empty)?);
    }
    let mut bundle = TrustBundle { certificates: Vec::with_capacity(roots.len()), federated: Default::default() };
    for root in roots {
        let anchor = secret::trust_anchor(root).map_err(|fault| IssueError::Unreadable(fault.to_string()))?;
        bundle.certificates.push(anchor);
    }
    Ok((chain, bundle))
}

/// Start and end of a certificate.
fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), IssueError> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|cause| IssueError::Unreadable(cause.to_string()))?;
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).map_err(|_| IssueError::Validity)?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(IssueError::Validity)
    };
    let validity = parsed.validity();
    let (start, end) = (time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?);
    if end <= start { Err(IssueError::Validity) } else { Ok((start, end)) }
}
