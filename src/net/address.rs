//! Socket addresses: on the network, or in the file system.

use core::net::{SocketAddr, SocketAddrV4};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The address of a listener or of a peer.
///
/// It prints as `127.0.0.1:8888`, as `unix:` and a path, or as `unix:@` and an abstract name.
/// Characters that a peer may have chosen are escaped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// TCP, over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix domain socket, with its path if it has one. A client's socket usually has none.
    Unix(Option<Arc<Path>>),
    /// A Unix domain socket in Linux's abstract namespace, with its name. The name is no path, and
    /// may be any bytes.
    Abstract(Arc<[u8]>),
}

impl Address {
    /// Makes the address of a Unix domain socket at this path.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Address::Unix(Some(path.into().into()))
    }

    /// Returns the TCP address; `None` for a Unix domain socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(addr) => Some(*addr),
            Address::Unix(_) | Address::Abstract(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Address::Tcp(addr)
    }
}

/// An address as a connection stores it. An IPv4 address takes two words; other addresses are
/// behind a pointer.
#[derive(Debug)]
pub(crate) enum PackedAddress {
    V4(SocketAddrV4),
    Other(Box<Address>),
}

impl PackedAddress {
    /// Returns the address in its public form.
    pub(crate) fn unpack(&self) -> Address {
        match self {
            Self::V4(addr) => Address::Tcp(SocketAddr::V4(*addr)),
            Self::Other(addr) => Address::clone(addr),
        }
    }
}

impl From<&Address> for PackedAddress {
    fn from(addr: &Address) -> Self {
        match addr {
            Address::Tcp(SocketAddr::V4(addr)) => Self::V4(*addr),
            other => Self::Other(Box::new(other.clone())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => addr.fmt(f),
            Address::Unix(Some(path)) => {
                write!(f, "unix:{}", path.display().to_string().escape_debug())
            }
            Address::Unix(None) => write!(f, "unix:(unnamed)"),
            Address::Abstract(name) => {
                write!(f, "unix:@{}", String::from_utf8_lossy(name).escape_debug())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_as_small_as_a_tcp_address() {
        assert_eq!(size_of::<Address>(), size_of::<SocketAddr>());
        assert_eq!(size_of::<PackedAddress>(), 16);
    }

    #[test]
    fn packed_address_unpacks_to_the_same_address() {
        let tcp = ["127.0.0.1:1", "[::1]:2"]
            .map(|addr| Address::from(addr.parse::<SocketAddr>().expect("an address")));
        for addr in tcp.into_iter().chain([
            Address::unix("/tmp/s"),
            Address::Unix(None),
            Address::Abstract((*b"s").into()),
        ]) {
            assert_eq!(PackedAddress::from(&addr).unpack(), addr);
        }
    }

    #[test]
    fn control_characters_in_addresses_are_escaped() {
        assert_eq!(
            Address::unix("/tmp/a\nb\x1b").to_string(),
            "unix:/tmp/a\\nb\\u{1b}"
        );
        assert_eq!(
            Address::Abstract((*b"a\0\nb").into()).to_string(),
            "unix:@a\\0\\nb"
        );
        assert_eq!(
            Address::from(SocketAddr::from(([127, 0, 0, 1], 8888))).to_string(),
            "127.0.0.1:8888"
        );
    }
}
