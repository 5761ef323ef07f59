//! Encoders for the nf_tables expressions that the rule set uses
//! (numbers from `linux/netfilter/nf_tables.h`).

use std::net::IpAddr;

use super::{
    family::{Family, mask, octets},
    netlink::Messages,
};

/// 32-bit register `n` (0..=15): `NFT_REG32_00 + n`.
pub(crate) const fn reg(n: u32) -> u32 {
    8 + n
}
const REG_VERDICT: u32 = 0;

const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const GOTO: i32 = -4;
const JUMP: i32 = -3;
const DROP: i32 = 0;
const ACCEPT: i32 = 1;

/// Which header an offset counts from.
#[derive(Clone, Copy)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

/// Keys of the meta expression.
#[derive(Clone, Copy)]
pub(crate) enum Meta {
    IifName = 6,
    OifName = 7,
    L4Proto = 16,
}

#[derive(Clone, Copy)]
pub(crate) enum Nat {
    Source = 0,
    Destination = 1,
}

#[derive(Clone, Copy)]
pub(crate) enum Reject {
    IcmpPortUnreachable,
    TcpReset,
}

/// Bits of `ct state`.
pub(crate) mod state {
    pub(crate) const ESTABLISHED: u32 = 2;
    pub(crate) const RELATED: u32 = 4;
    pub(crate) const NEW: u32 = 8;
}
/// `IPS_DST_NAT`, a bit of `ct status`
pub(crate) const DNATED: u32 = 1 << 5;

/// The expressions of one rule, in order.
pub(crate) struct Exprs<'a> {
    pub(crate) messages: &'a mut Messages,
    pub(crate) family: Family,
}

