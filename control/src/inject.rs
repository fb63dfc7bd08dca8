//! Sidecars for the pods of Kubernetes: a pod in, a pod with a sidecar out, or a reason why not.
//!
//! Pure: no I/O, no clock. The admission webhook and `malla inject` ask the same function, so what is tried on a file is what a cluster
//! gets. A pod is never half done: it gets all that a sidecar needs, or nothing with a [`SkipReason`], or is denied in a sentence that
//! says what to write instead. Asked again about what it made, it changes nothing.

mod annotations;
mod containers;
mod eligible;
mod originals;
mod patch;
mod pod;
mod probes;
mod quantity;
mod review;
mod scrape;
mod settings;
mod telling;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;

pub use self::eligible::SkipReason;
pub use self::originals::undo;
pub use self::patch::{Operation, diff};
pub use self::review::{Answer, BadReview, Namespace, Outcome, review};
pub use self::settings::{InjectionSettings, InvalidSetting, Resources, SidecarKind};
pub use self::telling::Telling;

use self::annotations::{Mode, Wishes};
use self::originals::Originals;
use self::pod::Pod;

/// Label of namespaces and pods, and annotation of pods: `enabled` or `disabled`.
pub const INJECT: &str = "malla.dev/inject";
/// Annotation of a pod that has got a sidecar: the settings that it was made with, as a number.
pub const INJECTED: &str = "malla.dev/injected";
/// Annotation with what stood where injection wrote something else, JSON.
pub const ORIGINALS: &str = "malla.dev/original";
/// Annotation with the root certificates (PEM) that the sidecar verifies the control server with; it is mounted as a file.
pub const TRUST: &str = "malla.dev/trust";
/// Name of the container that is the sidecar.
pub const SIDECAR: &str = "malla-proxy";
/// Name of the container that installs the redirection.
pub const INIT: &str = "malla-init";
/// Name of the volume with token and root certificate.
pub const VOLUME: &str = "malla";

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It gets a sidecar.
    Inject {
        /// The pod as it shall be.
        pod: Value,
        /// For the person who made it.
        warnings: Vec<String>,
    },
    /// It stays as it is.
    Skip {
        /// Why.
        reason: SkipReason,
        /// For the person who made it.
        warnings: Vec<String>,
    },
    /// It must not be made: with a sidecar it could not work, and without one it was not asked for. The sentence says what to write.
    Deny(String),
}

/// Decides about a pod of a namespace with these labels, and makes the pod as it shall be.
///
/// # Examples
/// ```
/// use malla_control::inject::{Decision, InjectionSettings, decide};
/// let settings = InjectionSettings::new("malla-proxy:1", "-----BEGIN CERTIFICATE-----…");
/// let pod = serde_json::json!({"metadata": {"name": "cart"}, "spec": {"containers": [{"name": "cart", "image": "cart:1"}]}});
/// let labels = [("malla.dev/inject".to_owned(), "enabled".to_owned())].into();
/// let Decision::Inject { pod, .. } = decide(&pod, "shop", &labels, &settings) else { panic!() };
/// assert_eq!(pod["spec"]["initContainers"][1]["name"], "malla-proxy");
/// ```
pub fn decide(
    pod: &Value,
    namespace: &str,
    namespace_labels: &BTreeMap<String, String>,
    settings: &InjectionSettings,
) -> Decision {
    let parsed = match Pod::parse(pod) {
        Ok(parsed) => parsed,
        Err(problem) => return Decision::Deny(problem),
    };
    let fingerprint = settings.fingerprint();
    // Another webhook may have changed what this one made: then it is made anew from what stood there before.
    // And marks without a sidecar were copied from another pod.
    let marked = parsed.annotation(INJECTED);
    let ours = marked.is_some_and(|made_with| *made_with == fingerprint || !parsed.has_sidecar());
    let restored = if ours { undo(pod) } else { None };
    let (base, parsed) = match &restored {
        Some(base) => match Pod::parse(base) {
            Ok(parsed) => (base, parsed),
            Err(problem) => return Decision::Deny(problem),
        },
        None => (pod, parsed),
    };
    match eligible::judge(&parsed, namespace, namespace_labels, settings) {
        Ok(()) => {}
        Err(eligible::Refusal::Skip(reason, warnings)) => return Decision::Skip { reason, warnings },
        Err(eligible::Refusal::Deny(sentence)) => return Decision::Deny(sentence),
    }
    let made = Wishes::of(&parsed, &settings.telling).and_then(|wishes| {
        eligible::clashes(&parsed, namespace_labels, &wishes, settings)?;
        make(base, &parsed, &wishes, settings, fingerprint)
    });
    match made {
        Ok((made, _)) if made == *pod => Decision::Skip { reason: SkipReason::AlreadyInjected, warnings: Vec::new() },
        Ok((pod, warnings)) => Decision::Inject { pod, warnings },
        Err(sentence) => Decision::Deny(sentence),
    }
}

/// The pod with all that a sidecar needs.
fn make(
    base: &Value,
    parsed: &Pod,
    wishes: &Wishes,
    settings: &InjectionSettings,
    fingerprint: String,
) -> Result<(Value, Vec<String>), String> {
    let mut pod = base.clone();
    let mut warnings = eligible::doubts(parsed, wishes, settings);
    let mut originals = Originals::default();
    let transparent = wishes.mode == Mode::Transparent;
    let probes =
        if transparent { probes::rewrite(&mut pod, &mut originals, &mut warnings) } else { Default::default() };
    if !transparent {
        containers::name_the_http_proxy(&mut pod, &mut originals);
    }
    let scrape = scrape::redirect(&mut pod, parsed, &mut originals, &mut warnings);
    if settings.sidecar == SidecarKind::Classic {
        containers::keep_the_default_container(&mut pod, parsed, &mut originals);
    }
    let sidecar = containers::sidecar(wishes, settings, &probes, scrape.as_deref());
    containers::add(&mut pod, sidecar, transparent.then(|| containers::init(wishes, settings)), settings.sidecar);
    originals.write(&mut pod)?;
    pod::annotate(&mut pod, INJECTED, fingerprint);
    pod::annotate(&mut pod, TRUST, settings.trust.clone());
    Ok((pod, warnings))
}
