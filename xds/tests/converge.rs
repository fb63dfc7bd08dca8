//! Properties of the state machines: whatever happens in whatever order, client and server come to agree.

mod model;

use malla_xds::{Push, ResourceType};
use model::{Event, Simulation, World, events};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Changes, subscriptions, rejections, reconnects and reordering between types: in the end the client has what the
    /// server's configuration says about each name it wants, every name was answered, and a further reconnect brings nothing
    /// that is already there.
    #[test]
    fn delta_client_and_server_converge(events in events()) {
        let mut simulation = Simulation::delta();
        for event in &events {
            simulation.apply(event);
        }
        simulation.settle();
        simulation.assert_agreement();
        simulation.assert_reconnect_brings_nothing();
    }

    /// The same with a model of a client that knows only the state of the world.
    #[test]
    fn state_of_the_world_client_converges(events in events()) {
        let mut simulation = model::SotwSimulation::new();
        for event in &events {
            simulation.apply(event);
        }
        simulation.settle();
        simulation.assert_agreement();
    }
}

#[test]
fn the_simulation_reaches_what_it_is_for() {
    // A guard against a simulation that agrees because nothing ever happens.
    let mut simulation = Simulation::delta();
    simulation.apply(&Event::Set(ResourceType::Listener, 0, 1));
    simulation.apply(&Event::Alias(0, 2));
    simulation.apply(&Event::Push(Push::All));
    simulation.apply(&Event::Subscribe(ResourceType::Listener, 2));
    simulation.settle();
    assert_eq!(
        simulation.client_state(ResourceType::Listener, &model::name(2)),
        Some(World::body(ResourceType::Listener, "n0", 1))
    );
}
