//! Who somebody is, by what he shows: a certificate of the mesh, a join token, or the token of a service account. What an identity
//! entitles to is decided elsewhere.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use malla_xds::SpiffeId;
use tonic::Status;

use super::{ControlPlane, Peer};
use crate::kubernetes::ClusterView;
use crate::kubernetes::review::{self, ReviewError};
use crate::token::{Proven, claimed_identity};

/// Whom somebody has proven to be.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) identity: SpiffeId,
    /// By what: for the ledger of certificates.
    pub(crate) by: String,
    /// The join token, if it was one. It is not used up.
    pub(crate) token: Option<Proven>,
}

/// What somebody wants as who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To act as his workload: a service account's token must come from the pod that it is bound to.
    Certificate,
    /// To look at traffic: people show tokens that are bound to no pod.
    Look,
}

/// Why somebody has proven nothing: a word for metrics, and what he is told.
pub(crate) type Unproven = (&'static str, Status);

impl ControlPlane {
    /// Whom somebody proves to be. A certificate proves more than a token, and outlives it: where there is one, a token is not looked at.
    pub(crate) async fn prove(&self, peer: &Peer, shown: Option<&str>, purpose: Purpose) -> Result<Proof, Unproven> {
        let in_cluster = self.cluster.as_ref().zip(shown.filter(|token| review::concerns(token)));
        match (&peer.identity, in_cluster, shown) {
            (Some(identity), _, _) => {
                let by = format!("certificate {}", peer.serial.as_deref().unwrap_or_default());
                Ok(Proof { identity: identity.clone(), by, token: None })
            }
            (None, Some((cluster, token)), _) => self.review(cluster, token, peer, purpose).await,
            (None, None, Some(token)) => match self.tokens.verify(token) {
                Ok(proven) => Ok(Proof {
                    identity: proven.identity.clone(),
                    by: format!("token {}", proven.token),
                    token: Some(proven),
                }),
                Err(error) => {
                    let claimed = claimed_identity(token);
                    let claimed_unverified = claimed.as_deref().unwrap_or("nothing");
                    tracing::warn!(address = %peer.address, claimed_unverified, %error, "refused a join token");
                    let sentence = format!("the join token is refused: {error}");
                    Err((error.word(), Status::unauthenticated(sentence)))
                }
            },
            (None, None, None) => {
                let sentence = "send a join token (authorization: Bearer …) or connect with a mesh certificate";
                Err(("no_credentials", Status::unauthenticated(sentence)))
            }
        }
    }

    /// Whom the token of a service account proves.
    async fn review(
        &self,
        cluster: &ClusterView,
        token: &str,
        peer: &Peer,
        purpose: Purpose,
    ) -> Result<Proof, Unproven> {
        let claimed = claimed_identity(token);
        let claimed_unverified = claimed.as_deref().unwrap_or("nothing");
        let refused = |word, status: Status| {
            tracing::warn!(address = %peer.address, claimed_unverified, error = status.message(), "refused a service account's token");
            (word, status)
        };
        let Some(domain) = self.published.resources.borrow().trust_domain().cloned() else {
            let sentence = "the mesh has not been read yet: try again";
            return Err(refused("review_unavailable", Status::unavailable(sentence)));
        };
        let bearer = cluster.reviewer.review(token, peer.address.ip()).await.and_then(|bearer| match &bearer.pod {
            None if purpose == Purpose::Certificate => Err(ReviewError::NotAPod),
            _ => Ok(bearer),
        });
        let bearer = bearer.map_err(|error| {
            let sentence = format!("the token of the service account is refused: {error}");
            let status = match error {
                ReviewError::Unavailable => Status::unavailable(sentence),
                _ => Status::unauthenticated(sentence),
            };
            refused(error.word(), status)
        })?;
        let identity = SpiffeId::new(&domain, &bearer.namespace, &bearer.service_account);
        let identity =
            identity.map_err(|error| refused("invalid_identity", Status::unauthenticated(error.to_string())))?;
        let of = bearer.pod.map(|pod| format!(" of pod {}/{}", bearer.namespace, pod.name)).unwrap_or_default();
        Ok(Proof { identity, by: format!("service account's token{of}"), token: None })
    }
}

/// The token that a request shows (RFC 6750 §2.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
