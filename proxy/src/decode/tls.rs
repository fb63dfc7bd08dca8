//! Transport sockets: mesh mTLS or nothing.
//!
//! The sidecar always presents its own certificate, always verifies against the trust bundle of the mesh, TLS 1.3 only. A context
//! that asks for anything else is refused, one that asks for less too.

use std::collections::BTreeSet;

use malla_xds::envoy::core::TransportSocket;
use malla_xds::envoy::core::transport_socket::ConfigType;
use malla_xds::envoy::matcher::StringMatcher;
use malla_xds::envoy::matcher::string_matcher::MatchPattern;
use malla_xds::envoy::tls::common_tls_context::ValidationContextType;
use malla_xds::envoy::tls::subject_alt_name_matcher::SanType;
use malla_xds::envoy::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, UpstreamTlsContext,
};
use malla_xds::names::{CERTIFICATE_PROVIDER, ROOT_CA};

use super::fault::{At, Fault, each};
use super::listener::ads;
use super::{unpack, unsupported};
use crate::names::SpiffeId;
use crate::snapshot::UpstreamTls;

const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

/// TLS towards the endpoints of a cluster.
pub(super) fn upstream(socket: &TransportSocket) -> Result<UpstreamTls, Fault> {
    let context: UpstreamTlsContext = unpack(typed(socket), UPSTREAM)?;
    unsupported("auto_host_sni", context.auto_host_sni)?;
    unsupported("allow_renegotiation", context.allow_renegotiation)?;
    if context.sni.is_empty() {
        return Err(Fault::new("is missing").within("sni"));
    }
    let common = context.common_tls_context.as_ref();
    let common = common.ok_or_else(|| Fault::new("is missing, mTLS is expected").within("common_tls_context"))?;
    let identities = self::common(common).at("common_tls_context")?;
    Ok(UpstreamTls { sni: context.sni.as_str().into(), identities: identities.into_iter().collect() })
}

/// TLS from clients: checks that it is mesh mTLS.
pub(super) fn downstream(socket: &TransportSocket) -> Result<(), Fault> {
    let context: DownstreamTlsContext = unpack(typed(socket), DOWNSTREAM)?;
    if !context.require_client_certificate.as_ref().is_some_and(|required| required.value) {
        return Err(Fault::new("must be true").within("require_client_certificate"));
    }
    unsupported("session_ticket_keys_type", context.session_ticket_keys_type.is_some())?;
    unsupported("ocsp_staple_policy", context.ocsp_staple_policy != 0)?;
    let common = context.common_tls_context.as_ref();
    let common = common.ok_or_else(|| Fault::new("is missing, mTLS is expected").within("common_tls_context"))?;
    let identities = self::common(common).at("common_tls_context")?;
    // A list of clients that may come in is an authorization, which this sidecar does not have yet.
    unsupported("common_tls_context: a condition on the client's names", !identities.is_empty())
}

fn typed(socket: &TransportSocket) -> Option<&malla_xds::envoy::protobuf::Any> {
    match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) => Some(any),
        None => None,
    }
}

/// Checks what both directions share; returns the identities that the peer may have (empty: any of the mesh).
#[allow(deprecated, reason = "the deprecated forms must be seen to be refused")]
fn common(written: &CommonTlsContext) -> Result<BTreeSet<SpiffeId>, Fault> {
    unsupported("tls_params", written.tls_params.is_some())?;
    unsupported("tls_certificates", !written.tls_certificates.is_empty())?;
    unsupported("custom_tls_certificate_selector", written.custom_tls_certificate_selector.is_some())?;
    unsupported("custom_handshaker", written.custom_handshaker.is_some())?;
    unsupported("tls_certificate_certificate_provider", written.tls_certificate_certificate_provider.is_some())?;
    let instance = &written.tls_certificate_certificate_provider_instance;
    unsupported("tls_certificate_certificate_provider_instance", instance.is_some())?;
    each("tls_certificate_sds_secret_configs", &written.tls_certificate_sds_secret_configs, |config| {
        secret(config, CERTIFICATE_PROVIDER)
    })?;
    if written.tls_certificate_provider_instance.is_none() && written.tls_certificate_sds_secret_configs.is_empty() {
        let problem = "is missing, mTLS is expected";
        return Err(Fault::new(problem).within("tls_certificate_provider_instance"));
    }
    let (context, roots) = match &written.validation_context_type {
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let provider = combined.validation_context_certificate_provider.is_some()
                || combined.validation_context_certificate_provider_instance.is_some();
            unsupported("combined_validation_context.validation_context_certificate_provider", provider)?;
            let sds = combined.validation_context_sds_secret_config.as_ref();
            sds.map(|config| secret(config, ROOT_CA))
                .transpose()
                .at("combined_validation_context.validation_context_sds_secret_config")?;
            (combined.default_validation_context.as_ref(), sds.is_some())
        }
        Some(ValidationContextType::ValidationContext(context)) => (Some(context), false),
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            secret(config, ROOT_CA).at("validation_context_sds_secret_config")?;
            (None, true)
        }
        Some(_) => return Err(Fault::new("is of a kind that is not supported").within("validation_context_type")),
        None => return Err(Fault::new("is missing, peers must be verified").within("validation_context_type")),
    };
    let provider = context.is_some_and(|context| context.ca_certificate_provider_instance.is_some());
    if !provider && !roots {
        return Err(Fault::new("ca_certificate_provider_instance is missing, peers must be verified")
            .within("validation_context_type"));
    }
    context.map_or(Ok(BTreeSet::new()), |context| validation(context).at("validation_context"))
}

