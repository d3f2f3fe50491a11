//! Following a region: the table is loaded, kept current and reported on, by one thread
//! that serves no requests.
//!
//! | part | does |
//! |---|---|
//! | [`source`] | what a region is to a proxy: a trait in the proxy's words |
//! | [`machine`] | decides, without IO: what a message means, what to read next |
//! | [`trust`] | believes what is signed, and counts what is not |
//! | [`driver`] | carries out what the machine decides |
//! | [`load`] | reads those buckets of a region that differ from the table |
//! | [`renewer`] | reports position and uses, and hears the log's head |
//! | [`lookup`] | one secret, asked for by a request that the table cannot answer |
//! | [`status`] | what requests and the admin page see of all this |
//! | [`redis_nats`] | the region as Redis and NATS |

pub mod driver;
mod load;
pub mod lookup;
pub mod machine;
pub mod redis_nats;
pub mod renewer;
pub mod source;
pub mod status;
pub mod trust;

pub use source::{ExactEntry, Message, RegionSource, SourceError};

#[cfg(test)]
mod tests;
