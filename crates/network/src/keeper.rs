//! The one thread that speaks to nf_tables.
//!
//! A deletion there waits for a grace period (16 ms), so nobody else should wait with it: changes
//! are left in a mailbox where newer ones replace older ones, and the thread takes all at once.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::{
    Config, Error,
    nft::{
        conntrack,
        elements::{self, Chain, Contents, Edits, Endpoint, Front},
        netlink::{Refusal, Socket},
        ruleset, table,
    },
    place,
    services::{
        fronts,
        view::{Key, View},
    },
    state::State,
};

type Changes = HashMap<Key, Option<Arc<View>>>;

/// Pause after a failed commit, doubled up to the second figure.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// The mailbox: at most one entry a Service.
#[derive(Default)]
struct Mailbox {
    changes: Changes,
    /// `changes` is everything there is.
    whole: bool,
    stop: bool,
}

/// The thread's handle. Dropping it ends the thread and leaves the kernel's table as it is.
pub(crate) struct Keeper {
    mailbox: Arc<(Mutex<Mailbox>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Checks the kernel's table against what `state` remembers, repairs it if need be, and starts
    /// the thread. Blocks for some milliseconds. Works in the node's network namespace.
    pub(crate) fn start(config: Arc<Config>, state: Arc<State>) -> Result<Keeper, Error> {
        let mailbox = Arc::new((Mutex::new(Mailbox::default()), Condvar::new()));
        let (ready_sender, ready) = mpsc::sync_channel(1);
        let shared = mailbox.clone();
        let thread = std::thread::Builder::new()
            .name("knarr-nft".into())
            .stack_size(512 << 10)
            .spawn(move || {
                // The sockets that it opens stay where they are made, and so does this thread.
                let opened =
                    place::enter(config.place.as_ref()).and_then(|()| Table::open(config, state));
                let (answer, table) = match opened {
                    Ok(table) => (Ok(()), Some(table)),
                    Err(error) => (Err(error), None),
                };
                let _ = ready_sender.send(answer);
                if let Some(mut table) = table {
                    work(&mut table, &shared);
                }
            })
            .map_err(|source| Error::Worker(source.to_string()))?;
        ready
            .recv()
            .map_err(|_| Error::Worker("it panicked".into()))??;
        Ok(Keeper {
            mailbox,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Leaves changes for the thread; `whole` says that there is nothing else.
    pub(crate) fn post(&self, whole: bool, changes: Changes) {
        let (mailbox, wake) = &*self.mailbox;
        let mut mailbox = mailbox.lock();
        if whole {
            mailbox.changes = changes;
            mailbox.whole = true;
        } else {
            mailbox.changes.extend(changes);
        }
        wake.notify_one();
    }

    /// Ends the thread and waits for it (at most one commit).
    pub(crate) fn stop(&self) {
        let (mailbox, wake) = &*self.mailbox;
        mailbox.lock().stop = true;
        wake.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let (mailbox, wake) = &*self.mailbox;
        mailbox.lock().stop = true;
        wake.notify_one();
    }
}

fn work(table: &mut Table, shared: &(Mutex<Mailbox>, Condvar)) {
    let (mailbox, wake) = shared;
    let mut retry: Option<Duration> = None;
    loop {
        let (whole, changes) = {
            let mut mailbox = mailbox.lock();
            match retry {
                Some(pause) if !mailbox.stop => drop(wake.wait_for(&mut mailbox, pause)),
                _ => {
                    while !mailbox.stop && mailbox.changes.is_empty() && !mailbox.whole {
                        wake.wait(&mut mailbox);
                    }
                }
            }
            if mailbox.stop {
                return;
            }
            (
                std::mem::take(&mut mailbox.whole),
                std::mem::take(&mut mailbox.changes),
            )
        };
        match table.apply(whole, changes, retry.is_some()) {
            Ok(()) => retry = None,
            Err(error) => {
                let pause = retry.map_or(RETRY.0, |pause| (pause * 2).min(RETRY.1));
                tracing::error!(error = %error.text, ?pause, "Service addresses are not up to date, trying again");
                retry = Some(pause);
            }
        }
    }
}

/// Our table, and what we know it holds.
struct Table {
    config: Arc<Config>,
    state: Arc<State>,
    name: String,
    socket: Socket,
    contents: Contents,
    /// Whose front it is; fronts a former process left have no owner until the first whole post.
    owners: HashMap<Front, Key>,
    fronts_of: HashMap<Key, Vec<Front>>,
}

impl Table {
    fn open(config: Arc<Config>, state: Arc<State>) -> Result<Table, Error> {
        let name = ruleset::table_name(&config.instance);
        let socket = Socket::open().map_err(|error| missing(&Refusal::io("socket", error)))?;
        let mut table = Table {
            config,
            state,
            name,
            socket,
            contents: Contents::default(),
            owners: HashMap::new(),
            fronts_of: HashMap::new(),
        };
        let digests =
            table::digests(&mut table.socket, &table.name).map_err(|refusal| missing(&refusal))?;
        let chains = digests
            .keys()
            .filter_map(|name| Chain::parse(name.strip_prefix("chain ")?))
            .collect::<BTreeSet<_>>();
        if !digests.is_empty() {
            // What can be read of a damaged table is kept: its fronts go on while we rebuild it.
            let read = Contents::read(&mut table.socket, &table.name, chains);
            let (contents, sound) = read.unwrap_or_default();
            table.contents = contents;
            let whole = table
                .contents
                .needed_chains()
                .is_subset(&table.contents.chains);
            if sound && whole && table.state.digests().as_ref() == Some(&digests) {
                return Ok(table);
            }
            tracing::warn!(table = %table.name, "the nf_tables table is not as knarr left it: rebuilding it");
        }
        table.rebuild().map_err(|refusal| missing(&refusal))?;
        if let Ok(dropping) = table::dropping_forward_chains(&mut table.socket, &table.name) {
            for chain in dropping {
                tracing::warn!(%chain, "this nf_tables chain drops forwarded packets, and may keep Pods from reaching each other: accept {:?} there", table.config.pod_cidr);
            }
        }
        Ok(table)
    }

    /// Replaces the whole table, in one transaction, by the rule set and what we know.
    fn rebuild(&mut self) -> Result<(), Refusal> {
        self.contents.chains = self.contents.needed_chains();
        let edits = self.contents.all();
        let config = &self.config;
        let exists = table::tables(&mut self.socket)?.contains(&self.name);
        let small = edits.bytes_max() < self.socket.batch_bytes_max();
        table::commit(&mut self.socket, &self.name, |w| {
            if exists {
                w.delete_table();
            }
            ruleset::write(w, config);
            if small {
                elements::write(w, &edits);
            }
        })?;
        if !small {
            // Only in a user namespace, with thousands of fronts: the rest in portions.
            let fronts = std::mem::take(&mut self.contents).fronts;
            self.contents = Contents::default();
            let wanted = fronts.iter().map(|(front, backends)| {
                (*front, Some((backends.affinity, backends.slots.to_vec())))
            });
            self.commit(wanted.collect())?;
        }
        self.remember()
    }

    /// Notes how the rules look now, for the next `open`.
    fn remember(&mut self) -> Result<(), Refusal> {
        let digests = table::digests(&mut self.socket, &self.name)?;
        if let Err(error) = self.state.set_digests(digests) {
            tracing::warn!(%error, "the next start will rebuild the nf_tables table");
        }
        Ok(())
    }

    /// Brings the kernel up to date; `anew` rebuilds the table first, as after a failure.
    fn apply(&mut self, whole: bool, changes: Changes, anew: bool) -> Result<(), Refusal> {
        let wanted = self.wanted(whole, changes);
        if anew {
            self.rebuild()?;
        }
        let gone = match self.commit(wanted) {
            Ok(gone) => gone,
            Err(refusal) => {
                // Someone changed the table under us: our model stands, the table is made again.
                tracing::warn!(table = %self.name, %refusal.text, "the nf_tables table refused a change: rebuilding it");
                self.rebuild()?;
                return Ok(());
            }
        };
        if !gone.is_empty() {
            match conntrack::forget(&mut self.socket, &gone) {
                Ok(count) => tracing::debug!(count, "forgot UDP flows"),
                Err(refusal) => {
                    tracing::warn!(%refusal.text, "UDP flows to removed endpoints stay until they time out")
                }
            }
        }
        Ok(())
    }

    /// The changes by front: None for those that go.
    fn wanted(
        &mut self,
        whole: bool,
        changes: Changes,
    ) -> HashMap<Front, Option<(bool, Vec<Endpoint>)>> {
        let mut wanted = HashMap::new();
        if whole {
            wanted.extend(self.contents.fronts.keys().map(|front| (*front, None)));
            self.owners.clear();
            self.fronts_of.clear();
        }
        for key in changes.keys() {
            for front in self.fronts_of.remove(key).unwrap_or_default() {
                if self.owners.get(&front) == Some(key) {
                    self.owners.remove(&front);
                    wanted.insert(front, None);
                }
            }
        }
        for (key, view) in changes {
            for (front, affinity, endpoints) in view
                .iter()
                .flat_map(|view| fronts::of(view, self.config.dns_ip))
            {
                wanted.insert(front, Some((affinity, endpoints)));
                self.owners.insert(front, key.clone());
                self.fronts_of.entry(key.clone()).or_default().push(front);
            }
        }
        wanted
    }

    /// Commits the difference, in as few transactions as the kernel's buffer allows (one, outside
    /// a user namespace); answers the UDP endpoints that went.
    fn commit(
        &mut self,
        wanted: HashMap<Front, Option<(bool, Vec<Endpoint>)>>,
    ) -> Result<HashSet<(Front, Endpoint)>, Refusal> {
        let mut gone = HashSet::new();
        let mut edits = Edits::default();
        let mut new_chains = false;
        let mut failed = Ok(());
        // A front that moves keeps its order: first those that go, then those that stay.
        let (going, staying): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|(_, wanted)| wanted.is_none());
        for (front, wanted) in going.into_iter().chain(staying) {
            self.contents.set(
                front,
                wanted
                    .as_ref()
                    .map(|(affinity, endpoints)| (*affinity, &endpoints[..])),
                &mut edits,
            );
            // After a failure the model is still brought to the end: the table is rebuilt from it.
            if failed.is_ok() && edits.bytes_max() + 64 * 1024 > self.socket.batch_bytes_max() {
                failed = self.send(&mut edits, &mut gone, &mut new_chains);
            }
        }
        failed?;
        self.send(&mut edits, &mut gone, &mut new_chains)?;
        if new_chains {
            self.remember()?;
        }
        Ok(gone)
    }

    fn send(
        &mut self,
        edits: &mut Edits,
        gone: &mut HashSet<(Front, Endpoint)>,
        new_chains: &mut bool,
    ) -> Result<(), Refusal> {
        let edits = std::mem::take(edits);
        if edits.is_empty() {
            return Ok(());
        }
        *new_chains |= !edits.new_chains.is_empty();
        table::commit(&mut self.socket, &self.name, |w| elements::write(w, &edits))?;
        let udp = libc::IPPROTO_UDP as u8;
        let moved = |front: &Front, endpoint: &Endpoint| {
            self.contents
                .fronts
                .get(front)
                .is_some_and(|backends| backends.slots.contains(endpoint))
        };
        let removed = edits
            .remove_slots
            .iter()
            .filter(|(front, _, endpoint)| front.protocol == udp && !moved(front, endpoint));
        gone.extend(removed.map(|(front, _, endpoint)| (*front, *endpoint)));
        Ok(())
    }
}

/// Removes the table of an instance; answers whether another instance lives in this namespace.
pub(crate) fn remove_table(config: &Config) -> Result<bool, Error> {
    let name = ruleset::table_name(&config.instance);
    let mut socket = Socket::open().map_err(|error| missing(&Refusal::io("socket", error)))?;
    table::delete(&mut socket, &name).map_err(|refusal| missing(&refusal))?;
    let others = table::tables(&mut socket).map_err(|refusal| missing(&refusal))?;
    Ok(others
        .iter()
        .any(|other| other.starts_with(&ruleset::table_name(""))))
}

/// What a refusal at set-up means to the user.
fn missing(refusal: &Refusal) -> Error {
    match refusal.errno {
        libc::EPERM | libc::EACCES => Error::Denied,
        libc::ENOENT
        | libc::EOPNOTSUPP
        | libc::EPROTONOSUPPORT
        | libc::EAFNOSUPPORT
        | libc::EINVAL => Error::NoNftables {
            detail: refusal.text.clone(),
        },
        _ => Error::Nft(refusal.text.clone()),
    }
}
