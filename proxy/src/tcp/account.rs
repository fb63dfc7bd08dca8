//! What became of a connection that carries bytes: one record, told when the [`Account`] is dropped — however the connection ended,
//! by its ends, by a failure or by being cut.
//!
//! Metrics are counted as it goes ([`crate::metrics::TcpConnection`]); this is for the access log, for taps and for traces. A
//! connection brings no trace context: in each sidecar it is a trace of its own, of one span.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use crate::clock;
use crate::metrics::{Direction, Moved, TcpConnection};
use crate::names::{Name, SpiffeId};
use crate::outcome::{Of, Record, Times, UNKNOWN};
use crate::reason::Reason;
use crate::shared::Shared;
use crate::snapshot::Endpoint;
use crate::trace::Trace;

/// The record of a connection, filled in on its way and told once, on drop. Empty where nobody wants to know.
#[derive(Debug)]
pub struct Account(Option<Box<Told>>);

struct Told {
    shared: Arc<Shared>,
    direction: Direction,
    started: Instant,
    times: Times,
    service: Name,
    route: Option<Name>,
    client: Option<SpiffeId>,
    endpoint: Option<Arc<Endpoint>>,
    tries: u8,
    moved: Option<Arc<Moved>>,
    /// Both of its ends have ended, in order.
    ended: bool,
    reason: Option<Reason>,
    what: Option<String>,
    trace: Option<Box<Trace>>,
}

impl Account {
    /// A connection that arrived at that time, for this service.
    pub fn begin(shared: &Arc<Shared>, direction: Direction, service: &Name, arrived: Instant) -> Self {
        if shared.access_log.is_none() && shared.tracer.is_none() && !shared.taps.any() {
            return Account(None);
        }
        let trace = shared.tracer.as_ref().map(|tracer| {
            let mut trace = tracer.begin(direction, &mut HeaderMap::new(), arrived);
            trace.unrouted(arrived);
            Box::new(trace)
        });
        Account(Some(Box::new(Told {
            shared: shared.clone(),
            direction,
            started: arrived,
            times: Times::default(),
            service: service.clone(),
            route: None,
            client: None,
            endpoint: None,
            tries: 0,
            moved: None,
            ended: false,
            reason: None,
            what: None,
            trace,
        })))
    }

    /// Who the client is (inbound).
    pub fn client(mut self, identity: Option<&SpiffeId>) -> Self {
        if let Some(told) = &mut self.0 {
            told.client = identity.cloned();
        }
        self
    }

    /// The route that it takes.
    pub fn route(&mut self, name: &Name) {
        if let Some(told) = &mut self.0 {
            told.route = Some(name.clone());
        }
    }

    /// It is tried at this endpoint, if it is one.
    pub fn tried(&mut self, endpoint: Option<&Arc<Endpoint>>) {
        let Some(told) = &mut self.0 else { return };
        told.times = Times { sent: Some(clock::now()), ..Times::default() };
        told.endpoint = endpoint.cloned();
        told.tries = told.tries.saturating_add(1);
        if let Some(trace) = &mut told.trace {
            trace.sends(endpoint.cloned(), &mut HeaderMap::new());
        }
    }

    /// The last try has failed for this reason, and another follows.
    pub fn tries_again(&mut self, cause: Reason) {
        if let Some(trace) = self.0.as_mut().and_then(|told| told.trace.as_mut()) {
            trace.sends_again(cause);
        }
    }

    /// It carries bytes from now on.
    pub fn connected(&mut self, connection: &TcpConnection) {
        if let Some(told) = &mut self.0 {
            told.times.connected = Some(clock::now());
            told.moved = Some(connection.moved());
        }
    }

    /// Both ends have ended, in order.
    pub fn ended(&mut self) {
        if let Some(told) = &mut self.0 {
            told.ended = true;
        }
    }

    /// It failed. The first reason stays.
    pub fn failed(&mut self, reason: Reason, what: &dyn fmt::Display) {
        if let Some(told) = self.0.as_mut().filter(|told| told.reason.is_none()) {
            (told.reason, told.what) = (Some(reason), Some(what.to_string()));
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.ended {
            // It was dropped on its way: the sidecar stops, or its client has gone.
            let stops = self.shared.drain.is_draining();
            self.reason.get_or_insert(if stops { Reason::Draining } else { Reason::ClientReset });
        }
        let trace = self.trace.take();
        let (sent, received) = self.moved.as_ref().map_or((0, 0), |moved| moved.bytes());
        let record = Record {
            started: self.started,
            times: self.times,
            ended: clock::now(),
            direction: self.direction,
            service: &self.service,
            route: self.route.as_deref().unwrap_or(UNKNOWN),
            client: self.client.as_ref(),
            endpoint: self.endpoint.as_deref(),
            reason: self.reason,
            what: self.what.as_deref(),
            tries: self.tries,
            trace: None,
            of: Of::Connection { sent, received },
        };
        let told = trace.as_ref().and_then(|trace| trace.told(|| record));
        Record { trace: told, ..record }.tell(&self.shared, trace);
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("service", &self.service).field("reason", &self.reason).finish_non_exhaustive()
    }
}
