//! Which documents have pods, and what becomes of them.

use std::collections::BTreeMap;

use malla_control::inject::{self, Decision, INJECT, InjectionSettings};
use serde_json::Value;

use super::tree::{self, Node};
use super::{edit, emit};

/// A text with its pods changed.
#[derive(Debug, Default)]
pub(crate) struct Rewritten {
    /// The text.
    pub(crate) text: String,
    /// What became of each document, one line each, for people.
    pub(crate) notes: Vec<String>,
    /// Why a pod cannot have a sidecar. With one of these, the text is not to be used.
    pub(crate) refusals: Vec<String>,
}

/// Gives the pods of a text sidecars.
///
/// # Errors
/// It is no YAML.
pub(crate) fn inject(text: &str, namespace: &str, settings: &InjectionSettings) -> anyhow::Result<Rewritten> {
    // Who runs the command has asked for it; only what the pod itself says can prevail.
    let enabled = BTreeMap::from([(INJECT.to_owned(), "enabled".to_owned())]);
    rewrite(text, &|object, pod| {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(namespace);
        match inject::decide(pod, namespace, &enabled, settings) {
            Decision::Inject { pod, warnings } => Ok(Change::To(pod, warnings)),
            Decision::Skip { reason, .. } => Ok(Change::None(reason.sentence())),
            Decision::Deny(sentence) => Err(sentence),
        }
    })
}

/// Takes the sidecars from the pods of a text.
///
/// # Errors
/// It is no YAML.
pub(crate) fn uninject(text: &str) -> anyhow::Result<Rewritten> {
    rewrite(text, &|_, pod| {
        Ok(inject::undo(pod).map_or(Change::None("it has no sidecar of Malla's"), |pod| Change::To(pod, Vec::new())))
    })
}

