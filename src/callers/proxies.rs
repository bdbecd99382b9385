//! Which proxies are trusted to name the caller: the setting `TRUSTED_PROXIES`.
//!
//! A proxy that terminates mutual TLS before the bridge names its peer in a header. Anyone can send such a header, so the bridge
//! trusts it only from the networks listed here. Proxies do not remove each other's header, so a network can be bound to the
//! one header that its proxies set.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::xfcc;

const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const LINKERD: HeaderName = HeaderName::from_static("l5d-client-id");

/// Networks of trusted proxies. Empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Network {
    addresses: IpNet,
    /// The only header that is trusted from this network. `None` trusts either.
    header: Option<HeaderName>,
}

/// A trusted header is malformed.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable;

impl TrustedProxies {
    /// Parses a comma-separated list of networks: `10.0.0.0/8` or `127.0.0.1=l5d-client-id`.
    ///
    /// # Errors
    ///
    /// - The positions, from 1, of invalid networks.
    pub fn parse(text: &str) -> Result<Self, Vec<usize>> {
        let (mut networks, mut wrong) = (Vec::new(), Vec::new());
        for (part, position) in text.split(',').zip(1..) {
            match parse_network(part.trim()) {
                Some(network) => networks.push(network),
                None => wrong.push(position),
            }
        }
        match wrong.is_empty() {
            true => Ok(Self(networks)),
            false => Err(wrong),
        }
    }

    /// The certificate names that `peer` sends for the caller, one list for each trusted header.
    ///
    /// # Errors
    ///
    /// - [`Unreadable`] if a trusted header is malformed.
    pub fn names(
        &self,
        peer: IpAddr,
        metadata: &HeaderMap,
    ) -> Result<Vec<Vec<String>>, Unreadable> {
        let mut networks = self.0.iter();
        let Some(network) = networks.find(|it| it.addresses.contains(&peer)) else {
            return Ok(Vec::new());
        };
        let is_trusted =
            |name: &HeaderName| network.header.as_ref().is_none_or(|only| only == name);
        let mut named = Vec::new();
        for name in [XFCC, LINKERD].iter().filter(|name| is_trusted(name)) {
            let values = metadata.get_all(name).iter().map(|value| value.to_str());
            let values = values.collect::<Result<Vec<_>, _>>();
            let values = values.map_err(|_| Unreadable)?;
            match values.last() {
                None => {}
                Some(last) if *name == LINKERD => named.push(vec![(*last).to_owned()]),
                Some(_) => named.push(xfcc::last_names(values).ok_or(Unreadable)?),
            }
        }
        Ok(named)
    }
}

fn parse_network(text: &str) -> Option<Network> {
    let (addresses, header) = match text.split_once('=') {
        None => (text, None),
        Some((addresses, header)) => {
            let known = [XFCC, LINKERD].into_iter().find(|name| name == header)?;
            (addresses, Some(known))
        }
    };
    let single = |_| addresses.parse::<IpAddr>().map(IpNet::from);
    let addresses = addresses.parse::<IpNet>().or_else(single).ok()?;
    Some(Network { addresses, header })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, http::HeaderValue::from_static(value))
        });
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name, value);
        }
        map
    }

    fn named(proxies: &str, peer: &str, fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let proxies = TrustedProxies::parse(proxies).expect("networks");
        let names = proxies.names(peer.parse().expect("an address"), &metadata(fields));
        names.expect("readable").concat()
    }

    #[test]
    fn a_header_is_trusted_only_from_a_listed_network() {
        let proxies = "10.0.0.0/8, fd00::/8,127.0.0.6";
        let fields = [("x-forwarded-client-cert", "URI=a"), ("l5d-client-id", "b")];
        for (peer, expected) in [
            ("10.255.0.1", &["a", "b"][..]),
            ("fd00::1", &["a", "b"]),
            ("127.0.0.6", &["a", "b"]),
            ("127.0.0.7", &[]),
            ("11.0.0.1", &[]),
            ("::1", &[]),
        ] {
            assert_eq!(named(proxies, peer, &fields), expected, "{peer}");
        }
        assert_eq!(
            TrustedProxies::default().names([127, 0, 0, 1].into(), &metadata(&fields)),
            Ok(vec![])
        );
    }

    #[test]
    fn a_network_can_be_bound_to_one_header() {
        let proxies = "127.0.0.1=l5d-client-id,127.0.0.2=x-forwarded-client-cert";
        let fields = [("x-forwarded-client-cert", "URI=a"), ("l5d-client-id", "b")];
        assert_eq!(named(proxies, "127.0.0.1", &fields), ["b"]);
        assert_eq!(named(proxies, "127.0.0.2", &fields), ["a"]);
    }

    #[test]
    fn a_malformed_header_differs_from_a_missing_one() {
        let proxies = TrustedProxies::parse("127.0.0.1").expect("a network");
        let names = |fields| proxies.names([127, 0, 0, 1].into(), &metadata(fields));
        assert_eq!(names(&[]), Ok(vec![]));
        assert_eq!(
            names(&[("x-forwarded-client-cert", "URI=\"a")]),
            Err(Unreadable)
        );
    }

    #[test]
    fn invalid_networks_are_reported_by_position() {
        let wrong = TrustedProxies::parse("10.0.0.0/8,host,10.0.0.0/33,,::1,10.0.0.1=x-real-ip");
        assert_eq!(wrong, Err(vec![2, 3, 4, 6]));
    }
}
