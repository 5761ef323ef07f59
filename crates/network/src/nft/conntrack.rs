//! Forgets UDP flows whose endpoint is gone; otherwise a client that keeps its socket would be
//! sent to the dead address for as long as it keeps sending.
//! (TCP needs none: its flows end with their connection.)

use std::collections::HashSet;

use super::{
    family::Family,
    front::{Endpoint, Front, Scope},
    netlink::{Messages, Refusal, Socket, attribute},
};

/// NFNL_SUBSYS_CTNETLINK
const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;

struct Tuple {
    protocol: u8,
    source: Endpoint,
    destination: Endpoint,
}

fn parse(family: Family, tuple: &[u8]) -> Option<Tuple> {
    // CTA_IP_V4_SRC, _DST, CTA_IP_V6_SRC, _DST
    let (from, to) = match family {
        Family::V4 => (1, 2),
        Family::V6 => (3, 4),
    };
    let (ip, protocol) = (attribute(tuple, 1)?, attribute(tuple, 2)?);
    let address = |kind| attribute(ip, kind).and_then(|value| family.read(value));
    let port = |kind| {
        attribute(protocol, kind)
            .and_then(|value| <[u8; 2]>::try_from(value).ok())
            .map(u16::from_be_bytes)
    };
    Some(Tuple {
        protocol: *attribute(protocol, 1)?.first()?,
        source: (address(from)?, port(2)?),
        destination: (address(to)?, port(3)?),
    })
}

/// A front, and an endpoint that left it; None: the front is new, and flows to it went nowhere.
pub(crate) type Gone = (Front, Option<Endpoint>);

/// Deletes the UDP flows from any client through a front to an endpoint, for each pair in `gone`.
/// Answers how many there were.
pub(crate) fn forget(
    socket: &mut Socket,
    family: Family,
    gone: &HashSet<Gone>,
) -> Result<usize, Refusal> {
    let mut found = Vec::new();
    socket.dump(
        GET,
        family.number(),
        |_| {},
        |_, body| {
            let (Some(original), Some(reply)) = (
                attribute(body, TUPLE_ORIGINAL),
                attribute(body, TUPLE_REPLY),
            ) else {
                return;
            };
            let (Some(to), Some(back)) = (parse(family, original), parse(family, reply)) else {
                return;
            };
            if i32::from(to.protocol) != libc::IPPROTO_UDP {
                return;
            }
            let end = (back.source != to.destination).then_some(back.source);
            let mut fronts = [to.destination.0, family.unspecified()]
                .into_iter()
                .flat_map(|ip| [Scope::All, Scope::Outside].map(|scope| (ip, scope)))
                .map(|(ip, scope)| Front {
                    ip,
                    protocol: to.protocol,
                    port: to.destination.1,
                    scope,
                });
            let rest = (Front::rest_of(to.destination.0), end.map(|(ip, _)| (ip, 0)));
            if gone.contains(&rest) || fronts.any(|front| gone.contains(&(front, end))) {
                found.push((original.to_vec(), attribute(body, ID).map(<[u8]>::to_vec)));
            }
        },
    )?;
    let count = found.len();
    for (original, id) in found {
        let mut request = Messages::default();
        request.message(DELETE, 0, family.number(), 0, |m| {
            m.attr(TUPLE_ORIGINAL | 1 << 15, &original);
            if let Some(id) = &id {
                m.attr(ID, id);
            }
        });
        match socket.ask(request) {
            Err(refusal) if refusal.errno != libc::ENOENT => return Err(refusal),
            _ => {}
        }
    }
    Ok(count)
}
