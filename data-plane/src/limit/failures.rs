//! Addresses that present keys which are none.
//!
//! Guessing is hopeless by itself (30 secret characters and a checksum), so this only
//! keeps the noise down. Only failed keys count; a known key is never refused for its
//! address. Memory is bounded: when it is full, the address that failed longest ago is
//! forgotten.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;

/// Addresses that are remembered at most.
const ADDRESSES_MAX: usize = 65_536;

/// The budget of failures of each address. It is touched only when a key fails, never on
/// the path of a good one, so a lock is right.
#[derive(Debug)]
pub struct Failures {
    failures_max: usize,
    window_ms: u64,
    block_ms: u64,
    addresses: Mutex<HashMap<IpAddr, Record>>,
}

#[derive(Debug, Default)]
struct Record {
    /// When the failures within the window happened, oldest first.
    at_ms: VecDeque<u64>,
    blocked_until_ms: u64,
}

// === impl Failures ===

impl Failures {
    /// `failures_max` failures within `window_ms` block an address for `block_ms`.
    pub fn new(failures_max: usize, window_ms: u64, block_ms: u64) -> Self {
        Self {
            failures_max,
            window_ms,
            block_ms,
            addresses: Mutex::new(HashMap::new()),
        }
    }

    /// Milliseconds for which the address is still blocked.
    pub fn blocked_ms(&self, address: IpAddr, now_ms: u64) -> Option<u64> {
        let addresses = self.lock();
        let left_ms = addresses
            .get(&subscriber(address))?
            .blocked_until_ms
            .saturating_sub(now_ms);
        (left_ms > 0).then_some(left_ms)
    }

    /// Counts one failure.
    pub fn count(&self, address: IpAddr, now_ms: u64) {
        let mut addresses = self.lock();
        let address = subscriber(address);
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            self.make_room(&mut addresses, now_ms);
        }
        let record = addresses.entry(address).or_default();
        let since_ms = now_ms.saturating_sub(self.window_ms);
        while record.at_ms.front().is_some_and(|&at| at < since_ms) {
            record.at_ms.pop_front();
        }
        record.at_ms.push_back(now_ms);
        if record.at_ms.len() >= self.failures_max {
            record.at_ms.clear();
            record.blocked_until_ms = now_ms + self.block_ms;
        }
    }

    fn make_room(&self, addresses: &mut HashMap<IpAddr, Record>, now_ms: u64) {
        let since_ms = now_ms.saturating_sub(self.window_ms);
        addresses.retain(|_, it| {
            it.blocked_until_ms > now_ms || it.at_ms.back().is_some_and(|&at| at >= since_ms)
        });
        if addresses.len() < ADDRESSES_MAX {
            return;
        }
        // An eighth at a time, so that a flood of addresses does not search each time.
        let mut ages: Vec<(u64, IpAddr)> = addresses
            .iter()
            .map(|(&address, it)| {
                let last_ms = it.at_ms.back().copied().unwrap_or(0);
                (last_ms.max(it.blocked_until_ms), address)
            })
            .collect();
        let (oldest, ..) = ages.select_nth_unstable(ADDRESSES_MAX / 8);
        for (_, address) in oldest {
            addresses.remove(address);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, Record>> {
        self.addresses
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What one subscriber holds: an IPv4 address, or a whole IPv6 /64.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Failures {
        Failures::new(3, 60_000, 300_000)
    }

    #[test]
    fn the_last_failure_of_the_budget_blocks_for_the_whole_time() {
        let failures = budget();
        let address = "192.0.2.1".parse().unwrap();
        failures.count(address, 0);
        failures.count(address, 100);
        assert_eq!(failures.blocked_ms(address, 150), None);
        failures.count(address, 200);
        assert_eq!(failures.blocked_ms(address, 200), Some(300_000));
        assert_eq!(failures.blocked_ms(address, 300_199), Some(1));
        assert_eq!(failures.blocked_ms(address, 300_200), None);
        assert_eq!(failures.blocked_ms("192.0.2.2".parse().unwrap(), 200), None);
    }

    #[test]
    fn failures_outside_the_window_do_not_add_up() {
        let failures = budget();
        let address = "192.0.2.1".parse().unwrap();
        for at_ms in [0, 40_000, 80_000, 120_001, 160_002] {
            failures.count(address, at_ms);
        }
        assert_eq!(failures.blocked_ms(address, 160_002), None);
    }

    #[test]
    fn ipv6_counts_by_64_and_mapped_addresses_as_ipv4() {
        let failures = budget();
        for address in ["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::"] {
            failures.count(address.parse().unwrap(), 0);
        }
        assert!(
            failures
                .blocked_ms("2001:db8:0:1:9::".parse().unwrap(), 1)
                .is_some()
        );
        assert!(
            failures
                .blocked_ms("2001:db8:0:2::1".parse().unwrap(), 1)
                .is_none()
        );

        for _ in 0..3 {
            failures.count("::ffff:192.0.2.9".parse().unwrap(), 0);
        }
        assert!(
            failures
                .blocked_ms("192.0.2.9".parse().unwrap(), 1)
                .is_some()
        );
    }

    #[test]
    fn memory_is_bounded() {
        let failures = budget();
        for n in 0..(ADDRESSES_MAX as u32 + 5_000) {
            failures.count(IpAddr::from(n.to_be_bytes()), u64::from(n / 100));
        }
        assert!(failures.lock().len() <= ADDRESSES_MAX);
        let last = ADDRESSES_MAX as u32 + 4_999;
        assert!(
            failures
                .lock()
                .contains_key(&IpAddr::from(last.to_be_bytes()))
        );
    }
}
