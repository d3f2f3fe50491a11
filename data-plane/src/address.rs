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

/// Whether `address` may be connected to.
pub fn may_connect(address: SocketAddr, allowance: Allowance) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(may_connect("127.0.0.1:9000".parse().unwrap(), exempt));
        assert!(!may_connect("127.0.0.1:9001".parse().unwrap(), exempt));
        assert!(!may_connect("127.0.0.2:9000".parse().unwrap(), exempt));
        assert!(may_connect("1.1.1.1:9001".parse().unwrap(), exempt));
    }
}
