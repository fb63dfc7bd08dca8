//! Tokens of service accounts: checked by the API server (`TokenReview`), and bound to the pod that shows them.
//!
//! A token proves a service account to whoever holds it; that its holder is the pod which it was made for, the connection's address
//! tells. Refuses tokens for other audiences, and those of pods that are gone or elsewhere; what one that is bound to no pod is good for,
//! the caller decides. Everything is bounded: what is no such token costs no question, and few questions are asked at once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::kinds::Kind;
use super::store::{Key, Store};

/// Audience of the tokens.
const AUDIENCE: &str = "malla";
/// Questions to the API server at once.
const QUESTIONS: usize = 16;
/// How long one may take, with the wait for its turn.
const TIMEOUT: Duration = Duration::from_secs(8);
/// A pod that has just started may be known a moment later than its token.
const POD_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// Longest token that is looked at, in bytes.
const TOKEN_LIMIT: usize = 16 << 10;

/// Asks the API server about tokens.
pub(crate) struct Reviewer {
    client: Client,
    store: Arc<Store>,
    permits: Semaphore,
}

/// Whom a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    /// The pod that it is bound to, if it is.
    pub(crate) pod: Option<Bound>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) name: String,
    uid: String,
}

/// Why a token proves nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReviewError {
    #[error("it is meant for another audience than {AUDIENCE}: project one with `audience: {AUDIENCE}`")]
    WrongAudience,
    #[error("the API server refuses it: {0}")]
    Refused(String),
    #[error("it is bound to no pod: project it into the pod, instead of making it with `kubectl create token`")]
    NotAPod,
    #[error("the pod {0} that it was made for is gone, or is not where this connection comes from")]
    WrongPod(String),
    #[error("the API server cannot be asked about it at the moment")]
    Unavailable,
}

impl ReviewError {
    /// One word for metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            ReviewError::WrongAudience => "wrong_audience",
            ReviewError::Refused(_) => "forged",
            ReviewError::NotAPod => "not_a_pod",
            ReviewError::WrongPod(_) => "wrong_pod",
            ReviewError::Unavailable => "review_unavailable",
        }
    }
}

/// Whether a token says that it is one of a service account. What it says is not believed.
pub(crate) fn concerns(token: &str) -> bool {
    claims(token).is_some_and(|claims| claims.sub.starts_with("system:serviceaccount:"))
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: Value,
}

fn claims(token: &str) -> Option<Claims> {
    if token.len() > TOKEN_LIMIT {
        return None;
    }
    Some(jsonwebtoken::dangerous::insecure_decode(token).ok()?.claims)
}

impl Reviewer {
    pub(crate) fn new(client: Client, store: Arc<Store>) -> Self {
        Reviewer { client, store, permits: Semaphore::new(QUESTIONS) }
    }

    /// Whom a token proves, shown by a connection from an address. One that is bound to a pod is taken from there alone.
    ///
    /// # Errors
    /// Nobody.
    pub(crate) async fn review(&self, token: &str, from: IpAddr) -> Result<Bearer, ReviewError> {
        // Without a question: whoever can connect could make the API server work.
        let audience = claims(token).map(|claims| claims.aud).unwrap_or_default();
        let named =
            audience == AUDIENCE || audience.as_array().is_some_and(|list| list.iter().any(|one| one == AUDIENCE));
        if !named {
            return Err(ReviewError::WrongAudience);
        }
        let answer = timeout(TIMEOUT, self.ask(token)).await.map_err(|_| ReviewError::Unavailable)??;
        let bearer = bearer(&answer)?;
        match &bearer.pod {
            Some(pod) if !self.is_there(&bearer, pod, from.to_canonical()).await => {
                Err(ReviewError::WrongPod(format!("{}/{}", bearer.namespace, pod.name)))
            }
            _ => Ok(bearer),
        }
    }

