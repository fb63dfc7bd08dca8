//! What injection is told once for all pods: the image, the control server, whom to trust, what a sidecar may use.

use std::borrow::Cow;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::Serialize;

use super::quantity;
use super::telling::Telling;

/// What all sidecars have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InjectionSettings {
    /// Image with `malla-proxy` (and `nft`), of the sidecar and of the container that installs the redirection.
    pub image: String,
    /// `Always`, `IfNotPresent` (default) or `Never`.
    pub pull_policy: String,
    /// The control server, as pods reach it. Default `malla-control.malla-system.svc:15012`.
    pub control: String,
    /// The root certificates of the control server, PEM.
    pub trust: String,
    /// Malla's own namespace, which gets no sidecars. Default `malla-system`.
    pub system_namespace: String,
    /// How the sidecar sits in the pod. Default native.
    pub sidecar: SidecarKind,
    /// What the sidecar asks for and may use.
    pub resources: Resources,
    /// Least level of log lines. Default `info`.
    pub log: String,
    /// Worker threads. Default 1.
    pub workers: NonZeroU16,
    /// How long connections may take to finish, as `malla-proxy --drain` takes it. Default `30s`.
    pub drain: String,
    /// What sidecars tell of requests, and whom. Default nothing.
    #[serde(skip_serializing_if = "Telling::is_empty")]
    pub telling: Telling,
}

/// How the sidecar sits in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SidecarKind {
    /// An init container that goes on running (Kubernetes 1.29 and later): up before the application, down after it, and
    /// Jobs complete.
    Native,
    /// A container among others, for older clusters. Pods that shall complete get none.
    Classic,
}

/// What a container asks for and may use, as quantities of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// Default `20m`.
    pub cpu_request: String,
    /// None by default: a sidecar that is throttled delays every request.
    pub cpu_limit: Option<String>,
    /// Default `24Mi`.
    pub memory_request: String,
    /// Default `256Mi`.
    pub memory_limit: String,
}

/// A setting that would make broken pods.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} {advice}")]
pub struct InvalidSetting {
    what: &'static str,
    value: String,
    advice: Cow<'static, str>,
}

impl InjectionSettings {
    /// Defaults for everything but the image and the root certificates.
    pub fn new(image: impl Into<String>, trust: impl Into<String>) -> Self {
        InjectionSettings {
            image: image.into(),
            pull_policy: "IfNotPresent".to_owned(),
            control: "malla-control.malla-system.svc:15012".to_owned(),
            trust: trust.into(),
            system_namespace: "malla-system".to_owned(),
            sidecar: SidecarKind::Native,
            resources: Resources {
                cpu_request: "20m".to_owned(),
                cpu_limit: None,
                memory_request: "24Mi".to_owned(),
                memory_limit: "256Mi".to_owned(),
            },
            log: "info".to_owned(),
            workers: NonZeroU16::MIN,
            drain: "30s".to_owned(),
            telling: Telling::default(),
        }
    }

    /// Checks what was given as text.
    ///
    /// # Errors
    /// An [`InvalidSetting`] that says what to write.
    pub fn check(&self) -> Result<(), InvalidSetting> {
        let invalid = |what, value: &str, advice| InvalidSetting { what, value: value.to_owned(), advice };
        let wrong = |what, value: &str, advice| Err(invalid(what, value, Cow::Borrowed(advice)));
        if self.image.is_empty() || self.image.contains(char::is_whitespace) {
            return wrong(
                "the image",
                &self.image,
                "is no image: write one such as registry.example.org/malla-proxy:0.1.0",
            );
        }
        if !["Always", "IfNotPresent", "Never"].contains(&&*self.pull_policy) {
            return wrong("the pull policy", &self.pull_policy, "is none: write Always, IfNotPresent or Never");
        }
        let port = self.control.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<NonZeroU16>().is_err()) {
            return wrong("the control server", &self.control, "must be HOST:PORT");
        }
        if !self.trust.contains("BEGIN CERTIFICATE") {
            return wrong("the trust bundle", "", "holds no certificate: give root.pem of the control server's state");
        }
        let Resources { cpu_request, cpu_limit, memory_request, memory_limit } = &self.resources;
        for (what, value) in [("the CPU request", Some(cpu_request)), ("the CPU limit", cpu_limit.as_ref())] {
            if let Some(value) = value.filter(|value| !quantity::is_cpu(value)) {
                return wrong(what, value, quantity::CPU);
            }
        }
        for (what, value) in [("the memory request", memory_request), ("the memory limit", memory_limit)] {
            if !quantity::is_memory(value) {
                return wrong(what, value, quantity::MEMORY);
            }
        }
        if !super::annotations::is_log_level(&self.log) {
            return wrong("the log level", &self.log, super::annotations::LOG);
        }
        if super::annotations::seconds(&self.drain).is_none() {
            return wrong("the drain time", &self.drain, super::annotations::DRAIN);
        }
        self.telling.check().map_err(|(flag, value, advice)| invalid(flag, &value, Cow::Owned(advice)))
    }

    /// A number for these settings: what one of them made, the others leave alone.
    pub(super) fn fingerprint(&self) -> String {
        // Serializing a struct of strings and numbers does not fail.
        let text = serde_json::to_vec(self).unwrap_or_default();
        format!("{:016x}", rapidhash::v3::rapidhash_v3(&text))
    }
}

impl FromStr for SidecarKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "native" => Ok(SidecarKind::Native),
            "classic" => Ok(SidecarKind::Classic),
            _ => Err("write native (Kubernetes 1.29 and later) or classic"),
        }
    }
}
