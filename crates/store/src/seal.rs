//! Values that may only be written to disk in another form.

use std::borrow::Cow;

use crate::frame::Logged;

/// Turns values into what is on disk and back. In memory, values are as they were committed: reads and watches cost
/// nothing, and whoever reads this process's memory finds the key there, too.
///
/// Both calls are made by the store's own threads; they must not block.
pub trait Sealer: Send + Sync + 'static {
    /// What to write for a value; None: the value as it is. It may be longer by [`SEAL_BYTES_MAX`].
    fn seal(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, String>;
    /// The value of what was written. Err says why it can't be had, and what to do.
    fn unseal(&self, key: &str, written: &[u8]) -> Result<Unsealed, String>;
}

/// Bytes that sealing may add to a value: a key that is sealed itself may come with it.
pub const SEAL_BYTES_MAX: usize = 2048;

/// What [`Sealer::unseal`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsealed {
    /// The value; None: it was written as it is.
    pub value: Option<Vec<u8>>,
    /// It would be written differently now (another key, or not sealed at all): the store writes everything anew, and
    /// removes what it had, before it is open.
    pub stale: bool,
}

/// What to write for a value.
pub(crate) fn seal<'a>(
    sealer: Option<&dyn Sealer>,
    key: &str,
    value: &'a [u8],
) -> Result<Cow<'a, [u8]>, String> {
    let sealed = match sealer {
        Some(sealer) => sealer.seal(key, value)?,
        None => None,
    };
    Ok(sealed.map_or(Cow::Borrowed(value), Cow::Owned))
}

/// Reads back what was written, and notes whether any of it is stale.
pub(crate) struct Opener<'a> {
    pub(crate) sealer: Option<&'a dyn Sealer>,
    pub(crate) stale: bool,
}

impl Opener<'_> {
    /// Notes whether an operation that isn't needed any more is stale. One that can't be read is: its key is gone.
    pub(crate) fn look(&mut self, op: &Logged<'_>) {
        let (key, written) = match *op {
            Logged::Put { key, value } => (key, value),
            Logged::Delete {
                key,
                last: Some(last),
            } => (key, last),
            Logged::Delete { last: None, .. } => return,
        };
        if let Some(sealer) = self.sealer {
            self.stale |= sealer.unseal(key, written).map_or(true, |u| u.stale);
        }
    }

    pub(crate) fn open(&mut self, key: &str, written: &[u8]) -> Result<bytes::Bytes, String> {
        let Some(sealer) = self.sealer else {
            return Ok(bytes::Bytes::copy_from_slice(written));
        };
        let unsealed = sealer.unseal(key, written)?;
        self.stale |= unsealed.stale;
        Ok(match unsealed.value {
            Some(value) => value.into_boxed_slice().into(),
            None => bytes::Bytes::copy_from_slice(written),
        })
    }
}
