//! Which addresses a proxy may connect to.
//!
//! A target names a host; what that host resolves to is somebody else's word. So every
//! address of an answer is judged by its bits before the first connection, and the
//! connection goes to exactly the address that was judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Blocks of IPv4 that are not somebody's public host (RFC 6890 and the IANA registry).
const V4_NOT_PUBLIC: &[([u8; 4], u32)] = &[
    ([0, 0, 0, 0], 8),        // "this network", RFC 791
    ([10, 0, 0, 0], 8),       // private, RFC 1918
    ([100, 64, 0, 0], 10),    // carrier-grade NAT, RFC 6598; a cloud's metadata lives here too
    ([127, 0, 0, 0], 8),      // loopback
    ([169, 254, 0, 0], 16),   // link-local and cloud metadata, RFC 3927
    ([172, 16, 0, 0], 12),    // private, RFC 1918
    ([192, 0, 0, 0], 24),     // protocol assignments, RFC 6890
    ([192, 0, 2, 0], 24),     // documentation, RFC 5737
    ([192, 31, 196, 0], 24),  // AS112, RFC 7535
    ([192, 52, 193, 0], 24),  // AMT, RFC 7450
    ([192, 88, 99, 0], 24),   // 6to4 relays, RFC 7526
    ([192, 168, 0, 0], 16),   // private, RFC 1918
    ([192, 175, 48, 0], 24),  // AS112, RFC 7534
    ([198, 18, 0, 0], 15),    // benchmarks, RFC 2544
    ([198, 51, 100, 0], 24),  // documentation, RFC 5737
    ([203, 0, 113, 0], 24),   // documentation, RFC 5737
    ([168, 63, 129, 16], 32), // a cloud's metadata and DNS on a public address
    ([224, 0, 0, 0], 4),      // multicast, RFC 5771
    ([240, 0, 0, 0], 4),      // reserved and broadcast, RFC 1112
];

/// Blocks inside 2000::/3 that are not somebody's public host. All outside 2000::/3 is
/// not public anyway: loopback, link-local, unique local, site-local, multicast.
const V6_NOT_PUBLIC: &[([u16; 8], u32)] = &[
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), // protocol assignments with Teredo, RFC 4380
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), // documentation, RFC 3849
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), // 6to4: any IPv4 address inside, RFC 3056
    ([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), // AS112, RFC 7534
    ([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16), // the ended 6bone, RFC 3701
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), // documentation, RFC 9637
];

/// What may be connected to beside public addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Allowance {
    /// Any address at all: the configuration and the target both say so.
    pub private: bool,
    /// One address and port.
    pub exempt: Option<SocketAddr>,
}

/// Whether the address is a public host's. IPv4 inside IPv6 (mapped, compatible, NAT64)
/// is judged by the IPv4 address.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4_is_public(v4),
        IpAddr::V6(v6) => v6_is_public(v6),
    }
}

/// Whether the rules allow `address`; what they cannot know is in [`reach`](crate::reach).
pub fn is_allowed(address: SocketAddr, allowance: Allowance) -> bool {
    allowance.private || allowance.exempt == Some(address) || is_public(address.ip())
}

fn v4_is_public(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    !V4_NOT_PUBLIC
        .iter()
        .any(|&(block, length)| (bits ^ u32::from_be_bytes(block)).leading_zeros() >= length)
}

fn v6_is_public(address: Ipv6Addr) -> bool {
    if let Some(inner) = v4_inside(address) {
        return v4_is_public(inner);
    }
    if isatap_inside(address).is_some_and(|inner| !v4_is_public(inner)) {
        return false;
    }
    let bits = address.to_bits();
    bits >> 125 == 0b001
        && !V6_NOT_PUBLIC.iter().any(|&(block, length)| {
            (bits ^ Ipv6Addr::from(block).to_bits()).leading_zeros() >= length
        })
}

/// The IPv4 address that packets to this address would reach.
fn v4_inside(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, ..] = address.segments();
    let low = Ipv4Addr::from_bits(address.to_bits() as u32);
    match [a, b, c, d, e, f] {
        // Mapped, RFC 4291.
        [0, 0, 0, 0, 0, 0xffff] => Some(low),
        // NAT64, RFC 6052.
        [0x64, 0xff9b, 0, 0, 0, 0] => Some(low),
        _ => None,
    }
}

