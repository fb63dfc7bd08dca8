//! The routes of a virtual host in their order of precedence, and which of them can match a path at all.
//!
//! A table of many routes is indexed by path when it is built, so that a request looks at those alone that its path leaves over.
//! The index decides nothing: it leaves out what cannot match, and keeps the order.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use rapidhash::fast::RandomState;
use smallvec::SmallVec;

use super::{PathMatch, Route};

/// So few routes are looked at one after the other.
const FEW: usize = 8;

/// Routes in the order of precedence.
#[derive(Debug, Default)]
pub struct Routes {
    routes: Vec<Route>,
    index: Option<Index>,
}

/// Places of routes, ascending in each list.
#[derive(Debug, Default)]
struct Index {
    exact: HashMap<Arc<str>, Vec<usize>, RandomState>,
    prefixes: HashMap<Arc<str>, Vec<usize>, RandomState>,
    /// How long the prefixes are, each length once.
    lengths: Vec<usize>,
    /// Those that match every path, and expressions.
    others: Vec<usize>,
}

impl Routes {
    /// The first route that `matches`, of those whose path matches; it is not asked about most others.
    pub fn first(&self, path: &str, mut matches: impl FnMut(&Route) -> bool) -> Option<&Route> {
        match &self.index {
            None => self.routes.iter().find(|route| matches(route)),
            Some(index) => {
                let mut candidates = Candidates(index.lists(path));
                candidates.find_map(|place| self.routes.get(place).filter(|route| matches(route)))
            }
        }
    }
}

impl Index {
    fn new(routes: &[Route]) -> Index {
        let mut index = Index::default();
        for (place, route) in routes.iter().enumerate() {
            match &route.matcher.path {
                PathMatch::Exact(path) => index.exact.entry(path.clone()).or_default().push(place),
                PathMatch::Prefix(prefix) => index.prefixes.entry(prefix.clone()).or_default().push(place),
                PathMatch::Any | PathMatch::Regex(_) => index.others.push(place),
            }
        }
        index.lengths = index.prefixes.keys().map(|prefix| prefix.len()).collect();
        index.lengths.sort_unstable();
        index.lengths.dedup();
        index
    }

    /// The lists of places that a path leaves over.
    fn lists(&self, path: &str) -> SmallVec<[&[usize]; 8]> {
        // A prefix that does not end between two characters of the path is none of it.
        let prefixes = self.lengths.iter().map_while(|length| (*length <= path.len()).then(|| path.get(..*length)));
        let prefixes = prefixes.flatten().filter_map(|prefix| self.prefixes.get(prefix));
        self.exact.get(path).into_iter().chain(prefixes).chain([&self.others]).map(Vec::as_slice).collect()
    }
}

/// The places of several lists, in order.
struct Candidates<'a>(SmallVec<[&'a [usize]; 8]>);

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let list = self.0.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list.first().copied())?;
        let (place, rest) = list.split_first()?;
        *list = rest;
        Some(*place)
    }
}

impl From<Vec<Route>> for Routes {
    fn from(routes: Vec<Route>) -> Self {
        let index = (routes.len() > FEW).then(|| Index::new(&routes));
        Routes { routes, index }
    }
}

impl FromIterator<Route> for Routes {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        routes.into_iter().collect::<Vec<_>>().into()
    }
}

impl Deref for Routes {
    type Target = [Route];

    fn deref(&self) -> &[Route] {
        &self.routes
    }
}

impl<'a> IntoIterator for &'a Routes {
    type Item = &'a Route;
    type IntoIter = std::slice::Iter<'a, Route>;

    fn into_iter(self) -> Self::IntoIter {
        self.routes.iter()
    }
}
