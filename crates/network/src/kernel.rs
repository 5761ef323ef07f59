//! One family's table of Services in the kernel, and what we know it holds.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use crate::{
    Config, Error,
    fronts::Changes,
    nft::{
        conntrack::{self, Gone},
        contents::{Contents, Edits},
        elements,
        family::Family,
        front::{Chain, Front},
        netlink::{Refusal, Socket},
        ruleset::{self, Plan},
        table,
    },
    state::State,
};

pub(crate) struct Kernel {
    plan: Plan,
    state: Arc<State>,
    name: String,
    socket: Socket,
    contents: Contents,
}

impl Kernel {
    /// Takes over the table, or makes it (anew when it isn't as it was left).
    pub(crate) fn open(config: &Config, plan: Plan, state: Arc<State>) -> Result<Kernel, Error> {
        let name = ruleset::table_name(&config.instance);
        let socket = Socket::open().map_err(|error| missing(&Refusal::io("socket", error)))?;
        let mut kernel = Kernel {
            contents: Contents::new(plan.pods),
            plan,
            state,
            name,
            socket,
        };
        let family = kernel.plan.family;
        let digests = kernel.digests().map_err(|refusal| missing(&refusal))?;
        let chains = digests
            .keys()
            .filter_map(|name| Chain::parse(name.strip_prefix("chain ")?))
            .collect::<BTreeSet<_>>();
        if !digests.is_empty() {
            // What can be read of a damaged table is kept: its fronts go on while we rebuild it.
            let empty = Contents::new(kernel.plan.pods);
            let read = elements::read(&mut kernel.socket, family, &kernel.name, empty, chains);
            if let Ok((contents, sound)) = read {
                kernel.contents = contents;
                let whole = kernel
                    .contents
                    .needed_chains()
                    .is_subset(&kernel.contents.chains);
                if sound && whole && kernel.state.digests(family).as_ref() == Some(&digests) {
                    return Ok(kernel);
                }
            }
            tracing::warn!(table = %kernel.name, "the nf_tables table is not as knarr left it: rebuilding it");
        }
        kernel.rebuild().map_err(|refusal| missing(&refusal))?;
        if let Ok(dropping) =
            table::dropping_forward_chains(&mut kernel.socket, &ruleset::table_name(""))
            && family == Family::V4
        {
            for chain in dropping {
                tracing::warn!(%chain, "this nf_tables chain drops forwarded packets, and may keep Pods from reaching each other: accept {:?} there", kernel.plan.pods);
            }
        }
        Ok(kernel)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn fronts(&self) -> impl Iterator<Item = &Front> {
        self.contents.fronts.keys()
    }

    /// Replaces the whole table, in one transaction, by the rule set and what we know.
    fn rebuild(&mut self) -> Result<(), Refusal> {
        let family = self.plan.family;
        self.contents.chains = self.contents.needed_chains();
        let edits = self.contents.all();
        let plan = &self.plan;
        let exists = table::tables(&mut self.socket, family)?.contains(&self.name);
        let small = edits.bytes_max() < self.socket.batch_bytes_max();
        table::commit(&mut self.socket, family, &self.name, |w| {
            if exists {
                w.delete_table();
            }
            ruleset::write(w, plan);
            if small {
                elements::write(w, &edits);
            }
        })?;
        if !small {
            // Only in a user namespace, with thousands of fronts: the rest in portions.
            let empty = Contents::new(self.plan.pods);
            let fronts = std::mem::replace(&mut self.contents, empty).fronts;
            let wanted = fronts.into_iter().map(|(front, backends)| {
                let wanted = crate::nft::front::Wanted {
                    sticky_seconds: backends.sticky_seconds,
                    endpoints: backends.slots.to_vec(),
                    barred: backends.barred,
                };
                (front, Some(wanted))
            });
            self.commit(&wanted.collect())?;
        }
        self.remember()
    }

    /// How the rules look in the kernel, and which version of them this program writes.
    fn digests(&mut self) -> Result<BTreeMap<String, u64>, Refusal> {
        let mut all = table::digests(&mut self.socket, self.plan.family, &self.name)?;
        if !all.is_empty() {
            all.insert("version".into(), ruleset::VERSION);
        }
        Ok(all)
    }

    /// Notes how the rules look now, for the next `open`.
    fn remember(&mut self) -> Result<(), Refusal> {
        let digests = self.digests()?;
        if let Err(error) = self.state.set_digests(self.plan.family, digests) {
            tracing::warn!(%error, "the next start will rebuild the nf_tables table");
        }
        Ok(())
    }

    /// Brings the kernel up to date; `anew` rebuilds the table first, as after a failure.
    pub(crate) fn apply(&mut self, wanted: &Changes, anew: bool) -> Result<(), Refusal> {
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
            match conntrack::forget(&mut self.socket, self.plan.family, &gone) {
                Ok(count) => tracing::debug!(count, "forgot UDP flows"),
                Err(refusal) => {
                    tracing::warn!(%refusal.text, "UDP flows to removed endpoints stay until they time out")
                }
            }
        }
        Ok(())
    }

    /// Commits the difference, in as few transactions as the kernel's buffer allows (one, outside
    /// a user namespace); answers the UDP flows that lead nowhere now.
    fn commit(&mut self, wanted: &Changes) -> Result<HashSet<Gone>, Refusal> {
        let mut gone = HashSet::new();
        let mut edits = Edits::default();
        let mut new_chains = false;
        let mut failed = Ok(());
        let ours = wanted
            .iter()
            .filter(|(front, _)| front.family() == self.plan.family);
        // An element that moves must be gone before it comes: first those that go, then those that stay.
        let (going, staying): (Vec<_>, Vec<_>) = ours.partition(|(_, wanted)| wanted.is_none());
        for (front, wanted) in going.into_iter().chain(staying) {
            self.contents.set(*front, wanted.as_ref(), &mut edits);
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
        gone: &mut HashSet<Gone>,
        new_chains: &mut bool,
    ) -> Result<(), Refusal> {
        let edits = std::mem::take(edits);
        if edits.is_empty() {
            return Ok(());
        }
        *new_chains |= !edits.new_chains.is_empty();
        table::commit(&mut self.socket, self.plan.family, &self.name, |w| {
            elements::write(w, &edits)
        })?;
        let udp = |front: &Front| front.is_rest() || front.protocol == libc::IPPROTO_UDP as u8;
        let fronts = &self.contents.fronts;
        let serves = |front: &Front| fronts.get(front).is_some_and(|b| !b.slots.is_empty());
        let moved = |front: &Front, endpoint| {
            fronts
                .get(front)
                .is_some_and(|backends| backends.slots.contains(endpoint))
        };
        let removed = edits.remove_slots.iter();
        gone.extend(
            removed
                .filter(|(front, _, endpoint)| udp(front) && !moved(front, endpoint))
                .map(|(front, _, endpoint)| (*front, Some(*endpoint))),
        );
        // A front that begins to serve: flows that went nowhere, or to this node's own socket, must not go on so.
        let added = edits.add_fronts.iter().map(|(front, _)| front);
        gone.extend(
            added
                .filter(|front| udp(front) && serves(front))
                .map(|front| (*front, None)),
        );
        Ok(())
    }
}

/// What a refusal at set-up means to the user.
pub(crate) fn missing(refusal: &Refusal) -> Error {
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
