//! Who a peer is: chain to a trust anchor of its trust domain, validity, exactly one URI SAN of the form that the mesh issues.
//!
//! An anchor vouches for identities of its own trust domain alone: a root of a partner makes nobody of the mesh.
//! The same verifier serves both directions. Which identity is *expected* depends on the endpoint, not on the configuration,
//! and is compared after the handshake.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage};

use super::credentials::unix_time;
use crate::names::SpiffeId;

/// By whom peers are verified.
#[derive(Debug)]
pub struct Trust {
    /// The own trust domain.
    pub domain: Arc<str>,
    /// Its anchors.
    pub anchors: Arc<RootCertStore>,
    /// Those of others; what is said of the own is not looked at.
    pub federated: BTreeMap<Arc<str>, Arc<RootCertStore>>,
}

/// Verifies peers in both directions.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

/// A certificate of the mesh that is not one workload's.
#[derive(Debug, thiserror::Error)]
#[error("the certificate names {0}, which is not one SPIFFE ID")]
pub(super) struct NotOneSpiffeId(pub(super) String);

impl PeerVerifier {
    pub(super) fn new(trust: Trust, provider: &CryptoProvider) -> Self {
        PeerVerifier { trust, algorithms: provider.signature_verification_algorithms }
    }

    /// Verifies a chain (leaf first) at this moment and tells whose it is.
    pub(super) fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: SystemTime,
    ) -> Result<SpiffeId, Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.verify_chain(leaf, intermediates, usage, unix_time(now))
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<SpiffeId, Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(certificate_error)?;
        let named = spiffe_id(leaf);
        let domain = named.as_ref().map_or(&*self.trust.domain, SpiffeId::trust_domain);
        let anchors = self.anchors_of(domain).ok_or(CertificateError::UnknownIssuer)?;
        certificate
            .verify_for_usage(self.algorithms.all, &anchors.roots, intermediates, now, usage, None, None)
            .map_err(certificate_error)?;
        named.map_err(|found| other(NotOneSpiffeId(found)))
    }

    /// Those that vouch for identities of a trust domain.
    fn anchors_of(&self, domain: &str) -> Option<&RootCertStore> {
        let Trust { domain: own, anchors, federated } = &self.trust;
        if *domain == **own { Some(anchors) } else { federated.get(domain).map(|anchors| &**anchors) }
    }
}

/// The one SPIFFE ID of a certificate, or what it names instead.
pub(crate) fn spiffe_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, String> {
    let certificate = EndEntityCert::try_from(leaf).map_err(|cause| format!("nothing readable ({cause})"))?;
    let mut names = certificate.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => SpiffeId::parse(name).map_err(|_| name.to_owned()),
        (None, _) => Err("no URI".to_owned()),
        (Some(first), Some(second)) => Err(format!("{first} and {second}")),
    }
}

/// When the certificate of a chain expires.
pub(super) fn not_after(chain: &[CertificateDer<'_>]) -> Result<SystemTime, Error> {
    let leaf = chain.first().ok_or(Error::NoCertificatesPresented)?;
    let unreadable = || Error::from(CertificateError::BadEncoding);
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).map_err(|_| unreadable())?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).map_err(|_| unreadable())?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(unreadable)
}

/// What webpki found, in rustls's words, so that the right alert is sent.
fn certificate_error(error: webpki::Error) -> Error {
    use webpki::Error as Webpki;
    match error {
        Webpki::BadDer | Webpki::BadDerTime | Webpki::TrailingData(_) => CertificateError::BadEncoding.into(),
        Webpki::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after }.into(),
        Webpki::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }.into()
        }
        Webpki::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        Webpki::InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
        Webpki::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose.into(),
        error => other(error),
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_chain(leaf, intermediates, KeyUsage::server_auth(), now).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A hint would only tell strangers who signs here.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify_chain(leaf, intermediates, KeyUsage::client_auth(), now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
