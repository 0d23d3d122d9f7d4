//! Who listens where: what the proxy would forward to itself, and two listeners for one address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use super::super::upstream::Address;

/// Whether the listeners and the backends are apart from each other.
pub(super) fn check(listen: &[SocketAddr], admin: SocketAddr, upstreams: &[Address]) -> Result<(), String> {
    for (at, one) in listen.iter().enumerate() {
        if let Some(other) = listen[..at].iter().find(|other| is_taken(**other, *one)) {
            return Err(format!(
                "`listen` names {one} although it has {other}: name each address once"
            ));
        }
        if is_taken(*one, admin) {
            return Err(format!(
                "`admin.listen` is {admin}, and `listen` is {one}: operators need an address of their own, with another port"
            ));
        }
    }
    for upstream in upstreams {
        if let Some(own) = listen.iter().find(|own| leads_to(upstream, **own)) {
            return Err(format!(
                "`upstream.url` is {upstream}, where the proxy itself listens (`listen` is {own}): it would forward to itself. Name \
                 the address of the service"
            ));
        }
        if leads_to(upstream, admin) {
            return Err(format!(
                "`upstream.url` is {upstream}, where the proxy listens for operators (`admin.listen` is {admin}): name the address of \
                 the service"
            ));
        }
    }
    Ok(())
}

/// Whether one listener keeps another from its address. A port of 0 is a free one.
fn is_taken(one: SocketAddr, other: SocketAddr) -> bool {
    let is_one_family = one.is_ipv4() == other.is_ipv4();
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || (is_one_family && is_any))
}

/// Whether a backend's address is that of a listener on this machine.
fn leads_to(upstream: &Address, own: SocketAddr) -> bool {
    let Address::Tcp { host, port, .. } = upstream else {
        return false;
    };
    if *port != own.port() {
        return false;
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let named: Vec<IpAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![address.to_canonical()],
        Err(_) if host.eq_ignore_ascii_case("localhost") => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        // Looked up only where the port is one of ours. A name that leads nowhere yet leads to no listener.
        Err(_) => {
            let found = (host, *port).to_socket_addrs();
            found.map_or_else(|_| Vec::new(), |found| found.map(|it| it.ip().to_canonical()).collect())
        }
    };
    named.into_iter().any(|named| {
        let is_here = named.is_loopback() || named.is_unspecified() || is_of_this_machine(named);
        named == own.ip()
            || (own.ip().is_unspecified() && is_here)
            || (named.is_unspecified() && own.ip().is_loopback())
    })
}

/// Whether an address is one of this machine's, which is what a socket can be bound to.
fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}