fn secret(written: &SdsSecretConfig, expected: &str) -> Result<(), Fault> {
    if written.name != expected {
        return Err(Fault::new(format!("{:?} is not supported, only {expected:?}", written.name)).within("name"));
    }
    ads(written.sds_config.as_ref()).at("sds_config")
}

#[allow(deprecated, reason = "gRPC enforces only the deprecated field, and the server sends both")]
fn validation(written: &CertificateValidationContext) -> Result<BTreeSet<SpiffeId>, Fault> {
    unsupported("trusted_ca", written.trusted_ca.is_some())?;
    unsupported("system_root_certs", written.system_root_certs.is_some())?;
    unsupported("verify_certificate_spki", !written.verify_certificate_spki.is_empty())?;
    unsupported("verify_certificate_hash", !written.verify_certificate_hash.is_empty())?;
    unsupported("require_signed_certificate_timestamp", written.require_signed_certificate_timestamp.is_some())?;
    unsupported("crl", written.crl.is_some())?;
    unsupported("allow_expired_certificate", written.allow_expired_certificate)?;
    unsupported("trust_chain_verification", written.trust_chain_verification != 0)?;
    unsupported("custom_validator_config", written.custom_validator_config.is_some())?;
    unsupported("max_verify_depth", written.max_verify_depth.is_some())?;
    let typed = each("match_typed_subject_alt_names", &written.match_typed_subject_alt_names, |written| {
        if written.san_type != SanType::Uri as i32 {
            return Err(Fault::new("only URI is supported").within("san_type"));
        }
        let matcher = written.matcher.as_ref().ok_or_else(|| Fault::new("is missing").within("matcher"))?;
        identity(matcher).at("matcher")
    })?;
    let legacy = each("match_subject_alt_names", &written.match_subject_alt_names, identity)?;
    let (typed, legacy): (BTreeSet<_>, BTreeSet<_>) = (typed.into_iter().collect(), legacy.into_iter().collect());
    match (typed.is_empty(), legacy.is_empty()) {
        (true, _) => Ok(legacy),
        (_, true) => Ok(typed),
        // Both are set: both must hold.
        _ if typed == legacy => Ok(typed),
        _ => Err(Fault::new("differs from match_typed_subject_alt_names").within("match_subject_alt_names")),
    }
}

/// An exact SPIFFE ID.
fn identity(written: &StringMatcher) -> Result<SpiffeId, Fault> {
    unsupported("ignore_case", written.ignore_case)?;
    match &written.match_pattern {
        Some(MatchPattern::Exact(text)) => {
            SpiffeId::parse(text).map_err(|cause| Fault::new(cause.to_string()).within("exact"))
        }
        _ => Err(Fault::new("only an exact SPIFFE ID is supported")),
    }
}

/// For tests of what holds a transport socket.
#[cfg(test)]
pub(super) mod examples {
    use malla_xds::envoy::core::config_source::ConfigSourceSpecifier;
    use malla_xds::envoy::core::{AggregatedConfigSource, ConfigSource};
    use malla_xds::envoy::pack_any;
    use malla_xds::envoy::protobuf::BoolValue;
    use malla_xds::envoy::tls::common_tls_context::CombinedCertificateValidationContext;
    use malla_xds::envoy::tls::{CertificateProviderPluginInstance, SubjectAltNameMatcher};

    use super::*;

