//! The commands but `demo`: each a page that calls a library and prints what it says.

pub(crate) mod authz;
pub(crate) mod ca;
pub(crate) mod check;
pub(crate) mod control;
pub(crate) mod explain;
pub(crate) mod identity;
pub(crate) mod inject;
pub(crate) mod install;
pub(crate) mod route_tests;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod tap;
pub(crate) mod token;
pub(crate) mod traffic;
