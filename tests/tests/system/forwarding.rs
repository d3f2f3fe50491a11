//! What passes through a proxy, both ways, whatever the client and the upstream do.

mod drain;
mod slow;