/// The IPv4 address that a router of ISATAP (RFC 5214) takes out of the lower half,
/// whatever the upper half is.
fn isatap_inside(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments()[4..6] {
        [0 | 0x0200, 0x5efe] => Some(Ipv4Addr::from_bits(address.to_bits() as u32)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each block is not public from its first to its last address, and what lies around
    /// it is, unless another block begins there.
    #[test]
    fn the_edges_of_every_block() {
        let is_outside_v4 = |bits: u32| {
            !V4_NOT_PUBLIC.iter().any(|&(block, length)| {
                (bits ^ u32::from_be_bytes(block)).leading_zeros() >= length
            })
        };
        for &(block, length) in V4_NOT_PUBLIC {
            let first = u32::from_be_bytes(block);
            let last = first | u32::MAX.checked_shr(length).unwrap_or(0);
            for inside in [first, last] {
                let address = Ipv4Addr::from_bits(inside);
                assert!(!is_public(address.into()), "{address}");
                assert!(!is_public(address.to_ipv6_mapped().into()), "{address}");
            }
            for around in [first.checked_sub(1), last.checked_add(1)] {
                let Some(bits) = around else { continue };
                let address = Ipv4Addr::from_bits(bits);
                assert_eq!(is_public(address.into()), is_outside_v4(bits), "{address}");
            }
        }
        for &(block, length) in V6_NOT_PUBLIC {
            let first = Ipv6Addr::from(block).to_bits();
            let last = first | u128::MAX >> length;
            for inside in [first, last] {
                let address = Ipv6Addr::from_bits(inside);
                assert!(!is_public(address.into()), "{address}");
            }
        }
    }

    /// What lies beside a block is named by hand, so that a block that is too wide shows.
    #[test]
    fn what_lies_beside_the_blocks_is_public() {
        for beside in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.1.255",
            "192.0.3.0",
            "192.31.195.255",
            "192.31.197.0",
            "192.52.192.255",
            "192.52.194.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "192.175.47.255",
            "192.175.49.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2000::",
            "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:200::",
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db9::",
            "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2003::",
            "2620:4f:7fff:ffff:ffff:ffff:ffff:ffff",
            "2620:4f:8001::",
            "3ffd:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff:1000::",
            "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            let address: IpAddr = beside.parse().unwrap();
            assert!(is_public(address), "{beside}");
        }
        for outside in ["1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "4000::"] {
            let address: IpAddr = outside.parse().unwrap();
            assert!(!is_public(address), "{outside}");
        }
    }

    /// Every way of writing an IPv4 address into an IPv6 one that leads to it.
    #[test]
    fn an_address_inside_another_is_judged_too() {
        for (v4, expected) in [("8.8.8.8", true), ("127.0.0.1", false), ("10.1.2.3", false)] {
            let v4: Ipv4Addr = v4.parse().unwrap();
            let [a, b, c, d] = v4.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let check = |text: String, expected: bool| {
                let address: IpAddr = text.parse().unwrap();
                assert_eq!(is_public(address), expected, "{text}");
            };
            check(format!("::ffff:{v4}"), expected);
            check(format!("64:ff9b::{v4}"), expected);
            check(format!("2a00:1450::5efe:{v4}"), expected);
            check(format!("2a00:1450::200:5efe:{v4}"), expected);
            // These are never used towards a public host.
            check(format!("::{v4}"), false);
            check(format!("::ffff:0:{v4}"), false);
            check(format!("64:ff9b:1::{v4}"), false);
            check(format!("2002:{high:x}:{low:x}::1"), false);
            check(format!("2001:0:{high:x}:{low:x}::"), false);
            check(format!("2001::{:x}:{:x}", !high, !low), false);
            check(format!("fe80::5efe:{v4}"), false);
        }
    }

    #[test]
    fn public_and_not() {
        let check = |text: &str, expected: bool| {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(is_public(address), expected, "{text}");
        };
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450:4001::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            check(public, true);
        }
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            check(private, false);
        }
    }

    #[test]
    fn the_exempt_address_is_exactly_one() {
        let exempt = Allowance {
            private: false,
            exempt: Some("127.0.0.1:9000".parse().unwrap()),
        };
        assert!(is_allowed("127.0.0.1:9000".parse().unwrap(), exempt));
        assert!(!is_allowed("127.0.0.1:9001".parse().unwrap(), exempt));
        assert!(!is_allowed("127.0.0.2:9000".parse().unwrap(), exempt));
        assert!(is_allowed("1.1.1.1:9001".parse().unwrap(), exempt));
    }
}
