//! A small API server: what the control server uses of a real one, and the faults that real ones have.
//!
//! Lists (in pages), watches (from a version on, with bookmarks, and 410 for what is forgotten), creating, replacing and merging with
//! optimistic locking, `TokenReview`, access by roles. It validates nothing and runs no controller: tests write what controllers would.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// An API server on loopback. Ends when dropped.
pub struct FakeCluster {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
    _directory: tempfile::TempDir,
    kubeconfig: PathBuf,
}

/// A request that was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// API group.
    pub group: String,
    /// Plural, with subresource.
    pub resource: String,
    /// `list`, `watch`, `get`, `create`, `update`, `patch`, `delete`.
    pub verb: &'static str,
    /// Empty for everywhere.
    pub namespace: String,
}

struct Shared {
    state: Mutex<State>,
    /// Counts events.
    version: watch::Sender<u64>,
    /// Counts cuts: watches end with each.
    cut: watch::Sender<u64>,
}

/// Events that are kept, at least.
const EVENTS: usize = 1000;

#[derive(Default)]
struct State {
    version: u64,
    /// By API version and plural, namespace, name.
    objects: BTreeMap<(String, String, String), Value>,
    events: Vec<Event>,
    /// Events up to this version are forgotten.
    forgotten: u64,
    /// API versions and plurals that are served.
    served: Vec<(String, String)>,
    refusals: HashMap<String, (u16, usize)>,
    hanging: Vec<String>,
    away: bool,
    tokens: HashMap<String, Value>,
    /// Resources that a `SubjectAccessReview` denies.
    denied: Vec<String>,
    asked: Vec<Asked>,
    page_limit: usize,
    /// What may be asked, if not everything may.
    allowed: Option<Vec<Asked>>,
    git_version: String,
}

struct Event {
    version: u64,
    resource: String,
    kind: &'static str,
    object: Value,
}

/// Core kinds, Gateway API's and Malla's.
const SERVED: [(&str, &[&str]); 9] = [
    ("apiextensions.k8s.io/v1", &["customresourcedefinitions"]),
    ("v1", &["namespaces", "services", "pods", "secrets", "configmaps", "serviceaccounts"]),
    ("apps/v1", &["deployments"]),
    ("discovery.k8s.io/v1", &["endpointslices"]),
    ("coordination.k8s.io/v1", &["leases"]),
    ("admissionregistration.k8s.io/v1", &["mutatingwebhookconfigurations"]),
    ("gateway.networking.k8s.io/v1", &["httproutes", "grpcroutes", "tlsroutes", "referencegrants"]),
    ("gateway.networking.k8s.io/v1alpha2", &["tcproutes"]),
    (
        "malla.dev/v1alpha1",
        &[
            "meshes",
            "workloads",
            "trafficpolicies",
            "authorizationpolicies",
            "faultinjections",
            "ratelimits",
            "retrypolicies",
            "tracesamplings",
            "routetests",
        ],
    ),
];

