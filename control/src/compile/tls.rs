//! Mesh TLS: what a client verifies, what an inbound listener demands, and the trust bundle itself.
//!
//! Each reader finds its own words in one rendering: gRPC takes certificates from a provider instance and enforces only the
//! deprecated list of names, Envoy takes them from SDS and wants the typed list. Sidecars honour both.

use std::collections::BTreeSet;

use malla_xds::envoy::tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use malla_xds::envoy::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, DownstreamTlsContext,
    SdsSecretConfig, Secret, SubjectAltNameMatcher, UpstreamTlsContext, secret, subject_alt_name_matcher,
};
use malla_xds::envoy::{core, matcher, pack_any, protobuf};
use malla_xds::{Resource, ResourceType, SpiffeId, names};
use prost::Message;

use super::filters::over_ads;

/// The client's side: only a peer with one of `identities` is trusted.
pub(super) fn upstream(server_name: String, identities: &BTreeSet<&SpiffeId>) -> core::TransportSocket {
    socket(pack_any(UpstreamTlsContext {
        sni: server_name,
        common_tls_context: Some(common(identities)),
        ..Default::default()
    }))
}

/// The server's side: any identity of the mesh, but never none.
pub(super) fn downstream() -> core::TransportSocket {
    socket(pack_any(DownstreamTlsContext {
        require_client_certificate: Some(protobuf::BoolValue { value: true }),
        common_tls_context: Some(common(&BTreeSet::new())),
        ..Default::default()
    }))
}

/// The secret with all trust anchors (PEM).
pub(super) fn trust_bundle(pem: &str) -> Resource {
    let bundle = core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(pem.to_owned())),
        ..Default::default()
    };
    let context = CertificateValidationContext { trusted_ca: Some(bundle), ..Default::default() };
    let message = Secret { name: names::ROOT_CA.into(), r#type: Some(secret::Type::ValidationContext(context)) };
    Resource::new(ResourceType::Secret, names::ROOT_CA, [], &message)
}

/// The same secret with other trust anchors of the mesh's own (PEM).
pub(crate) fn with_trust_bundle(pem: &str, known: Option<&Resource>) -> Resource {
    let own = core::data_source::Specifier::InlineString(pem.to_owned());
    match known.map(|known| Secret::decode(&*known.body)) {
        Some(Ok(Secret { r#type: Some(secret::Type::ValidationContext(mut context)), name })) => {
            context.trusted_ca = Some(core::DataSource { specifier: Some(own), ..Default::default() });
            let message = Secret { name, r#type: Some(secret::Type::ValidationContext(context)) };
            Resource::new(ResourceType::Secret, names::ROOT_CA, [], &message)
        }
        _ => trust_bundle(pem),
    }
}

fn socket(context: protobuf::Any) -> core::TransportSocket {
    core::TransportSocket {
        name: "tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(context)),
    }
}

#[allow(deprecated, reason = "the only list of names that gRPC enforces")]
fn common(identities: &BTreeSet<&SpiffeId>) -> CommonTlsContext {
    let provider = || CertificateProviderPluginInstance {
        instance_name: names::CERTIFICATE_PROVIDER.into(),
        ..Default::default()
    };
    let from_sds = |name: &str| SdsSecretConfig { name: name.to_owned(), sds_config: Some(over_ads()) };
    let exactly = |identity: &&SpiffeId| matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(identity.as_str().to_owned())),
        ..Default::default()
    };
    let typed = |identity: &&SpiffeId| SubjectAltNameMatcher {
        san_type: subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(exactly(identity)),
        ..Default::default()
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            ca_certificate_provider_instance: Some(provider()),
            match_subject_alt_names: identities.iter().map(exactly).collect(),
            match_typed_subject_alt_names: identities.iter().map(typed).collect(),
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(from_sds(names::ROOT_CA)),
        ..Default::default()
    };
    CommonTlsContext {
        tls_certificate_provider_instance: Some(provider()),
        tls_certificate_sds_secret_configs: vec![from_sds(names::CERTIFICATE_PROVIDER)],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        ..Default::default()
    }
}