enum Change {
    To(Value, Vec<String>),
    None(&'static str),
}

type Decide<'a> = &'a dyn Fn(&Value, &Value) -> Result<Change, String>;

fn rewrite(text: &str, decide: Decide<'_>) -> anyhow::Result<Rewritten> {
    let documents = tree::parse(text)?;
    let (mut rewritten, mut edits) = (Rewritten::default(), Vec::new());
    for document in &documents {
        let value = document.value();
        let mut new = value.clone();
        for object in objects(&mut new) {
            change(object, decide, &mut rewritten);
        }
        if new != value {
            edits.extend(in_place(text, document, &new).unwrap_or_else(|| {
                let name = name(&value);
                rewritten
                    .notes
                    .push(format!("{name}: written anew as a whole, because its text cannot be changed in place"));
                vec![edit::Edit {
                    span: document.start()..document.end(),
                    text: emit::block(&new, 0).trim_end().to_owned(),
                }]
            }));
        }
    }
    rewritten.text = edit::apply(text, edits).unwrap_or_default();
    Ok(rewritten)
}

/// The edits of one document, if the text then says what it shall.
fn in_place(text: &str, document: &Node, new: &Value) -> Option<Vec<edit::Edit>> {
    let mut edits = Vec::new();
    edit::edits(text, document, new, &mut edits)?;
    let changed = edit::apply(text, edits.clone())?;
    let documents = tree::parse(&changed).ok()?;
    documents.iter().any(|document| document.value() == *new).then_some(edits)
}

/// The objects of a document: itself, or the items of a list.
fn objects(document: &mut Value) -> Vec<&mut Value> {
    if document["kind"] == "List" {
        return document["items"].as_array_mut().into_iter().flatten().collect();
    }
    vec![document]
}

/// Where an object of a kind has its pod, as a JSON pointer.
fn pod_in(object: &Value) -> Option<&'static str> {
    match (object["apiVersion"].as_str()?, object["kind"].as_str()?) {
        ("v1", "Pod") => Some(""),
        ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") | ("batch/v1", "Job") => {
            Some("/spec/template")
        }
        ("v1", "ReplicationController") => Some("/spec/template"),
        ("batch/v1", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn change(object: &mut Value, decide: Decide<'_>, rewritten: &mut Rewritten) {
    let Some(place) = pod_in(object) else { return };
    let name = name(object);
    let decided = match object.pointer(place) {
        Some(pod) => decide(object, pod),
        None => Err("it has no template of a pod".to_owned()),
    };
    match decided {
        Ok(Change::None(why)) => rewritten.notes.push(format!("{name}: unchanged, because {why}")),
        Ok(Change::To(new, warnings)) => {
            rewritten.notes.push(format!("{name}: changed"));
            rewritten.notes.extend(warnings.iter().map(|warning| format!("{name}: warning: {warning}")));
            if let Some(pod) = object.pointer_mut(place) {
                *pod = new;
            }
        }
        Err(sentence) => rewritten.refusals.push(format!("{name}: {sentence}")),
    }
}

/// `Deployment/cart`.
fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = include_str!("testdata/shop.yaml");

    fn settings() -> InjectionSettings {
        InjectionSettings::new("malla-proxy:test", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    }

    fn injected(text: &str) -> Rewritten {
        let rewritten = inject(text, "shop", &settings()).expect("is YAML");
        assert_eq!(rewritten.refusals, Vec::<String>::new());
        rewritten
    }

    #[test]
    fn lines_are_added_and_all_others_stay_byte_for_byte() {
        let Rewritten { text, notes, .. } = injected(MANIFEST);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/inject/testdata/shop.injected.yaml");
        if std::env::var_os("MALLA_UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &text).expect("writable");
        }
        assert_eq!(text, std::fs::read_to_string(path).unwrap_or_default(), "MALLA_UPDATE_GOLDEN=1 writes it anew");
        assert_eq!(
            notes,
            [
                "Deployment/cart: changed",
                "StatefulSet/db: changed",
                "CronJob/report: changed",
                "Job/once: changed",
                "Pod/quiet: unchanged, because malla.dev/inject is disabled for it",
                "DaemonSet/agent: unchanged, because it uses the network of its node (hostNetwork), which a sidecar must not redirect",
            ]
        );
        let there: std::collections::HashSet<&str> = text.lines().collect();
        let gone: Vec<&str> = MANIFEST.lines().filter(|line| !there.contains(line)).map(str::trim).collect();
        let job = "spec: {template: {spec: {restartPolicy: Never, containers: [{name: once, image: \"once:1\"}]}}}";
        assert_eq!(gone, ["prometheus.io/port: '9100'", "port: web", job]);
    }

    #[test]
    fn a_second_time_changes_nothing_and_uninject_leads_back() {
        let text = injected(MANIFEST).text;
        assert_eq!(injected(&text).text, text);
        let back = uninject(&text).expect("is YAML");
        assert_eq!(values(&back.text), values(MANIFEST));
        assert_eq!(uninject(&back.text).expect("is YAML").text, back.text);
    }

    fn values(text: &str) -> Vec<Value> {
        tree::parse(text).expect("is YAML").iter().map(Node::value).collect()
    }

    #[test]
    fn json_flow_style_and_lists_are_changed_where_they_stand() {
        let flow = "# kept\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: x}]} # kept too\n";
        let text = injected(flow).text;
        assert!(
            text.starts_with("# kept\napiVersion: v1\nkind: Pod\nmetadata: {") && text.ends_with("} # kept too\n"),
            "{text}"
        );
        assert_eq!(values(&uninject(&text).expect("is YAML").text), values(flow));

        let list = r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}}]}"#;
        let text = injected(list).text;
        let json: Value = serde_json::from_str(&text).expect("is JSON still");
        assert_eq!(json["items"][0]["spec"]["initContainers"][1]["name"], "malla-proxy");
    }

    #[test]
    fn what_cannot_be_changed_in_place_is_written_anew_and_said() {
        let anchored = "apiVersion: v1\nkind: Pod\nmetadata: &m\n  name: a\nspec:\n  containers:\n  - name: c\n    env: [{name: A, value: b}]\nother: *m\n";
        let rewritten = injected(anchored);
        assert!(rewritten.notes.iter().any(|note| note.contains("written anew as a whole")), "{:?}", rewritten.notes);
        assert_eq!(values(&uninject(&rewritten.text).expect("is YAML").text), values(anchored));
    }

    #[test]
    fn refusals_name_the_object() {
        let clash = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {securityContext: {runAsUser: 1337}, containers: []}\n";
        let rewritten = inject(clash, "shop", &settings()).expect("is YAML");
        assert!(rewritten.refusals[0].starts_with("Pod/a: the pod has runAsUser: 1337"), "{:?}", rewritten.refusals);
        assert!(inject("a: [", "shop", &settings()).is_err());
        let endless = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        assert!(inject(&endless, "shop", &settings()).is_err());
    }

    #[test]
    fn other_documents_pass_untouched_also_without_a_last_line_end() {
        let text = "---\nkind: Service\napiVersion: v1\n---\n# nothing\n---\nkind: Deployment\napiVersion: apps/v1\nmetadata:\n  name: d\nspec:\n  template:\n    spec:\n      containers:\n        - name: c";
        let changed = injected(text).text;
        assert!(
            changed.starts_with("---\nkind: Service\napiVersion: v1\n---\n# nothing\n---\nkind: Deployment\n"),
            "{changed}"
        );
        assert_eq!(values(&uninject(&changed).expect("is YAML").text), values(text));
        let windows = text.replace('\n', "\r\n");
        assert!(!injected(&windows).text.replace("\r\n", "").contains('\n'));
    }
}
