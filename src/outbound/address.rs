//! Which addresses are called: public ones, and with consent private and loopback ones; link-local never, since
//! clouds keep their metadata services there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// True when the address may be called.
pub fn permitted(ip: IpAddr, allow_private: bool) -> bool {
    match reach(ip.to_canonical()) {
        Reach::Public => true,
        Reach::Inside => allow_private,
        Reach::Never => false,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    Public,
    Inside,
    Never,
}

fn reach(ip: IpAddr) -> Reach {
    match ip {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    let [a, b, c, _] = ip.octets();
    if a == 0 || a >= 224 || ip.is_link_local() {
        return Reach::Never;
    }
    let shared = a == 100 && (64..128).contains(&b);
    let special = (a, b, c) == (192, 0, 0) || (a == 198 && (b == 18 || b == 19)) || ip.is_documentation();
    if ip.is_private() || ip.is_loopback() || shared || special { Reach::Inside } else { Reach::Public }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    if ip.is_loopback() {
        return Reach::Inside;
    }
    if ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local() {
        return Reach::Never;
    }
    match (s0, s1) {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056) reach the IPv4 address inside them.
        (0x64, 0xff9b) if (s2, s3, s4, s5) == (0, 0, 0, 0) => embedded(s6, s7),
        (0x2002, _) => embedded(s1, s2),
        (0x64, 0xff9b) | (0x2001, 0..=0x01ff | 0x0db8) => Reach::Inside,
        (0..=0x00ff, _) => Reach::Never,
        _ if ip.is_unique_local() => Reach::Inside,
        // Site-local addresses (RFC 3879).
        _ if s0 & 0xffc0 == 0xfec0 => Reach::Inside,
        _ => Reach::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        for (text, outside, consent) in [
            ("93.184.215.14", true, true),
            ("2606:2800:220:1::1", true, true),
            ("127.0.0.1", false, true),
            ("10.1.2.3", false, true),
            ("172.31.0.1", false, true),
            ("192.168.0.1", false, true),
            ("100.64.0.1", false, true),
            ("::1", false, true),
            ("fd00::1", false, true),
            ("::ffff:127.0.0.1", false, true),
            ("64:ff9b::a00:1", false, true),
            ("2002:7f00:1::", false, true),
            ("169.254.169.254", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("64:ff9b::a9fe:a9fe", false, false),
            ("fe80::1", false, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("255.255.255.255", false, false),
            ("224.0.0.1", false, false),
            ("ff02::1", false, false),
        ] {
            let ip = text.parse().unwrap();
            assert_eq!((permitted(ip, false), permitted(ip, true)), (outside, consent), "{text}");
        }
    }
}
