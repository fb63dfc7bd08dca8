//! Consistent hashing: a ring and Maglev's table. Both keep a key at its endpoint while others come and go.
//!
//! Every sidecar computes the same: hashes have no seed, and endpoints are known by their addresses.

use std::net::SocketAddr;
use std::sync::Arc;

use rapidhash::v3::rapidhash_v3;

use crate::snapshot::Endpoint;

/// Points of the ring for each endpoint, at least: with 160 its share is within 25 % of its due, nearly always.
const POINTS: usize = 160;
/// Points for an endpoint of the least weight, at least, however heavy the others are.
const FEWEST_POINTS: usize = 8;
/// Points altogether, at most.
const MOST_POINTS: usize = 1 << 20;

/// The hash of a key.
pub(crate) fn hash(key: &[u8]) -> u64 {
    rapidhash_v3(key)
}

/// The hash of a key for a further try.
pub(super) fn again(key: u64, attempt: u64) -> u64 {
    rapidhash_v3(&(key ^ attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes())
}

fn of_address(address: SocketAddr, salt: u64) -> u64 {
    let mut bytes = [0_u8; 26];
    let (ip, rest) = bytes.split_at_mut(16);
    match address.ip() {
        std::net::IpAddr::V4(v4) => ip.copy_from_slice(&v4.to_ipv6_mapped().octets()),
        std::net::IpAddr::V6(v6) => ip.copy_from_slice(&v6.octets()),
    }
    let (port, place) = rest.split_at_mut(2);
    port.copy_from_slice(&address.port().to_le_bytes());
    place.copy_from_slice(&salt.to_le_bytes());
    rapidhash_v3(&bytes)
}

/// A hash ring: points in order, each with the position of its endpoint.
#[derive(Debug, Default)]
pub(super) struct Ring {
    points: Vec<(u64, u32)>,
}

impl Ring {
    pub(super) fn new(endpoints: &[Arc<Endpoint>], minimum_size: u32) -> Self {
        let total: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight.max(1))).sum();
        let size = (endpoints.len() * POINTS).max(minimum_size as usize).min(MOST_POINTS);
        let mut points = Vec::with_capacity(size + endpoints.len());
        for (at, endpoint) in endpoints.iter().enumerate() {
            let share = u64::from(endpoint.weight.max(1)) as u128 * size as u128 / u128::from(total.max(1));
            let number = usize::try_from(share).unwrap_or(size).max(FEWEST_POINTS);
            let position = u32::try_from(at).unwrap_or(u32::MAX);
            points.extend((0..number as u64).map(|salt| (of_address(endpoint.address, salt), position)));
        }
        points.sort_unstable();
        Ring { points }
    }

    /// The endpoints in the order in which they come after a key; some more than once.
    pub(super) fn after(&self, key: u64) -> impl Iterator<Item = usize> {
        let first = self.points.partition_point(|(point, _)| *point < key);
        let (before, after) = self.points.split_at(first.min(self.points.len()));
        after.iter().chain(before).map(|(_, at)| *at as usize)
    }
}

/// Maglev's table (Eisenbud et al., NSDI 2016, section 3.4): each entry is the position of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<u32>,
}