impl FakeCluster {
    /// Starts one. Must run inside a tokio runtime.
    pub async fn start() -> FakeCluster {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let served = SERVED
            .iter()
            .flat_map(|(version, plurals)| plurals.iter().map(|plural| ((*version).to_owned(), (*plural).to_owned())));
        let state = State {
            served: served.collect(),
            page_limit: usize::MAX,
            git_version: "v1.34.0".to_owned(),
            ..Default::default()
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), version: watch::Sender::new(0), cut: watch::Sender::new(0) });
        let accepting = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        let directory = tempfile::tempdir().expect("a directory");
        let kubeconfig = directory.path().join("kubeconfig");
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{ "name": "fake", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "fake", "user": { "token": "of-the-control-server" } }],
            "contexts": [{ "name": "fake", "context": { "cluster": "fake", "user": "fake" } }],
        });
        std::fs::write(&kubeconfig, text.to_string()).expect("written");
        FakeCluster { address, shared, accepting, _directory: directory, kubeconfig }
    }

    /// How clients find it.
    pub fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no test panicked with it")
    }

    /// Writes an object, as `kubectl apply` would.
    pub fn apply(&self, object: &Value) {
        let resource = resource_of(object);
        let mut state = self.state();
        let name = name_of(object);
        let key = (resource.clone(), name.0, name.1);
        let mut object = object.clone();
        let before = state.objects.get(&key).cloned();
        let metadata = &mut object["metadata"];
        let meta = |field: &str| before.as_ref().map(|before| before["metadata"][field].clone());
        if metadata["uid"].is_null() {
            metadata["uid"] = meta("uid").unwrap_or_else(|| json!(format!("uid-{}", state.version + 1)));
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = meta("creationTimestamp").unwrap_or_else(|| json!("2026-01-01T00:00:00Z"));
        }
        let generation = meta("generation").and_then(|number| number.as_u64()).unwrap_or(0);
        metadata["generation"] = json!(generation + 1);
        if let (Some(before), true) = (&before, object["status"].is_null()) {
            object["status"] = before["status"].clone();
        }
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.shared.put(&mut state, key, object, kind);
    }

    /// Removes an object.
    pub fn delete(&self, object: &Value) {
        let mut state = self.state();
        let name = name_of(object);
        let key = (resource_of(object), name.0, name.1);
        if let Some(object) = state.objects.remove(&key) {
            self.shared.tell(&mut state, key.0, object, "DELETED");
        }
    }

    /// An object as it is now.
    pub fn get(&self, object: &Value) -> Option<Value> {
        let name = name_of(object);
        self.state().objects.get(&(resource_of(object), name.0, name.1)).cloned()
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// Forgets what has happened: watches that are started from before get 410.
    pub fn forget(&self) {
        let mut state = self.state();
        state.version += 1;
        state.forgotten = state.version;
        state.events.clear();
    }

    /// Ends all watches.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// Tells all watches the version of now.
    pub fn bookmark(&self) {
        let mut state = self.state();
        state.version += 1;
        let resources: Vec<String> =
            state.served.iter().map(|(version, plural)| format!("{version}/{plural}")).collect();
        for resource in resources {
            let object = json!({ "kind": "Bookmark", "apiVersion": "v1", "metadata": { "resourceVersion": state.version.to_string() } });
            let version = state.version;
            state.events.push(Event { version, resource, kind: "BOOKMARK", object });
        }
        self.shared.version.send_replace(state.version);
    }

    /// Answers the next requests for a plural (or `*`) with a code.
    pub fn refuse(&self, plural: &str, code: u16, times: usize) {
        self.state().refusals.insert(plural.to_owned(), (code, times));
    }

    /// Answers requests for a plural again.
    pub fn accept(&self, plural: &str) {
        let mut state = self.state();
        state.refusals.remove(plural);
        state.hanging.retain(|hanging| hanging != plural);
    }

    /// Never answers requests for a plural.
    pub fn hang(&self, plural: &str) {
        self.state().hanging.push(plural.to_owned());
    }

    /// Closes every connection, and every new one.
    pub fn go_away(&self) {
        self.state().away = true;
        self.cut();
    }

    /// Is there again.
    pub fn come_back(&self) {
        self.state().away = false;
    }

    /// Does not serve a kind any more, or never did.
    pub fn uninstall(&self, plural: &str) {
        self.state().served.retain(|(_, served)| served != plural);
    }

    /// Objects of a page at most, whatever is asked for.
    pub fn limit_pages(&self, objects: usize) {
        self.state().page_limit = objects;
    }

    /// What `/version` says.
    pub fn set_version(&self, git_version: &str) {
        self.state().git_version = git_version.to_owned();
    }

    /// Answers a `TokenReview` of a token with a status.
    pub fn know_token(&self, token: &str, status: Value) {
        self.state().tokens.insert(token.to_owned(), status);
    }

    /// Denies a resource in each `SubjectAccessReview`.
    pub fn deny(&self, resource: &str) {
        self.state().denied.push(resource.to_owned());
    }

    /// Allows this and nothing else. An empty namespace is all of them.
    pub fn allow_only(&self, allowed: Vec<Asked>) {
        self.state().allowed = Some(allowed);
    }

    /// What has been asked so far, each once.
    pub fn asked(&self) -> Vec<Asked> {
        let mut asked = self.state().asked.clone();
        asked.sort();
        asked.dedup();
        asked
    }

    /// How often something was asked.
    pub fn count(&self, resource: &str, verb: &str) -> usize {
        self.state().asked.iter().filter(|asked| asked.resource == resource && asked.verb == verb).count()
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

/// `gateway.networking.k8s.io/v1/httproutes` of an object.
pub(crate) fn resource_of(object: &Value) -> String {
    let kind = object["kind"].as_str().expect("a kind").to_lowercase();
    let plural = match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if kind.ends_with("sh") => format!("{kind}es"),
        None => format!("{kind}s"),
    };
    format!("{}/{plural}", object["apiVersion"].as_str().expect("a version"))
}

pub(crate) fn name_of(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

impl Shared {
    fn put(&self, state: &mut State, key: (String, String, String), mut object: Value, kind: &'static str) {
        object["metadata"]["resourceVersion"] = json!((state.version + 1).to_string());
        state.objects.insert(key.clone(), object.clone());
        self.tell(state, key.0, object, kind);
    }

    fn tell(&self, state: &mut State, resource: String, mut object: Value, kind: &'static str) {
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.events.push(Event { version, resource, kind, object });
        // Now and then, as etcd does.
        if state.events.len() >= 2 * EVENTS {
            let old = state.events.len() - EVENTS;
            state.forgotten = state.events.drain(..old).next_back().map_or(0, |event| event.version);
        }
        self.version.send_replace(version);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept().await {
        if shared.state.lock().expect("no test panicked with it").away {
            continue;
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let shared = shared.clone();
                async move { answer(shared, request).await }
            });
            let mut cut = shared.cut.subscribe();
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            tokio::select! {
                // How a connection ends is the client's business.
                ended = connection => drop(ended),
                _ = cut.changed() => {}
            }
        });
    }
}