    pub(in crate::decode) fn ads_source() -> ConfigSource {
        ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
            ..Default::default()
        }
    }

    /// The rendering that all clients accept.
    #[allow(deprecated, reason = "both fields are sent")]
    pub(in crate::decode) fn mesh(identities: &[&str]) -> CommonTlsContext {
        let provider = || {
            Some(CertificateProviderPluginInstance {
                instance_name: CERTIFICATE_PROVIDER.into(),
                certificate_name: "default".into(),
            })
        };
        let exact = |text: &&str| StringMatcher {
            match_pattern: Some(MatchPattern::Exact((*text).to_owned())),
            ..Default::default()
        };
        let secret = |name: &str| SdsSecretConfig { name: name.into(), sds_config: Some(ads_source()) };
        let typed = |text| SubjectAltNameMatcher {
            san_type: SanType::Uri as i32,
            matcher: Some(exact(text)),
            ..Default::default()
        };
        CommonTlsContext {
            tls_certificate_provider_instance: provider(),
            tls_certificate_sds_secret_configs: vec![secret(CERTIFICATE_PROVIDER)],
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                CombinedCertificateValidationContext {
                    default_validation_context: Some(CertificateValidationContext {
                        ca_certificate_provider_instance: provider(),
                        match_subject_alt_names: identities.iter().map(exact).collect(),
                        match_typed_subject_alt_names: identities.iter().map(typed).collect(),
                        ..Default::default()
                    }),
                    validation_context_sds_secret_config: Some(secret(ROOT_CA)),
                    ..Default::default()
                },
            )),
            ..Default::default()
        }
    }

    pub(in crate::decode) fn upstream_socket(common: CommonTlsContext) -> TransportSocket {
        let context = UpstreamTlsContext {
            common_tls_context: Some(common),
            sni: "80.cart.shop.mesh".into(),
            ..Default::default()
        };
        TransportSocket {
            name: "envoy.transport_sockets.tls".into(),
            config_type: Some(ConfigType::TypedConfig(pack_any(context))),
        }
    }

    pub(in crate::decode) fn downstream_socket(common: CommonTlsContext, require: bool) -> TransportSocket {
        let context = DownstreamTlsContext {
            common_tls_context: Some(common),
            require_client_certificate: Some(BoolValue { value: require }),
            ..Default::default()
        };
        TransportSocket {
            name: "envoy.transport_sockets.tls".into(),
            config_type: Some(ConfigType::TypedConfig(pack_any(context))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::examples::{downstream_socket, mesh, upstream_socket};
    use super::*;

    const CART: &str = "spiffe://td/ns/shop/sa/cart";

    fn context(common: &mut CommonTlsContext) -> &mut CertificateValidationContext {
        match &mut common.validation_context_type {
            Some(ValidationContextType::CombinedValidationContext(combined)) => {
                combined.default_validation_context.get_or_insert_default()
            }
            _ => unreachable!("the example is combined"),
        }
    }

    #[test]
    fn accepts_the_rendering_that_all_accept() {
        let tls = upstream(&upstream_socket(mesh(&[CART]))).expect("valid");
        assert_eq!(&*tls.sni, "80.cart.shop.mesh");
        assert_eq!(tls.identities, [SpiffeId::parse(CART).expect("valid")]);
    }

    #[test]
    #[allow(deprecated, reason = "the field is still sent")]
    fn refuses_names_that_are_not_exact_identities_or_contradict_each_other() {
        let mut inexact = mesh(&[CART]);
        context(&mut inexact).match_subject_alt_names =
            vec![StringMatcher { match_pattern: Some(MatchPattern::Prefix("spiffe://".into())), ..Default::default() }];
        let fault = upstream(&upstream_socket(inexact)).expect_err("refused");
        assert_eq!(
            fault.to_string(),
            "common_tls_context.validation_context.match_subject_alt_names[0]: only an exact SPIFFE ID is supported"
        );
        let mut differing = mesh(&[CART]);
        context(&mut differing).match_subject_alt_names.clear();
        assert!(upstream(&upstream_socket(differing.clone())).is_ok());
        context(&mut differing).match_subject_alt_names = vec![StringMatcher {
            match_pattern: Some(MatchPattern::Exact("spiffe://td/ns/shop/sa/other".into())),
            ..Default::default()
        }];
        assert!(upstream(&upstream_socket(differing)).is_err());
    }

    #[test]
    fn refuses_whatever_would_verify_less() {
        let weaker: [fn(&mut CommonTlsContext); 5] = [
            |common| common.validation_context_type = None,
            |common| common.tls_params = Some(Default::default()),
            |common| context(common).allow_expired_certificate = true,
            |common| context(common).trust_chain_verification = 1,
            |common| {
                common.tls_certificate_provider_instance = None;
                common.tls_certificate_sds_secret_configs.clear();
            },
        ];
        for weaken in weaker {
            let mut common = mesh(&[CART]);
            weaken(&mut common);
            assert!(upstream(&upstream_socket(common.clone())).is_err(), "{common:?}");
        }
    }

    #[test]
    fn clients_must_present_certificates() {
        assert!(downstream(&downstream_socket(mesh(&[]), true)).is_ok());
        assert!(downstream(&downstream_socket(mesh(&[]), false)).is_err());
        assert!(downstream(&downstream_socket(mesh(&[CART]), true)).is_err());
    }
}
