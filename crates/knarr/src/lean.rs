//! Lets go of what a platform at rest doesn't need: pages of the program that its start or somebody's requests touched, and
//! whole pages of the heap that nobody has anything in.
//!
//! The kernel maps a file's pages sixteen at a time around each one touched, and keeps them mapped. The start, and each
//! new kind of request, touch far more of the program than an idle platform does; what is needed again comes back from
//! the page cache, without a read from disk.

use std::{ops::Range, os::unix::fs::FileExt, time::Duration};

/// How long after its start the platform no longer needs what only the start did.
const SETTLED: Duration = Duration::from_secs(10);
/// How often it is looked whether the platform rests.
const EVERY: Duration = Duration::from_secs(30);
/// The platform rests when it used less than this of a processor since the last look: half a percent of a core.
const REST: Duration = Duration::from_millis(150);

/// Lets go after the start, and then whenever the platform rests. Ends never.
pub(crate) async fn stay_lean() {
    tokio::time::sleep(SETTLED).await;
    let mut before = None;
    loop {
        let used = processor_time();
        let rests = before.is_none_or(|before| used.saturating_sub(before) < REST);
        before = Some(used);
        if rests {
            let _ = tokio::task::spawn_blocking(let_go).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What this process has used of the processors since its start.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Takes some milliseconds; not for the async runtime.
fn let_go() {
    trim_the_heap();
    forget_the_program();
}

/// Gives free pages of all the heaps back, not only those at their ends.
fn trim_the_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the allocator's own function; it takes the heaps' locks.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The private mappings of files that nobody writes to, from the text of `/proc/self/maps`.
fn read_only(maps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(access)) = (words.next(), words.next()) else {
            continue;
        };
        let file = words.nth(3).is_some_and(|path| path.starts_with('/'));
        let Some((from, to)) = range.split_once('-') else {
            continue;
        };
        let (Ok(from), Ok(to)) = (
            usize::from_str_radix(from, 16),
            usize::from_str_radix(to, 16),
        ) else {
            continue;
        };
        if file && matches!(access, "r-xp" | "r--p") {
            found.push(from..to);
        }
    }
    found
}

/// Runs of pages that are in memory and the file's, from entries of `/proc/self/pagemap`. One that was changed (the loader's
/// tables) exists nowhere else.
fn unchanged(entries: &[u64]) -> Vec<Range<usize>> {
    /// `PM_PRESENT` and `PM_FILE`, Documentation/admin-guide/mm/pagemap.rst
    const HERE: u64 = 1 << 63 | 1 << 61;
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (page, _) in entries
        .iter()
        .enumerate()
        .filter(|(_, e)| *e & HERE == HERE)
    {
        match runs.last_mut() {
            Some(run) if run.end == page => run.end += 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}

fn page_size() -> usize {
    // SAFETY: asks for a number that never changes.
    #[allow(unsafe_code)]
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// Drops those pages from this process's memory. Nothing is lost but memory when `/proc` can't be read.
fn forget_the_program() {
    let page = page_size();
    let (Ok(maps), Ok(pagemap)) = (
        std::fs::read_to_string("/proc/self/maps"),
        std::fs::File::open("/proc/self/pagemap"),
    ) else {
        return;
    };
    for range in read_only(&maps) {
        let mut bytes = vec![0; range.len() / page * size_of::<u64>()];
        let at = (range.start / page * size_of::<u64>()) as u64;
        if pagemap.read_exact_at(&mut bytes, at).is_err() {
            continue;
        }
        let (entries, _) = bytes.as_chunks();
        let entries: Vec<u64> = entries.iter().map(|e| u64::from_ne_bytes(*e)).collect();
        for run in unchanged(&entries) {
            let from = range.start + run.start * page;
            // SAFETY: pages of a private mapping of a file, without write access and unchanged: what is dropped is read
            // from the same file again, byte for byte, when it is next touched.
            #[allow(unsafe_code)]
            let _ = unsafe {
                rustix::mm::madvise(
                    from as *mut _,
                    run.len() * page,
                    rustix::mm::Advice::LinuxDontNeed,
                )
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_read_only_files_are_let_go() {
        let maps = "\
00400000-00500000 r--p 00000000 fe:00 12                       /usr/bin/knarr
00500000-00600000 r-xp 00100000 fe:00 12                       /usr/bin/knarr
00610000-00620000 rw-p 00210000 fe:00 12                       /usr/bin/knarr
01000000-01100000 rw-p 00000000 00:00 0                        [heap]
7f0000000000-7f0000001000 r-xp 00000000 00:00 0                [vdso]
7f0000001000-7f0000002000 r--p 00000000 00:00 0
7f0000002000-7f0000003000 r--s 00000000 fe:00 13               /var/lib/shared
";
        assert_eq!(read_only(maps), [0x400000..0x500000, 0x500000..0x600000]);
    }

    #[test]
    fn only_unchanged_pages_are_let_go() {
        const FILE: u64 = 1 << 63 | 1 << 61;
        const CHANGED: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62 | 1 << 61;
        let entries = [0, FILE | 7, FILE, CHANGED, FILE, SWAPPED, 0];
        assert_eq!(unchanged(&entries), [1..3, 4..5]);
    }

    #[test]
    fn the_program_goes_on() {
        let_go();
        assert!(std::fs::read_to_string("/proc/self/maps").is_ok());
    }
}
