//! A filter as it is written, the same in all places.

use serde::Deserialize;

/// One filter: a type, and the field of that type.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawFilter {
    pub(super) r#type: String,
    pub(super) request_header_modifier: Option<RawHeaderModifier>,
    pub(super) response_header_modifier: Option<RawHeaderModifier>,
    pub(super) request_redirect: Option<RawRedirect>,
    pub(super) url_rewrite: Option<RawRewrite>,
    pub(super) request_mirror: Option<RawMirror>,
    pub(super) cors: Option<RawCors>,
    pub(super) extension_ref: Option<RawExtension>,
    external_auth: Option<serde_json::Value>,
}

impl RawFilter {
    /// A field that is written and belongs to another type.
    pub(super) fn stray_field(&self) -> Option<&'static str> {
        let fields = [
            ("RequestHeaderModifier", "requestHeaderModifier", self.request_header_modifier.is_some()),
            ("ResponseHeaderModifier", "responseHeaderModifier", self.response_header_modifier.is_some()),
            ("RequestRedirect", "requestRedirect", self.request_redirect.is_some()),
            ("URLRewrite", "urlRewrite", self.url_rewrite.is_some()),
            ("RequestMirror", "requestMirror", self.request_mirror.is_some()),
            ("CORS", "cors", self.cors.is_some()),
            ("ExtensionRef", "extensionRef", self.extension_ref.is_some()),
            ("ExternalAuth", "externalAuth", self.external_auth.is_some()),
        ];
        let stray = |(of, _, written): &(&str, _, bool)| *written && self.r#type != *of;
        fields.into_iter().find(stray).map(|(_, field, _)| field)
    }

    /// Whether several of the type mean something.
    pub(super) fn may_repeat(&self) -> bool {
        matches!(self.r#type.as_str(), "RequestMirror" | "ExtensionRef")
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct RawExtension {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RawHeaderModifier {
    #[serde(default)]
    pub(super) set: Vec<RawHeader>,
    #[serde(default)]
    pub(super) add: Vec<RawHeader>,
    #[serde(default)]
    pub(super) remove: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawHeader {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RawRewrite {
    pub(super) hostname: Option<String>,
    pub(super) path: Option<RawPath>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawRedirect {
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) port: Option<i32>,
    pub(super) path: Option<RawPath>,
    pub(super) status_code: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawPath {
    pub(super) r#type: String,
    pub(super) replace_full_path: Option<String>,
    pub(super) replace_prefix_match: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawMirror {
    pub(super) backend_ref: RawMirrorBackend,
    pub(super) fraction: Option<RawFraction>,
    pub(super) percent: Option<i32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawMirrorBackend {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) port: Option<i32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawFraction {
    pub(super) numerator: i32,
    pub(super) denominator: Option<i32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawCors {
    pub(super) allow_credentials: Option<bool>,
    pub(super) allow_headers: Vec<String>,
    pub(super) allow_methods: Vec<String>,
    pub(super) allow_origins: Vec<String>,
    pub(super) expose_headers: Vec<String>,
    pub(super) max_age: Option<i32>,
}
