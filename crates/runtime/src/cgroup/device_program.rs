//! A list of devices as a program for the kernel's virtual machine, which is how v2 takes it: for each attempt to open or
//! make a device the program says yes (1) or no (0).
//!
//! Source: the kernel's `include/uapi/linux/bpf.h` (`struct bpf_cgroup_dev_ctx`), opencontainers/cgroups `devices/devicefilter`.

use super::devices::Rule;

/// `BPF_DEVCG_DEV_*`
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
/// `BPF_DEVCG_ACC_*`
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

// opcodes: class, size or source, operation
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_UNLESS_SAME: u8 = 0x5d;
const EXIT: u8 = 0x95;

// registers: the answer, the context (and room for work), and what is asked for
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// One instruction as the kernel reads it (`struct bpf_insn`), in the machine's byte order.
pub(crate) type Instruction = [u8; 8];

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    let registers = match cfg!(target_endian = "little") {
        true => from << 4 | to,
        false => to << 4 | from,
    };
    let mut bytes = [code, registers, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..].copy_from_slice(&value.to_ne_bytes());
    bytes
}

fn access_bits(rule: &Rule) -> i32 {
    let bit = |on: bool, bit| if on { bit } else { 0 };
    bit(rule.make, MAKE) | bit(rule.read, READ) | bit(rule.write, WRITE)
}

/// The program that says yes to what any of the rules allows, and no to all else.
pub(crate) fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        // access_type: the kind below, what is wanted above
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules {
        // each test leads past the rule unless it holds
        let kind = if rule.block { BLOCK } else { CHARACTER };
        let mut tests = vec![(JUMP_UNLESS_EQUAL, KIND, 0, kind)];
        let bits = access_bits(rule);
        if bits != MAKE | READ | WRITE {
            tests.push((MOVE_REGISTER, CONTEXT, ACCESS, 0));
            tests.push((AND, CONTEXT, 0, bits));
            tests.push((JUMP_UNLESS_SAME, CONTEXT, ACCESS, 0));
        }
        for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(number) = number {
                // numbers have 12 and 20 bits
                tests.push((JUMP_UNLESS_EQUAL, register, 0, number as i32));
            }
        }
        let yes = [
            instruction(MOVE, ANSWER, 0, 0, 1),
            instruction(EXIT, 0, 0, 0, 0),
        ];
        for (at, (code, to, from, value)) in tests.iter().enumerate() {
            let past = tests.len() - at - 1 + yes.len();
            let offset = match *code {
                JUMP_UNLESS_EQUAL | JUMP_UNLESS_SAME => past as i16,
                _ => 0,
            };
            program.push(instruction(*code, *to, *from, offset, *value));
        }
        program.extend(yes);
    }
    program.push(instruction(MOVE, ANSWER, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would, as far as these use it.
    fn run(program: &[Instruction], access_type: u32, major: u32, minor: u32) -> u64 {
        let context: Vec<u8> = [access_type, major, minor]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        let mut registers = [0u64; 11];
        let mut at = 0;
        for _ in 0..10_000 {
            let bytes = program[at];
            at += 1;
            let (to, from) = match cfg!(target_endian = "little") {
                true => (bytes[1] & 15, bytes[1] >> 4),
                false => (bytes[1] >> 4, bytes[1] & 15),
            };
            let (to, from) = (usize::from(to), usize::from(from));
            let offset = i16::from_ne_bytes([bytes[2], bytes[3]]);
            let value = i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            let wide = i64::from(value) as u64;
            match bytes[0] {
                0x61 => {
                    assert_eq!(from, 1, "only the context is read");
                    let start = usize::try_from(offset).unwrap();
                    let word = context[start..start + 4].try_into().unwrap();
                    registers[to] = u64::from(u32::from_ne_bytes(word));
                }
                0xbf => registers[to] = registers[from],
                0xb7 => registers[to] = wide,
                0x57 => registers[to] &= wide,
                0x77 => registers[to] >>= wide,
                0x55 | 0x5d => {
                    let other = if bytes[0] == 0x55 {
                        wide
                    } else {
                        registers[from]
                    };
                    if registers[to] != other {
                        at += usize::try_from(offset).expect("programs go forward only");
                    }
                }
                0x95 => return registers[0],
                other => panic!("no instruction of ours: {other:#x}"),
            }
        }
        panic!("it goes on for ever")
    }

    #[test]
    fn programs_say_what_the_list_says() {
        let list: Vec<Rule> = [
            "c *:* m",
            "b *:* m",
            "c 1:3 rwm",
            "c 136:* rwm",
            "b 8:1 r",
            "c 10:200 rw",
        ]
        .iter()
        .map(|rule| rule.parse().unwrap())
        .collect();
        let program = assemble(&list);
        for (kind, major, minor, access, wanted) in [
            ('c', 1, 3, "rw", 1),
            ('c', 1, 3, "rwm", 1),
            ('c', 1, 3, "r", 1),
            ('b', 1, 3, "r", 0),
            ('c', 1, 1, "r", 0),
            ('c', 1, 1, "m", 1),
            ('c', 1, 1, "rm", 0),
            ('b', 253, 77, "m", 1),
            ('c', 136, 0, "rw", 1),
            ('c', 136, 1_048_575, "rw", 1),
            ('c', 137, 0, "rw", 0),
            ('b', 8, 1, "r", 1),
            ('b', 8, 1, "w", 0),
            ('b', 8, 1, "rw", 0),
            ('b', 8, 2, "r", 0),
            ('c', 8, 1, "r", 0),
            ('c', 10, 200, "rw", 1),
            ('c', 10, 200, "rwm", 0),
            ('c', 4095, 1_048_575, "r", 0),
        ] {
            let bits: u32 = access
                .chars()
                .map(|c| match c {
                    'm' => 1,
                    'r' => 2,
                    _ => 4,
                })
                .sum();
            let kind_bits = if kind == 'b' { 1 } else { 2 };
            let got = run(&program, bits << 16 | kind_bits, major, minor);
            assert_eq!(got, wanted, "{kind} {major}:{minor} {access}");
        }
        let nothing = assemble(&[]);
        assert_eq!(run(&nothing, 1 << 16 | 2, 1, 3), 0);
    }

    /// As the kernel's own disassembler would show them.
    #[test]
    fn instructions_are_the_kernels() {
        let program = assemble(&["c 5:* rw".parse().unwrap()]);
        let shown: Vec<String> = program
            .iter()
            .map(|i| i.iter().map(|b| format!("{b:02x}")).collect())
            .collect();
        if cfg!(target_endian = "little") {
            assert_eq!(
                shown,
                [
                    "6112000000000000", // r2 = *(u32 *)(r1 + 0)
                    "bf23000000000000", // r3 = r2
                    "57020000ffff0000", // r2 &= 0xffff
                    "7703000010000000", // r3 >>= 16
                    "6114040000000000", // r4 = *(u32 *)(r1 + 4)
                    "6115080000000000", // r5 = *(u32 *)(r1 + 8)
                    "5502060002000000", // if r2 != 2 goto +6
                    "bf31000000000000", // r1 = r3
                    "5701000006000000", // r1 &= 6
                    "5d31030000000000", // if r1 != r3 goto +3
                    "5504020005000000", // if r4 != 5 goto +2
                    "b700000001000000", // r0 = 1
                    "9500000000000000", // exit
                    "b700000000000000", // r0 = 0
                    "9500000000000000", // exit
                ]
            );
        }
    }
}
