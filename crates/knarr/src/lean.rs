//! Lets go of the program's own pages that only its start needed.
//!
//! The kernel maps a file's pages sixteen at a time around each one touched, and keeps them mapped. The start touches far
//! more of the program than an idle platform does; what is needed again comes back from the page cache.

use std::ops::Range;

/// The mappings of files that nobody writes to and of which no page was ever changed, from the text of `smaps`.
fn untouched(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut current: Option<Range<usize>> = None;
    for line in smaps.lines() {
        if let Some(bytes) = line.strip_prefix("Anonymous:") {
            // a page that was changed (the loader's tables) exists nowhere else
            if bytes.trim() == "0 kB" {
                found.extend(current.take());
            }
            current = None;
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(access)) = (words.next(), words.next()) else {
            continue;
        };
        let Some((from, to)) = range.split_once('-') else {
            continue;
        };
        let (Ok(from), Ok(to)) = (
            usize::from_str_radix(from, 16),
            usize::from_str_radix(to, 16),
        ) else {
            continue;
        };
        let file = words.nth(3).is_some_and(|path| path.starts_with('/'));
        current = (file && matches!(access, "r-xp" | "r--p")).then_some(from..to);
    }
    found
}

/// Drops those pages from this process's memory. Quick; reads `/proc/self/smaps`, so not for the async runtime.
pub(crate) fn forget_the_start() {
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else {
        return; // nothing is lost but some memory
    };
    for range in untouched(&smaps) {
        // SAFETY: a private mapping of a file, without write access and without a changed page: what is dropped is read
        // from the same file again, byte for byte, when it is next touched.
        #[allow(unsafe_code)]
        let _ = unsafe {
            rustix::mm::madvise(
                range.start as *mut _,
                range.len(),
                rustix::mm::Advice::LinuxDontNeed,
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unchanged_read_only_files_are_let_go() {
        let smaps = "\
00400000-00500000 r--p 00000000 fe:00 12 /usr/bin/knarr
Anonymous:             0 kB
VmFlags: rd mr mw me
00500000-00600000 r-xp 00100000 fe:00 12 /usr/bin/knarr
Anonymous:             0 kB
00600000-00610000 r--p 00200000 fe:00 12 /usr/bin/knarr
Anonymous:            64 kB
00610000-00620000 rw-p 00210000 fe:00 12 /usr/bin/knarr
Anonymous:             0 kB
01000000-01100000 rw-p 00000000 00:00 0 [heap]
Anonymous:          1024 kB
7f0000000000-7f0000001000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
7f0000002000-7f0000003000 r--s 00000000 fe:00 13 /var/lib/shared
Anonymous:             0 kB
";
        assert_eq!(untouched(smaps), [0x400000..0x500000, 0x500000..0x600000]);
    }

    #[test]
    fn the_program_goes_on() {
        forget_the_start();
        assert!(std::fs::read_to_string("/proc/self/smaps").is_ok());
    }
}
