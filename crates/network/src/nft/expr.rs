//! Encoders for the nf_tables expressions that the rule set uses
//! (numbers from `linux/netfilter/nf_tables.h`).

use super::netlink::Messages;

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
    /// In postrouting since Linux 5.7.
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

/// The expressions of one rule, in order.
pub(crate) struct Exprs<'a>(pub(crate) &'a mut Messages);

impl Exprs<'_> {
    fn expr(&mut self, name: &str, fill: impl FnOnce(&mut Messages)) -> &mut Self {
        self.0.nest(LIST_ELEM, |m| {
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
        self.payload(into, Base::Network, 12, 4)
    }

    pub(crate) fn destination(&mut self, into: u32) -> &mut Self {
        self.payload(into, Base::Network, 16, 4)
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

    /// Goes on only for connections whose destination was translated.
    pub(crate) fn translated(&mut self, scratch: u32) -> &mut Self {
        const STATUS: u32 = 2;
        const DESTINATION_NAT: u32 = 1 << 5; // IPS_DST_NAT
        self.expr("ct", |m| {
            m.number(1, scratch);
            m.number(2, STATUS);
        })
        .mask(scratch, DESTINATION_NAT.to_ne_bytes())
        .compare(scratch, false, &[0; 4])
    }

    /// Goes on only if the register equals (or, with `equal` false, differs from) `value`.
    pub(crate) fn compare(&mut self, from: u32, equal: bool, value: &[u8]) -> &mut Self {
        self.expr("cmp", |m| {
            m.number(1, from);
            m.number(2, u32::from(!equal));
            m.nest(3, |m| m.attr(DATA_VALUE, value));
        })
    }

    pub(crate) fn mask(&mut self, register: u32, mask: [u8; 4]) -> &mut Self {
        self.expr("bitwise", |m| {
            m.number(1, register);
            m.number(2, register);
            m.number(3, 4);
            m.nest(4, |m| m.attr(DATA_VALUE, &mask));
            m.nest(5, |m| m.attr(DATA_VALUE, &[0; 4]));
        })
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

    pub(crate) fn accept(&mut self) -> &mut Self {
        self.expr("immediate", |m| {
            m.number(1, REG_VERDICT);
            m.nest(2, |m| {
                m.nest(DATA_VERDICT, |m| m.number(VERDICT_CODE, ACCEPT as u32))
            });
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

    /// A random number below `modulus`.
    pub(crate) fn random(&mut self, into: u32, modulus: u32) -> &mut Self {
        const RANDOM: u32 = 1;
        self.expr("numgen", |m| {
            m.number(1, into);
            m.number(2, modulus);
            m.number(3, RANDOM);
        })
    }

    /// Jenkins hash of four bytes at `from`, below `modulus`.
    pub(crate) fn hash(&mut self, from: u32, into: u32, modulus: u32, seed: u32) -> &mut Self {
        self.expr("hash", |m| {
            m.number(1, from);
            m.number(2, into);
            m.number(3, 4);
            m.number(4, modulus);
            m.number(5, seed);
            m.number(7, 0);
        })
    }

    pub(crate) fn nat(&mut self, kind: Nat, address: u32, port: Option<u32>) -> &mut Self {
        self.expr("nat", |m| {
            m.number(1, kind as u32);
            m.number(2, super::FAMILY.into());
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
        self.expr("reject", |m| match how {
            Reject::IcmpPortUnreachable => {
                m.number(1, 0);
                m.attr(2, &[3]);
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
    m.nest(DATA_VERDICT, |m| {
        m.number(VERDICT_CODE, GOTO as u32);
        m.string(VERDICT_CHAIN, chain);
    });
}