/// What a path names.
struct Target {
    version: String,
    namespace: String,
    plural: String,
    name: Option<String>,
    subresource: Option<String>,
}

fn target(path: &str) -> Option<Target> {
    let mut parts = path.trim_matches('/').split('/').peekable();
    let version = match parts.next()? {
        "api" => parts.next()?.to_owned(),
        "apis" => format!("{}/{}", parts.next()?, parts.next()?),
        _ => return None,
    };
    let mut rest: Vec<&str> = parts.collect();
    let mut namespace = String::new();
    if rest.len() > 2 && rest[0] == "namespaces" {
        namespace = rest[1].to_owned();
        rest.drain(..2);
    }
    let mut rest = rest.into_iter().map(str::to_owned);
    Some(Target { version, namespace, plural: rest.next()?, name: rest.next(), subresource: rest.next() })
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path().to_owned();
    if path == "/version" {
        let version = shared.state.lock().expect("no test panicked with it").git_version.clone();
        return Ok(said(
            200,
            &json!({ "major": "1", "minor": "34", "gitVersion": version, "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "" }),
        ));
    }
    let query: HashMap<String, String> = head
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), value.replace("%3D", "=").replace("%21", "!").replace("%2C", ",")))
        })
        .collect();
    let Some(target) = target(&path) else {
        return Ok(failure(404, "the server could not find the requested resource"));
    };
    let watches = query.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
    let verb = match (&head.method, &target.name) {
        (&Method::GET, None) if watches => "watch",
        (&Method::GET, None) => "list",
        (&Method::GET, Some(_)) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        _ => "delete",
    };
    let hangs = {
        let mut state = shared.state.lock().expect("no test panicked with it");
        let group = target.version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
        let resource = match &target.subresource {
            Some(subresource) => format!("{}/{subresource}", target.plural),
            None => target.plural.clone(),
        };
        let asked = Asked { group, resource, verb, namespace: target.namespace.clone() };
        state.asked.push(asked.clone());
        let allows = |rule: &Asked| {
            (&rule.group, &rule.resource, rule.verb) == (&asked.group, &asked.resource, asked.verb)
                && (rule.namespace.is_empty() || rule.namespace == asked.namespace)
        };
        if state.allowed.as_ref().is_some_and(|allowed| !allowed.iter().any(allows)) {
            let message = format!("{} is forbidden: cannot {verb} resource", target.plural);
            return Ok(failure(403, &message));
        }
        for plural in [&*target.plural, "*"] {
            if let Some((code, times)) = state.refusals.get_mut(plural).filter(|(_, times)| *times > 0) {
                *times -= 1;
                return Ok(failure(*code, "as the test wants it"));
            }
        }
        state.hanging.contains(&target.plural)
    };
    if hangs {
        std::future::pending::<()>().await;
    }
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if target.plural == "tokenreviews" {
        let state = shared.state.lock().expect("no test panicked with it");
        let token = value["spec"]["token"].as_str().unwrap_or_default();
        let unknown = json!({ "authenticated": false, "error": "invalid bearer token" });
        let status = state.tokens.get(token).cloned().unwrap_or(unknown);
        return Ok(said(
            201,
            &json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status }),
        ));
    }
    if target.plural == "subjectaccessreviews" {
        let attributes = &value["spec"]["resourceAttributes"];
        let state = shared.state.lock().expect("no test panicked with it");
        let allowed = !state.denied.iter().any(|resource| attributes["resource"] == *resource);
        return Ok(said(201, &json!({ "kind": "SubjectAccessReview", "status": { "allowed": allowed } })));
    }
    let resource = format!("{}/{}", target.version, target.plural);
    let is_served = {
        let state = shared.state.lock().expect("no test panicked with it");
        state.served.iter().any(|(version, plural)| *version == target.version && *plural == target.plural)
    };
    if !is_served {
        return Ok(failure(404, "the server could not find the requested resource"));
    }
    Ok(match verb {
        "watch" => watching(shared, resource, &query),
        "list" => shared.list(&resource, &target, &query),
        _ => shared.one(verb, resource, &target, value),
    })
}

