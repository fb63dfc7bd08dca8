//! Weighted backends → clusters. Backends of weight zero are left out, and no sum of weights exceeds what clients add up in
//! 32 bits.

use malla_config::mesh::{Backend, BackendFilters, ServiceName};
use malla_xds::names;

/// Where traffic goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Split<'a> {
    /// Nowhere: no backend, or every weight zero.
    Nowhere,
    /// To one cluster, without filters of its own.
    One(String),
    /// To several, by weight; or to one with filters of its own.
    Weighted(Vec<Share<'a>>),
}

/// What one backend gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Share<'a> {
    pub(super) cluster: String,
    /// Above zero.
    pub(super) weight: u32,
    pub(super) filters: &'a BackendFilters,
}

impl<'a> Share<'a> {
    fn new(backend: &'a Backend) -> Self {
        let Backend { service, port, subset, weight, filters } = backend;
        Share { cluster: cluster(service, *port, subset.as_deref()), weight: *weight, filters }
    }
}

/// The cluster of a port of a service, or of a subset of it.
pub(super) fn cluster(service: &ServiceName, port: u16, subset: Option<&str>) -> String {
    let whole = names::service_port(service, port);
    subset.map_or(whole.clone(), |subset| names::subset(&whole, subset))
}

impl Split<'_> {
    pub(super) fn new(backends: &[Backend]) -> Split<'_> {
        let mut shares: Vec<Share<'_>> = backends.iter().filter(|backend| backend.weight > 0).map(Share::new).collect();
        match shares.as_mut_slice() {
            [] => Split::Nowhere,
            [only] if *only.filters == BackendFilters::default() => Split::One(std::mem::take(&mut only.cluster)),
            several => {
                fit(several.iter_mut().map(|share| &mut share.weight).collect());
                Split::Weighted(shares)
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
    use super::*;

    fn backends(weights: &[u32]) -> Vec<Backend> {
        let backend = |(index, weight): (usize, &u32)| Backend {
            service: ServiceName::new("shop", format!("v{index}")),
            port: 80,
            subset: None,
            weight: *weight,
            filters: Default::default(),
        };
        weights.iter().enumerate().map(backend).collect()
    }

    #[test]
    fn leaves_out_who_gets_nothing() {
        assert_eq!(Split::new(&[]), Split::Nowhere);
        assert_eq!(Split::new(&backends(&[0, 0])), Split::Nowhere);
        assert_eq!(Split::new(&backends(&[0, 7])), Split::One("v1.shop:80".into()));
        let none = BackendFilters::default();
        let share = |cluster: &str, weight| Share { cluster: cluster.to_owned(), weight, filters: &none };
        let both = vec![share("v0.shop:80", 9), share("v2.shop:80", 1)];
        assert_eq!(Split::new(&backends(&[9, 0, 1])), Split::Weighted(both));
    }

    #[test]
    fn keeps_sums_within_32_bits() {
        let all = backends(&[u32::MAX, u32::MAX, 1]);
        let Split::Weighted(shares) = Split::new(&all) else { panic!("three backends") };
        assert!(shares.iter().map(|share| u64::from(share.weight)).sum::<u64>() <= u64::from(u32::MAX));
        assert!(shares.iter().all(|share| share.weight > 0));
    }
}