    async fn ask(&self, token: &str) -> Result<Value, ReviewError> {
        let _permit = self.permits.acquire().await.map_err(|_| ReviewError::Unavailable)?;
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [AUDIENCE] },
        });
        let request = http::Request::post("/apis/authentication.k8s.io/v1/tokenreviews")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(review.to_string().into_bytes())
            .map_err(|_| ReviewError::Unavailable)?;
        self.client.request(request).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the API server does not review tokens");
            ReviewError::Unavailable
        })
    }

    /// Whether the pod is there, is that very one, and has the address.
    async fn is_there(&self, bearer: &Bearer, bound: &Bound, from: IpAddr) -> bool {
        let key =
            Key { kind: Kind::Pod, namespace: bearer.namespace.as_str().into(), name: bound.name.as_str().into() };
        let mut changes = self.store.changes();
        let deadline = Instant::now() + POD_TIMEOUT;
        loop {
            changes.mark_unchanged();
            let matches = self.store.get(&key).is_some_and(|pod| {
                let addresses = pod.content["addresses"].as_array().into_iter().flatten();
                let mut addresses = addresses.filter_map(|address| address.as_str()?.parse::<IpAddr>().ok());
                pod.uid == bound.uid
                    && pod.content["serviceAccount"] == *bearer.service_account
                    && pod.content["hostNetwork"] == false
                    && addresses.any(|address| address == from)
            });
            if matches {
                return true;
            }
            if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reviewer")
    }
}

/// Whom an answer names.
fn bearer(answer: &Value) -> Result<Bearer, ReviewError> {
    let status = &answer["status"];
    if status["authenticated"] != true {
        let error = status["error"].as_str().unwrap_or("it is not authenticated");
        return Err(ReviewError::Refused(error.chars().filter(|c| !c.is_control()).take(200).collect()));
    }
    // An API server that knows nothing of audiences would leave them out, and the token might be anybody's.
    let audiences = status["audiences"].as_array();
    if !audiences.is_some_and(|audiences| audiences.iter().any(|audience| audience == AUDIENCE)) {
        return Err(ReviewError::WrongAudience);
    }
    let user = &status["user"];
    let name = user["username"].as_str().and_then(|name| name.strip_prefix("system:serviceaccount:"));
    let Some((namespace, service_account)) = name.and_then(|name| name.split_once(':')) else {
        return Err(ReviewError::Refused("it is not of a service account".to_owned()));
    };
    let extra = |key: &str| user["extra"][format!("authentication.kubernetes.io/{key}")][0].as_str().map(str::to_owned);
    let pod = match (extra("pod-name"), extra("pod-uid")) {
        (Some(name), Some(uid)) => Some(Bound { name, uid }),
        (None, None) => None,
        _ => return Err(ReviewError::NotAPod),
    };
    Ok(Bearer { namespace: namespace.to_owned(), service_account: service_account.to_owned(), pod })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(change: impl FnOnce(&mut Value)) -> Value {
        let mut answer = json!({ "status": {
            "authenticated": true,
            "audiences": ["malla"],
            "user": {
                "username": "system:serviceaccount:shop:cart",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["cart-1"],
                    "authentication.kubernetes.io/pod-uid": ["u-1"],
                },
            },
        }});
        change(&mut answer["status"]);
        answer
    }

    #[test]
    fn an_answer_names_account_and_pod() {
        let found = bearer(&answer(|_| {})).expect("a bearer");
        let pod = Some(Bound { name: "cart-1".to_owned(), uid: "u-1".to_owned() });
        let expected = Bearer { namespace: "shop".to_owned(), service_account: "cart".to_owned(), pod };
        assert_eq!(found, expected);
        let unbound = bearer(&answer(|status| status["user"]["extra"] = Value::Null)).expect("a bearer");
        assert_eq!(unbound, Bearer { pod: None, ..expected });
    }

    #[test]
    fn other_answers_prove_nobody() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 5] = [
            (|status| status["authenticated"] = json!(false), "forged"),
            (|status| status["audiences"] = json!(["https://kubernetes.default.svc"]), "wrong_audience"),
            (|status| status["audiences"] = Value::Null, "wrong_audience"),
            (|status| status["user"]["username"] = json!("system:node:a"), "forged"),
            (|status| status["user"]["extra"]["authentication.kubernetes.io/pod-uid"] = json!([]), "not_a_pod"),
        ];
        for (change, word) in cases {
            assert_eq!(bearer(&answer(change)).map_err(|error| error.word()), Err(word));
        }
    }
}
