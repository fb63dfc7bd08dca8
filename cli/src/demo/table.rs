//! The live table: edges as people read them. It owns the drawing; where the numbers come from is `edges`' part.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment};

use super::topology::INSTANCES;
use crate::edges::cells::{identity, milliseconds, rate, success};
use crate::edges::{EdgeName, Sample};
use crate::output::{self, Paint};

/// Lines of the table of `edges` over `length`, heading first.
pub(crate) fn draw(paint: Paint, edges: &Sample, length: Duration) -> Vec<String> {
    let headings = ["SOURCE", "DESTINATION", "PROTOCOL", "RATE", "SUCCESS", "P50", "P99", "IDENTITY PROVED BY mTLS"];
    let mut table = output::table(paint, &headings);
    let mut names: Vec<&EdgeName> = edges.keys().collect();
    names.sort_by_key(|(source, destination)| (position(source), position(destination), destination));
    for name @ (source, destination) in names {
        let edge = &edges[name];
        table.add_row([
            Cell::new(first_label(source)),
            Cell::new(service_and_port(destination)),
            Cell::new(&edge.protocol),
            Cell::new(rate(edge, length)),
            success(edge),
            Cell::new(edge.quantile(0.5).map_or("-".to_owned(), milliseconds)),
            Cell::new(edge.quantile(0.99).map_or("-".to_owned(), milliseconds)),
            identity(edge),
        ]);
    }
    for column in 3..=6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    output::lines(&table)
}

/// The order in which a request meets them.
fn position(name: &str) -> usize {
    let name = first_label(name);
    INSTANCES.iter().position(|one| one.name == name || one.service == name).unwrap_or(usize::MAX)
}

fn first_label(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// `discounts-v1.travel-agency:8000` → `discounts-v1:8000`. The identity beside it tells the namespace.
fn service_and_port(name: &str) -> String {
    let port = name.rsplit_once(':').map_or("", |(_, port)| port);
    format!("{}:{port}", first_label(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edges::Edge;

    #[test]
    fn the_table_follows_the_way_of_a_request_and_marks_plaintext() {
        let edge = |plaintext, failures, identity: &str| Edge {
            protocol: "http/2".to_owned(),
            identity: identity.to_owned(),
            requests: 100,
            failures,
            plaintext,
            ..Edge::default()
        };
        let name = |source: &str, destination: &str| (source.to_owned(), destination.to_owned());
        let sample = Sample::from([
            (
                name("cars-v1.travel-agency", "discounts-v2.travel-agency:8000"),
                edge(0, 1, "spiffe://td/ns/travel-agency/sa/discounts"),
            ),
            (name("viaggi-portal.travel-portal", "travels-v1.travel-agency:8000"), edge(100, 0, "")),
        ]);
        let lines = draw(Paint::none(), &sample, Duration::from_secs(5));
        let words: Vec<Vec<&str>> = lines.iter().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words[1],
            ["viaggi-portal", "travels-v1:8000", "http/2", "20.0/s", "100", "%", "-", "-", "none:", "PLAINTEXT"]
        );
        assert_eq!(
            words[2],
            ["cars-v1", "discounts-v2:8000", "http/2", "20.0/s", "99.0", "%", "-", "-", "travel-agency/discounts"]
        );
    }
}