impl Exprs<'_> {
    fn expr(&mut self, name: &str, fill: impl FnOnce(&mut Messages)) -> &mut Self {
        self.messages.nest(LIST_ELEM, |m| {
            m.string(EXPR_NAME, name);
            m.nest(EXPR_DATA, fill);
        });
        self
    }

    pub(crate) fn payload(&mut self, into: u32, base: Base, offset: u32, length: u32) -> &mut Self {
        self.expr("payload", |m| {
            m.number(1, into);
            m.number(2, base as u32);
            m.number(3, offset);
            m.number(4, length);
        })
    }

    pub(crate) fn source(&mut self, into: u32) -> &mut Self {
        let (offset, length) = match self.family {
            Family::V4 => (12, 4),
            Family::V6 => (8, 16),
        };
        self.payload(into, Base::Network, offset, length)
    }

    pub(crate) fn destination(&mut self, into: u32) -> &mut Self {
        let (offset, length) = match self.family {
            Family::V4 => (16, 4),
            Family::V6 => (24, 16),
        };
        self.payload(into, Base::Network, offset, length)
    }

    /// Goes on only if the address at `register` (which is changed) is, or is not, in the range.
    pub(crate) fn range(
        &mut self,
        register: u32,
        inside: bool,
        (base, prefix): (IpAddr, u8),
    ) -> &mut Self {
        let mask = mask(self.family, prefix);
        let base = octets(base)
            .iter()
            .zip(&mask)
            .map(|(a, m)| a & m)
            .collect::<Vec<_>>();
        self.bits(register, &mask).compare(register, inside, &base)
    }

    pub(crate) fn port(&mut self, into: u32) -> &mut Self {
        self.payload(into, Base::Transport, 2, 2)
    }

    pub(crate) fn meta(&mut self, into: u32, key: Meta) -> &mut Self {
        self.expr("meta", |m| {
            m.number(1, into);
            m.number(2, key as u32);
        })
    }

    /// Goes on only if the register equals (or, with `equal` false, differs from) `value`.
    pub(crate) fn compare(&mut self, from: u32, equal: bool, value: &[u8]) -> &mut Self {
        self.expr("cmp", |m| {
            m.number(1, from);
            m.number(2, u32::from(!equal));
            m.nest(3, |m| m.attr(DATA_VALUE, value));
        })
    }

    /// Keeps the bits of `mask` in a register.
    pub(crate) fn bits(&mut self, register: u32, mask: &[u8]) -> &mut Self {
        self.expr("bitwise", |m| {
            m.number(1, register);
            m.number(2, register);
            m.number(3, mask.len() as u32);
            m.nest(4, |m| m.attr(DATA_VALUE, mask));
            m.nest(5, |m| m.attr(DATA_VALUE, &vec![0; mask.len()]));
        })
    }

    /// Goes on only if the big-endian number at the register is in the range.
    pub(crate) fn between(&mut self, from: u32, low: u16, high: u16) -> &mut Self {
        self.expr("range", |m| {
            m.number(1, from);
            m.number(2, 0);
            m.nest(3, |m| m.attr(DATA_VALUE, &low.to_be_bytes()));
            m.nest(4, |m| m.attr(DATA_VALUE, &high.to_be_bytes()));
        })
    }

    /// Goes on only if the flow is in one of these states.
    pub(crate) fn state(&mut self, states: u32) -> &mut Self {
        const STATE: u32 = 0;
        self.flow(STATE, states)
    }

    /// Goes on only if the flow has one of these status bits.
    pub(crate) fn status(&mut self, bits: u32) -> &mut Self {
        const STATUS: u32 = 2;
        self.flow(STATUS, bits)
    }

    fn flow(&mut self, key: u32, bits: u32) -> &mut Self {
        self.expr("ct", |m| {
            m.number(1, reg(0));
            m.number(2, key);
        });
        self.bits(reg(0), &bits.to_ne_bytes())
            .compare(reg(0), false, &[0; 4])
    }

    pub(crate) fn immediate(&mut self, into: u32, value: &[u8]) -> &mut Self {
        self.expr("immediate", |m| {
            m.number(1, into);
            m.nest(2, |m| m.attr(DATA_VALUE, value));
        })
    }

    pub(crate) fn goto(&mut self, chain: &str) -> &mut Self {
        self.expr("immediate", |m| {
            m.number(1, REG_VERDICT);
            m.nest(2, |m| verdict_goto(m, chain));
        })
    }

    pub(crate) fn jump(&mut self, chain: &str) -> &mut Self {
        self.expr("immediate", |m| {
            m.number(1, REG_VERDICT);
            m.nest(2, |m| verdict(m, JUMP, Some(chain)));
        })
    }

    pub(crate) fn accept(&mut self) -> &mut Self {
        self.verdict(ACCEPT)
    }

    pub(crate) fn drop(&mut self) -> &mut Self {
        self.verdict(DROP)
    }

    fn verdict(&mut self, code: i32) -> &mut Self {
        self.expr("immediate", |m| {
            m.number(1, REG_VERDICT);
            m.nest(2, |m| verdict(m, code, None));
        })
    }

    /// Goes on only if the key at `from` is in `set`.
    pub(crate) fn member(&mut self, set: &str, from: u32) -> &mut Self {
        self.expr("lookup", |m| {
            m.string(1, set);
            m.number(2, from);
        })
    }

    pub(crate) fn map(&mut self, set: &str, from: u32, into: u32) -> &mut Self {
        self.expr("lookup", |m| {
            m.string(1, set);
            m.number(2, from);
            m.number(3, into);
        })
    }

    pub(crate) fn verdict_map(&mut self, set: &str, from: u32) -> &mut Self {
        self.map(set, from, REG_VERDICT)
    }

    /// Removes the element with the key at `from` from a dynamic map, if it is there; the kernel wants a register of
    /// `data`, too.
    pub(crate) fn forget(&mut self, set: &str, from: u32, data: u32) -> &mut Self {
        const DELETE: u32 = 2;
        self.expr("dynset", |m| {
            m.string(1, set);
            m.number(3, DELETE);
            m.number(4, from);
            m.number(5, data);
        })
    }

    /// Puts key and data into a dynamic map for so many seconds; one that is there gets the time anew, not the data.
    /// Does not go on when the map is full.
    pub(crate) fn keep(&mut self, set: &str, from: u32, data: u32, seconds: u32) -> &mut Self {
        const UPDATE: u32 = 1;
        self.expr("dynset", |m| {
            m.string(1, set);
            m.number(3, UPDATE);
            m.number(4, from);
            m.number(5, data);
            m.attr(6, &(u64::from(seconds) * 1000).to_be_bytes());
        })
    }

    /// A random number from `offset`, below `offset + modulus`.
    pub(crate) fn random(&mut self, into: u32, modulus: u32, offset: u32) -> &mut Self {
        const RANDOM: u32 = 1;
        self.expr("numgen", |m| {
            m.number(1, into);
            m.number(2, modulus);
            m.number(3, RANDOM);
            m.number(4, offset);
        })
    }

    pub(crate) fn nat(&mut self, kind: Nat, address: u32, port: Option<u32>) -> &mut Self {
        let family = self.family.number().into();
        self.expr("nat", |m| {
            m.number(1, kind as u32);
            m.number(2, family);
            m.number(3, address);
            if let Some(port) = port {
                m.number(5, port);
            }
        })
    }

    pub(crate) fn masquerade(&mut self) -> &mut Self {
        self.expr("masq", |_| {})
    }

    pub(crate) fn reject(&mut self, how: Reject) -> &mut Self {
        // ICMP_PORT_UNREACH, ICMPV6_PORT_UNREACH
        let code = match self.family {
            Family::V4 => 3,
            Family::V6 => 4,
        };
        self.expr("reject", |m| match how {
            Reject::IcmpPortUnreachable => {
                m.number(1, 0);
                m.attr(2, &[code]);
            }
            Reject::TcpReset => {
                m.number(1, 1);
                m.attr(2, &[0]);
            }
        })
    }

    /// The kind of address (`RTN_*`, host order) that the destination is.
    pub(crate) fn destination_kind(&mut self, into: u32) -> &mut Self {
        const DADDR: u32 = 2;
        const ADDRTYPE: u32 = 3;
        self.expr("fib", |m| {
            m.number(1, into);
            m.number(2, ADDRTYPE);
            m.number(3, DADDR);
        })
    }
}

/// The data of a verdict-map element: `goto chain`.
pub(crate) fn verdict_goto(m: &mut Messages, chain: &str) {
    verdict(m, GOTO, Some(chain));
}

fn verdict(m: &mut Messages, code: i32, chain: Option<&str>) {
    m.nest(DATA_VERDICT, |m| {
        m.number(VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            m.string(VERDICT_CHAIN, chain);
        }
    });
}
