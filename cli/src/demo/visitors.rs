//! Visitors of the portals: a steady stream of requests, whether or not earlier ones are answered.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::program::Program;
use super::topology::{HTTP_PORT, mesh_name};

/// Requests of one portal that may be under way; visitors beyond that go away uncounted, as in life.
const AT_ONCE: usize = 200;

/// Where visitors want to go.
const CITIES: [&str; 8] = ["Lima", "Oaxaca", "Sevilla", "Lisbon", "Torino", "Lyon", "Kyoto", "Hanoi"];

/// Makes requests at `portal`, `per_second` of them, until `stop`; then waits for those under way.
pub(crate) async fn visit(portal: Arc<Program>, per_second: f64, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second.max(0.001)));
    // After a pause of the machine, the rate goes on; the past is not made up for at once.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.cancelled() => break,
            Some(_ended) = under_way.join_next() => {}
            _ = ticks.tick() => if under_way.len() < AT_ONCE {
                let portal = Arc::clone(&portal);
                under_way.spawn(async move {
                    let city = CITIES[fastrand::usize(..CITIES.len())];
                    // The caller counts it; a visitor has nobody to tell.
                    let _ = portal.caller().get(&mesh_name("travels", HTTP_PORT), &format!("/travels/{city}"), HeaderMap::new()).await;
                });
            }
        }
    }
    while under_way.join_next().await.is_some() {}
}