impl Table {
    pub(super) fn new(endpoints: &[Arc<Endpoint>], size: u32) -> Self {
        const FREE: u32 = u32::MAX;
        let size = u64::from(size.max(2));
        let heaviest = endpoints.iter().map(|endpoint| endpoint.weight.max(1)).max().unwrap_or(1);
        struct Turn {
            next: u64,
            skip: u64,
            /// Turns that it is due, in parts of the heaviest one's.
            due: u64,
        }
        let mut turns: Vec<Turn> = endpoints
            .iter()
            .map(|endpoint| Turn {
                next: of_address(endpoint.address, 0) % size,
                skip: of_address(endpoint.address, 1) % (size - 1) + 1,
                due: 0,
            })
            .collect();
        let mut entries = vec![FREE; size as usize];
        let mut left = if endpoints.is_empty() { 0 } else { size };
        while left > 0 {
            for (at, (turn, endpoint)) in turns.iter_mut().zip(endpoints).enumerate() {
                turn.due += u64::from(endpoint.weight.max(1));
                if turn.due < u64::from(heaviest) {
                    continue;
                }
                turn.due -= u64::from(heaviest);
                // The size is a prime: the steps reach every entry.
                let mut looked = 0;
                while entries.get(turn.next as usize).is_some_and(|entry| *entry != FREE) && looked < size {
                    turn.next = (turn.next + turn.skip) % size;
                    looked += 1;
                }
                if let Some(entry) = entries.get_mut(turn.next as usize) {
                    *entry = u32::try_from(at).unwrap_or(FREE);
                }
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Table { entries }
    }

    /// The endpoint of a key.
    pub(super) fn at(&self, key: u64) -> Option<usize> {
        let entry = key.checked_rem(self.entries.len() as u64)?;
        self.entries.get(usize::try_from(entry).ok()?).map(|at| *at as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(number: u8, weight: impl Fn(u8) -> u32) -> Vec<Arc<Endpoint>> {
        let one = |last: u8| Endpoint { weight: weight(last), ..Endpoint::plain(([10, 1, 0, last], 8080).into()) };
        (1..=number).map(|last| Arc::new(one(last))).collect()
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..50_000_u32).map(|number| hash(format!("user-{number}").as_bytes()))
    }

    type Place = Box<dyn Fn(&[Arc<Endpoint>], u64) -> SocketAddr>;

    /// Both ways to place a key, rebuilt for each set.
    fn placed(endpoints: &[Arc<Endpoint>], maglev: bool) -> Place {
        let ring = Ring::new(endpoints, 1024);
        let table = Table::new(endpoints, 65_537);
        Box::new(move |endpoints, key| {
            let at = if maglev { table.at(key) } else { ring.after(key).next() };
            endpoints[at.expect("not empty")].address
        })
    }

    #[test]
    fn removing_one_of_many_moves_little_more_than_its_own_keys() {
        for number in [3, 10, 50] {
            let all = endpoints(number, |_| 1);
            for maglev in [false, true] {
                let before = placed(&all, maglev);
                for removed in [0, usize::from(number) / 2, usize::from(number) - 1] {
                    let mut fewer = all.clone();
                    fewer.remove(removed);
                    let after = placed(&fewer, maglev);
                    let moved =
                        keys().filter(|key| before(&all, *key) != after(&fewer, *key)).count() as f64 / 50_000.0;
                    let most = 1.3 / f64::from(number);
                    assert!(moved <= most, "{moved} > {most}: {number} endpoints, without {removed}, maglev {maglev}");
                }
            }
        }
    }

    #[test]
    fn keys_are_spread_by_weight() {
        for maglev in [false, true] {
            let set = endpoints(5, |last| if last == 5 { 4 } else { 1 });
            let place = placed(&set, maglev);
            let heavy = keys().filter(|key| place(&set, *key) == set[4].address).count() as f64 / 50_000.0;
            assert!((0.44..0.56).contains(&heavy), "{heavy} of 4/8, maglev {maglev}");
        }
    }

    #[test]
    fn every_sidecar_places_a_key_alike() {
        let set = endpoints(3, |_| 1);
        let mut reversed = set.clone();
        reversed.reverse();
        for maglev in [false, true] {
            let (one, other) = (placed(&set, maglev), placed(&reversed, maglev));
            let differing = keys().take(5000).filter(|key| one(&set, *key) != other(&reversed, *key)).count();
            // Maglev's table depends on the order, which the set fixes.
            assert!(maglev || differing == 0, "{differing}");
        }
        assert_eq!(Ring::new(&[], 1024).after(7).next(), None);
        assert_eq!(Table::new(&[], 101).at(7).unwrap_or(0), u32::MAX as usize);
    }
}
