//! Finds the addresses of a name. A connection is made to one of the addresses that were checked here: the name is not
//! looked up a second time in between.

use std::{io, net::IpAddr, net::SocketAddr, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::{Reach, address::is_public};

/// Looks names up.
pub trait Resolver: Send + Sync + 'static {
    /// Returns the addresses of a name.
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let name = name.to_owned();
        async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        }
        .boxed()
    }
}

/// A name leads to an address that may not be reached.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("an address is not public")]
pub(crate) struct ClosedAddress;

/// A resolver that refuses names with an address that may not be reached. One such address is enough: whoever answers
/// for the name decides the order of its addresses.
pub(crate) struct Guarded {
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) reach: Reach,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (found, reach) = (self.resolver.resolve(name.as_str()), self.reach);
        Box::pin(async move {
            let found = found.await?;
            if reach == Reach::Public && !found.iter().all(|address| is_public(*address)) {
                return Err(ClosedAddress.into());
            }
            // The port is that of the URL.
            let addresses: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}
