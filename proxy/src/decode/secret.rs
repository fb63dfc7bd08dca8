//! The secret that holds the trust bundle. Private keys never come this way.

use malla_xds::envoy::core::data_source::Specifier;
use malla_xds::envoy::tls::Secret;
use malla_xds::envoy::tls::secret::Type;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::fault::{At, Fault};
use super::unsupported;

/// Trust anchors of the mesh; never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// Certificates, each usable as an anchor.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Checks a trust bundle.
pub(super) fn decode(written: &Secret) -> Result<TrustBundle, Fault> {
    let context = match &written.r#type {
        Some(Type::ValidationContext(context)) => context,
        Some(_) => return Err(Fault::new("only validation_context is supported").within("type")),
        None => return Err(Fault::new("is missing").within("validation_context")),
    };
    unsupported("validation_context.crl", context.crl.is_some())?;
    let source = context.trusted_ca.as_ref().and_then(|source| source.specifier.as_ref());
    let pem: &[u8] = match source {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        Some(Specifier::InlineString(text)) => text.as_bytes(),
        _ => return Err(Fault::new("must be inline").within("validation_context.trusted_ca")),
    };
    parse(pem).at("validation_context.trusted_ca")
}

/// Reads PEM certificates that can be trust anchors.
fn parse(pem: &[u8]) -> Result<TrustBundle, Fault> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|cause| Fault::new(format!("is not PEM: {cause:?}")))?;
        certificates.extend(trust_anchor(certificate)?.certificates);
    }
    if certificates.is_empty() { Err(Fault::new("holds no certificate")) } else { Ok(TrustBundle { certificates }) }
}

/// A bundle of one certificate.
pub(crate) fn trust_anchor(certificate: CertificateDer<'static>) -> Result<TrustBundle, Fault> {
    webpki::anchor_from_trusted_cert(&certificate)
        .map_err(|cause| Fault::new(format!("a certificate cannot be a trust anchor: {cause}")))?;
    Ok(TrustBundle { certificates: vec![certificate] })
}
