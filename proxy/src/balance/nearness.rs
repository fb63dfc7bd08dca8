//! Which endpoints come first, by where they and this sidecar are.

use crate::policy::{Locality, Place};
use crate::snapshot::Endpoint;

/// Where an endpoint stands in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// The tier: priority of its locality first, then nearness.
    pub(super) tier: (u32, u32),
    /// The group within the tier; more than one only where shares are fixed.
    group: usize,
}

/// The order of preference for one sidecar.
#[derive(Debug)]
pub(super) struct Nearness<'a> {
    locality: &'a Locality,
    own: &'a Place,
    /// Fixed shares for callers from here.
    shares: Option<&'a [(Place, u32)]>,
}

impl<'a> Nearness<'a> {
    pub(super) fn new(locality: &'a Locality, own: &'a Place) -> Self {
        let region = (own.0.clone(), "".into());
        let shares = locality.distribute.get(own).or_else(|| locality.distribute.get(&region));
        Nearness { locality, own, shares: shares.map(Vec::as_slice).filter(|_| !own.0.is_empty()) }
    }

    pub(super) fn rank(&self, endpoint: &Endpoint) -> Rank {
        let (region, zone) = &endpoint.locality;
        if let Some(shares) = self.shares {
            // The zone itself before the region that it is in. Localities without a share are the last resort.
            let exact = shares.iter().position(|((r, z), _)| r == region && z == zone);
            let whole = || shares.iter().position(|((r, z), _)| r == region && z.is_empty());
            let holder = exact.or_else(whole).filter(|at| shares.get(*at).is_some_and(|(_, share)| *share > 0));
            let tier = (endpoint.priority, u32::from(holder.is_none()));
            return Rank { tier, group: holder.unwrap_or(0) };
        }
        Rank { tier: (endpoint.priority, self.distance(region, zone)), group: 0 }
    }

    /// Share of a group in its tier.
    pub(super) fn share(&self, rank: Rank) -> u64 {
        let held = self.shares.and_then(|shares| shares.get(rank.group)).filter(|_| rank.tier.1 == 0);
        held.map_or(1, |(_, share)| u64::from(*share))
    }

    /// 0 the same zone, 1 the same region, then the regions of the failover order, then the rest. Where one side knows its zone alone, as
    /// EndpointSlices tell it, zones decide: their names are unlike in all regions.
    fn distance(&self, region: &str, zone: &str) -> u32 {
        let (own_region, own_zone) = self.own;
        if !self.locality.nearest || (own_region.is_empty() && own_zone.is_empty()) {
            return 0;
        }
        let by_zone = own_region.is_empty() || (region.is_empty() && !zone.is_empty());
        if by_zone || *region == **own_region {
            return u32::from(own_zone.is_empty() || *zone != **own_zone);
        }
        let order = self.locality.failover.get(own_region).map(Vec::as_slice).unwrap_or_default();
        let place = order.iter().position(|next| **next == *region).unwrap_or(order.len());
        2 + u32::try_from(place).unwrap_or(u32::MAX - 2)
    }
}
