//! Weighted backends → clusters. Backends of weight zero are left out, and no sum of weights exceeds what clients add up in
//! 32 bits.

use malla_config::mesh::Backend;
use malla_xds::names;

/// Where traffic goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// Nowhere: no backend, or every weight zero.
    Nowhere,
    /// To one cluster.
    One(String),
    /// To several, by weight.
    Weighted(Vec<(String, u32)>),
}

impl Split {
    pub(super) fn new(backends: &[Backend]) -> Split {
        let mut weighted: Vec<(String, u32)> = backends
            .iter()
            .filter(|backend| backend.weight > 0)
            .map(|backend| (names::service_port(&backend.service, backend.port), backend.weight))
            .collect();
        match weighted.len() {
            0 => Split::Nowhere,
            1 => weighted.pop().map_or(Split::Nowhere, |(cluster, _)| Split::One(cluster)),
            _ => {
                fit(weighted.iter_mut().map(|(_, weight)| weight).collect());
                Split::Weighted(weighted)
            }
        }
    }
}

/// Scales weights down, none to zero, until their sum fits 32 bits: clients refuse more.
pub(super) fn fit(mut weights: Vec<&mut u32>) {
    while weights.iter().map(|weight| u64::from(**weight)).sum::<u64>() > u64::from(u32::MAX) {
        for weight in &mut weights {
            **weight = (**weight / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use malla_config::mesh::ServiceName;

    use super::*;

    fn backends(weights: &[u32]) -> Vec<Backend> {
        let backend = |(index, weight): (usize, &u32)| Backend {
            service: ServiceName::new("shop", format!("v{index}")),
            port: 80,
            weight: *weight,
        };
        weights.iter().enumerate().map(backend).collect()
    }

    #[test]
    fn leaves_out_who_gets_nothing() {
        assert_eq!(Split::new(&[]), Split::Nowhere);
        assert_eq!(Split::new(&backends(&[0, 0])), Split::Nowhere);
        assert_eq!(Split::new(&backends(&[0, 7])), Split::One("v1.shop:80".into()));
        let both = vec![("v0.shop:80".to_owned(), 9), ("v2.shop:80".to_owned(), 1)];
        assert_eq!(Split::new(&backends(&[9, 0, 1])), Split::Weighted(both));
    }

    #[test]
    fn keeps_sums_within_32_bits() {
        let Split::Weighted(clusters) = Split::new(&backends(&[u32::MAX, u32::MAX, 1])) else {
            panic!("three backends");
        };
        assert!(clusters.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>() <= u64::from(u32::MAX));
        assert!(clusters.iter().all(|(_, weight)| *weight > 0));
    }
}
