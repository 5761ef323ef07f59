//! Which rule a call's number leads to, found by halves.
//!
//! A filter that compares with one number after the other has four instructions for each of some 370 calls. The kernel runs
//! through it for each number there is when it is installed, to know beforehand which calls need no filter at all
//! (`seccomp_cache_prepare`): half a millisecond of each start of a container and of each exec. Allowed numbers mostly stand
//! side by side, so that there are a few dozen ranges, and seven comparisons lead to the one.

use std::collections::BTreeMap;

use crate::sys::Instruction;

/// What becomes of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// what the filter returns to the kernel
    Return(u32),
    /// the arguments decide, in the part that comes last
    Ask,
}

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const KILL_PROCESS: u32 = 0x8000_0000;
/// Where they are in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// A filter for calls of one architecture; those of others end the process. `tail` is a filter of its own, for the numbers
/// whose arguments decide.
pub(super) fn program(
    arch: u32,
    known: &BTreeMap<u32, Verdict>,
    otherwise: u32,
    tail: &[Instruction],
) -> Vec<Instruction> {
    let ranges = ranges(known, otherwise);
    let mut program = vec![
        instruction(LOAD, 0, 0, ARCH_AT),
        instruction(IF_EQUAL, 1, 0, arch),
        instruction(RETURN, 0, 0, KILL_PROCESS),
        instruction(LOAD, 0, 0, NUMBER_AT),
    ];
    let mut asks = Vec::new();
    halves(&ranges, &mut program, &mut asks);
    let end = program.len();
    for at in asks {
        program[at].k = (end - at - 1) as u32;
    }
    program.extend_from_slice(tail);
    program
}

/// The first number of each range of numbers that have the same verdict, in order; all numbers are in one.
fn ranges(known: &BTreeMap<u32, Verdict>, otherwise: u32) -> Vec<(u32, Verdict)> {
    let otherwise = Verdict::Return(otherwise);
    let mut ranges = vec![(0, otherwise)];
    let mut begin = |first: u32, verdict: Verdict| {
        // Never empty: one is put in above, and taken out only for another.
        if ranges.last().is_some_and(|last| last.0 == first) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|last| last.1 != verdict) {
            ranges.push((first, verdict));
        }
    };
    let mut next = 0;
    for (number, verdict) in known {
        if *number > next {
            begin(next, otherwise);
        }
        begin(*number, *verdict);
        next = number.saturating_add(1);
    }
    begin(next, otherwise);
    ranges
}

/// The lower half comes first; `asks` are the jumps to the part that comes last.
fn halves(ranges: &[(u32, Verdict)], program: &mut Vec<Instruction>, asks: &mut Vec<usize>) {
    match ranges {
        [] => {}
        [(_, Verdict::Return(answer))] => program.push(instruction(RETURN, 0, 0, *answer)),
        [(_, Verdict::Ask)] => {
            asks.push(program.len());
            program.push(instruction(JUMP, 0, 0, 0));
        }
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let at = program.len();
            // a conditional jump leads 255 instructions far
            program.push(instruction(IF_AT_LEAST, 0, 1, high[0].0));
            program.push(instruction(JUMP, 0, 0, 0));
            halves(low, program, asks);
            program[at + 1].k = (program.len() - at - 2) as u32;
            halves(high, program, asks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_its_range() {
        use Verdict::{Ask, Return};
        let check = |name: &str, known: &[(u32, Verdict)], want: &[(u32, Verdict)]| {
            let known: BTreeMap<u32, Verdict> = known.iter().copied().collect();
            assert_eq!(ranges(&known, 7), want, "{name}");
        };
        check("none", &[], &[(0, Return(7))]);
        check(
            "from the first",
            &[(0, Return(1)), (1, Return(1))],
            &[(0, Return(1)), (2, Return(7))],
        );
        check(
            "with a gap",
            &[(1, Return(1)), (3, Return(1))],
            &[
                (0, Return(7)),
                (1, Return(1)),
                (2, Return(7)),
                (3, Return(1)),
                (4, Return(7)),
            ],
        );
        check(
            "side by side",
            &[(4, Return(1)), (5, Ask), (6, Return(1))],
            &[
                (0, Return(7)),
                (4, Return(1)),
                (5, Ask),
                (6, Return(1)),
                (7, Return(7)),
            ],
        );
        check("as all others", &[(4, Return(7))], &[(0, Return(7))]);
    }
}
