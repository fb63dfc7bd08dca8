//! Traffic and status for people elsewhere: what the admin port tells this machine, told over the xDS port to the identities that
//! `Mesh.spec.observers` names. Refuses and counts everybody else, and says what to do; ends with the permission.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::header::WWW_AUTHENTICATE;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use malla_xds::SpiffeId;
use tonic::Code;
use tower_service::Service;

use crate::ads::{Call, ControlPlane, Peer, Purpose, Unproven, bearer};
use crate::metrics::Reason;

/// Longest answer, in time: a tap.
const LONGEST: Duration = Duration::from_secs(600);
/// What is logged of a query, in characters.
const LOGGED: usize = 256;

/// Answers a request of somebody elsewhere. `pages` are what there is to see, without a look at who sees it.
pub(crate) async fn serve(
    plane: Arc<ControlPlane>,
    mut pages: Router,
    peer: Peer,
    request: Request<Incoming>,
) -> http::Response<tonic::body::Body> {
    let call = Call::count(&peer);
    let identity = match permitted(&plane, &peer, &request).await {
        Ok(identity) => identity,
        Err((reason, status)) => {
            plane.metrics.looks_refused.get_or_create(&Reason { reason }).inc();
            return refusal(&status).map(tonic::body::Body::new);
        }
    };
    if request.uri().path() == "/tap" {
        let query: String = request.uri().query().unwrap_or_default().chars().take(LOGGED).collect();
        tracing::info!(%identity, address = %peer.address, query, "requests are shown to somebody elsewhere");
    }
    let Ok(response) = pages.call(request).await;
    let ended = async move {
        let mut resources = plane.published.resources.clone();
        tokio::select! {
            () = peer.closing.cancelled() => {}
            () = tokio::time::sleep(LONGEST) => {}
            // Nobody publishes any more when the server ends.
            _ = resources.wait_for(|resources| !resources.may_observe(&identity)) => {}
        }
        // Until now the connection is not idle.
        drop(call);
    };
    response.map(|body| {
        let told = body.into_data_stream().take_until(Box::pin(ended));
        tonic::body::Body::new(axum::body::Body::from_stream(told))
    })
}

/// Who looks, if he may.
async fn permitted(plane: &ControlPlane, peer: &Peer, request: &Request<Incoming>) -> Result<SpiffeId, Unproven> {
    let proof = plane.prove(peer, bearer(request.headers()), Purpose::Look).await?;
    let identity = proof.identity;
    let refused = |word, status: tonic::Status| {
        tracing::warn!(address = %peer.address, %identity, error = status.message(), "refused to show traffic");
        (word, status)
    };
    if proof.token.is_some_and(|token| token.once) {
        let sentence = "a token for one use is for a certificate: make another one with `malla token create`";
        return Err(refused("for_one_use", tonic::Status::unauthenticated(sentence)));
    }
    if !plane.published.resources.borrow().may_observe(&identity) {
        let sentence = format!("{identity} may not look: `Mesh.spec.observers` does not name it");
        return Err(refused("not_an_observer", tonic::Status::permission_denied(sentence)));
    }
    Ok(identity)
}

fn refusal(status: &tonic::Status) -> Response {
    let sentence = format!("{}\n", status.message());
    match status.code() {
        Code::PermissionDenied => (StatusCode::FORBIDDEN, sentence).into_response(),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, sentence).into_response(),
        _ => (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], sentence).into_response(),
    }
}
