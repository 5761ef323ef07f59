//! What else in this process listens, and gives way to what is published: a user's port goes before a convenience.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How long a neighbour may take to close its port.
const GIVES_WAY: Duration = Duration::from_secs(2);

/// Two ends for the gateway, two for who listens: [`Neighbour::new`].
#[derive(Debug, Clone)]
pub struct Neighbour {
    wanted: Arc<watch::Sender<BTreeSet<SocketAddr>>>,
    held: watch::Receiver<Option<SocketAddr>>,
}

/// The ends of who listens and gives way.
#[derive(Debug)]
pub struct Place {
    wanted: watch::Receiver<BTreeSet<SocketAddr>>,
    held: watch::Sender<Option<SocketAddr>>,
}

impl Neighbour {
    pub fn new() -> (Neighbour, Place) {
        let (wanted, told) = watch::channel(BTreeSet::new());
        let (held, tells) = watch::channel(None);
        let wanted = Arc::new(wanted);
        (
            Neighbour {
                wanted,
                held: tells,
            },
            Place { wanted: told, held },
        )
    }

    /// Tells what is to be opened, and waits until none of it is held.
    pub(crate) async fn make_way(&mut self, wanted: BTreeSet<SocketAddr>) {
        self.wanted.send_if_modified(|known| {
            let new = *known != wanted;
            known.clone_from(&wanted);
            new
        });
        let free = |held: &Option<SocketAddr>| held.is_none_or(|h| !clashes(&wanted, h));
        // Nobody is there any more, or too slow: then opening the port tells.
        let _ = tokio::time::timeout(GIVES_WAY, self.held.wait_for(free)).await;
    }
}

impl Place {
    /// Tells what it holds now.
    pub fn holds(&self, address: Option<SocketAddr>) {
        self.held.send_replace(address);
    }

    /// Returns when `address` is wanted (or not wanted any more); never when nobody is there to want it.
    pub async fn until_wanted(&mut self, address: SocketAddr, wanted: bool) {
        let changed = self.wanted.wait_for(|all| clashes(all, address) == wanted);
        if changed.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether `address` can't be listened at beside one of them.
fn clashes(all: &BTreeSet<SocketAddr>, address: SocketAddr) -> bool {
    let (ip, port) = (address.ip(), address.port());
    all.iter().any(|other| {
        other.port() == port
            && (other.ip() == ip || other.ip().is_unspecified() || ip.is_unspecified())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_on_two_addresses() {
        for (wanted, held, want) in [
            ("0.0.0.0:5000", "127.0.0.1:5000", true),
            ("127.0.0.1:5000", "0.0.0.0:5000", true),
            ("127.0.0.1:5000", "127.0.0.1:5000", true),
            ("10.0.0.1:5000", "127.0.0.1:5000", false),
            ("0.0.0.0:5001", "127.0.0.1:5000", false),
        ] {
            let wanted_set = BTreeSet::from([wanted.parse().unwrap()]);
            assert_eq!(
                clashes(&wanted_set, held.parse().unwrap()),
                want,
                "{wanted} {held}"
            );
        }
    }

    #[tokio::test]
    async fn the_port_is_free_when_it_is_opened_and_comes_back() {
        let (mut neighbour, mut place) = Neighbour::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        place.holds(Some(address));
        let holder = tokio::spawn(async move {
            place.until_wanted(address, true).await;
            drop(listener);
            place.holds(None);
            place.until_wanted(address, false).await;
        });
        neighbour.make_way(BTreeSet::from([address])).await;
        std::net::TcpListener::bind(address).unwrap();
        neighbour.make_way(BTreeSet::new()).await;
        holder.await.unwrap();
    }
}