impl Shared {
    fn list(&self, resource: &str, target: &Target, query: &HashMap<String, String>) -> Answer {
        let state = self.state.lock().expect("no test panicked with it");
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX).min(state.page_limit);
        let after: usize = query.get("continue").and_then(|token| token.parse().ok()).unwrap_or(0);
        let all = state.objects.iter().filter(|((of, namespace, _), _)| {
            of == resource && (target.namespace.is_empty() || *namespace == target.namespace)
        });
        let mut page: Vec<&Value> = all.skip(after).take(limit.saturating_add(1)).map(|(_, object)| object).collect();
        let more = page.len() > limit;
        page.truncate(limit);
        let mut metadata = json!({ "resourceVersion": state.version.to_string() });
        if more {
            metadata["continue"] = json!((after + limit).to_string());
        }
        said(200, &json!({ "apiVersion": target.version, "kind": "List", "metadata": metadata, "items": page }))
    }

    fn one(&self, verb: &str, resource: String, target: &Target, body: Value) -> Answer {
        let mut state = self.state.lock().expect("no test panicked with it");
        let name = target.name.clone().unwrap_or_else(|| name_of(&body).1);
        let key = (resource, target.namespace.clone(), name);
        let before = state.objects.get(&key).cloned();
        let object = match (verb, before) {
            ("create", Some(_)) => return failure(409, "already exists"),
            ("create", None) => {
                let mut object = body;
                object["metadata"]["uid"] = json!(format!("uid-{}", state.version + 1));
                if !target.namespace.is_empty() {
                    object["metadata"]["namespace"] = json!(target.namespace);
                }
                object
            }
            // Applied by the server: made if it is not there.
            ("patch", None) if target.plural == "customresourcedefinitions" => body,
            (_, None) => return failure(404, "not found"),
            ("get", Some(object)) => return said(200, &object),
            ("delete", Some(object)) => {
                state.objects.remove(&key);
                self.tell(&mut state, key.0, object, "DELETED");
                return said(200, &json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }));
            }
            (_, Some(before)) => {
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != before["metadata"]["resourceVersion"] {
                    return failure(
                        409,
                        "the object has been modified; please apply your changes to the latest version",
                    );
                }
                let mut object = if verb == "update" { body } else { merged(before.clone(), &body) };
                if target.subresource.as_deref() == Some("status") {
                    let status = object["status"].take();
                    object = before;
                    object["status"] = status;
                }
                object
            }
        };
        let kind = if verb == "create" { "ADDED" } else { "MODIFIED" };
        self.put(&mut state, key.clone(), object, kind);
        let code = if verb == "create" { 201 } else { 200 };
        said(code, &state.objects[&key])
    }
}

fn merged(mut into: Value, patch: &Value) -> Value {
    let Some(fields) = patch.as_object() else { return patch.clone() };
    if !into.is_object() {
        into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().map(|object| object.remove(key));
        } else {
            let before = into[key].take();
            into[key] = merged(before, value);
        }
    }
    into
}

fn watching(shared: Arc<Shared>, resource: String, query: &HashMap<String, String>) -> Answer {
    let mut from: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    let bookmarks = query.get("allowWatchBookmarks").is_some_and(|wanted| wanted == "true");
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(64);
    tokio::spawn(async move {
        let mut versions = shared.version.subscribe();
        let mut cut = shared.cut.subscribe();
        loop {
            versions.mark_unchanged();
            let lines: Vec<String> = {
                let state = shared.state.lock().expect("no test panicked with it");
                if from < state.forgotten {
                    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
                        "message": format!("too old resource version: {from}") });
                    vec![json!({ "type": "ERROR", "object": status }).to_string()]
                } else {
                    let old = state.events.partition_point(|event| event.version <= from);
                    let news = state.events[old..]
                        .iter()
                        .filter(|event| event.resource == resource && (bookmarks || event.kind != "BOOKMARK"));
                    let lines = news.map(|event| json!({ "type": event.kind, "object": event.object }).to_string());
                    let lines = lines.collect();
                    from = state.version;
                    lines
                }
            };
            let ends = lines.first().is_some_and(|line| line.contains("\"ERROR\""));
            for line in lines {
                if sender.send(Ok(Frame::data(Bytes::from(line + "\n")))).await.is_err() {
                    return;
                }
            }
            if ends {
                return;
            }
            tokio::select! {
                _ = cut.changed() => return,
                () = sender.closed() => return,
                changed = versions.changed() => if changed.is_err() { return },
            }
        }
    });
    let mut response = Response::new(StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

fn said(code: u16, value: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// A refusal with the reason that goes with its code (Kubernetes API, `metav1.StatusReason`): clients look at that.
fn failure(code: u16, message: &str) -> Answer {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 if message.ends_with("already exists") => "AlreadyExists",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": reason });
    said(code, &status)
}
