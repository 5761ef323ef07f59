use super::{
    super::front::{Barred, Scope},
    *,
};
use std::net::Ipv4Addr;

const PODS: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 24);

fn endpoints(names: &str) -> Vec<Endpoint> {
    names
        .bytes()
        .map(|name| (Ipv4Addr::new(10, 0, 0, name).into(), 80))
        .collect()
}

fn wanted(names: &str) -> Wanted {
    Wanted {
        sticky_seconds: 0,
        endpoints: endpoints(names),
        barred: Barred::Refuse,
    }
}

fn set(contents: &mut Contents, front: Front, wanted: Option<&Wanted>) -> Edits {
    let mut edits = Edits::default();
    contents.set(front, wanted, &mut edits);
    edits
}

fn check_assign(old: &str, wanted: &str, expected: &str) {
    let got = assign(&endpoints(old), &endpoints(wanted));
    assert_eq!(*got, *endpoints(expected), "{old} → {wanted}");
}

#[test]
fn slots_move_as_little_as_possible() {
    check_assign("", "ab", "ab");
    check_assign("ab", "ba", "ab");
    check_assign("abc", "ab", "ab");
    check_assign("abc", "bc", "cb");
    check_assign("abc", "abd", "abd");
    check_assign("abc", "adef", "adef");
    check_assign("abcd", "d", "d");
    check_assign("abcd", "bc", "cb");
    check_assign("ab", "", "");
    check_assign("ab", "aabb", "ab");
}

const FRONT: Front = Front {
    ip: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
    protocol: 6,
    port: 80,
    scope: Scope::All,
};

#[test]
fn an_unchanged_front_makes_no_edit() {
    let mut contents = Contents::new(PODS);
    let edits = set(&mut contents, FRONT, Some(&wanted("abc")));
    let counts = (
        edits.add_slots.len(),
        edits.add_fronts.len(),
        edits.new_chains.len(),
        edits.hairpin.add.len(),
    );
    assert_eq!(counts, (3, 1, 1, 3));
    let again = set(&mut contents, FRONT, Some(&wanted("cba")));
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn a_replaced_endpoint_edits_one_slot_and_no_front() {
    let mut contents = Contents::new(PODS);
    set(&mut contents, FRONT, Some(&wanted("abc")));
    let edits = set(&mut contents, FRONT, Some(&wanted("abd")));
    assert_eq!((edits.remove_slots.len(), edits.add_slots.len()), (1, 1));
    let fronts = edits.add_fronts.len() + edits.remove_fronts.len() + edits.new_chains.len();
    assert_eq!(fronts, 0);
}

#[test]
fn a_front_without_endpoints_bars_the_way() {
    let mut contents = Contents::new(PODS);
    set(&mut contents, FRONT, Some(&wanted("a")));
    let edits = set(&mut contents, FRONT, Some(&wanted("")));
    let counts = (
        edits.remove_fronts.len(),
        edits.remove_slots.len(),
        edits.hairpin.remove.len(),
    );
    assert_eq!(counts, (1, 1, 1));
    assert_eq!(edits.add_fronts, [(FRONT, Target::Barred(Barred::Refuse))]);
    let edits = set(&mut contents, FRONT, None);
    assert_eq!((edits.remove_fronts.len(), edits.add_fronts.len()), (1, 0));
    assert!(contents.fronts.is_empty());
}

#[test]
fn stickiness_comes_and_goes_without_moving_slots() {
    let mut contents = Contents::new(PODS);
    set(&mut contents, FRONT, Some(&wanted("ab")));
    let sticky = Wanted {
        sticky_seconds: 60,
        ..wanted("ab")
    };
    let edits = set(&mut contents, FRONT, Some(&sticky));
    assert_eq!((edits.kept.add.len(), edits.add_slots.len()), (2, 0));
    assert_eq!(edits.new_chains.len(), 1);
    // Both views of a front share what clients keep.
    let outside = Front {
        scope: Scope::Outside,
        ..FRONT
    };
    let edits = set(&mut contents, outside, Some(&sticky));
    assert_eq!((edits.kept.add.len(), edits.add_slots.len()), (0, 2));
    let edits = set(&mut contents, FRONT, Some(&wanted("ab")));
    assert_eq!(edits.kept.len(), 0);
    let edits = set(&mut contents, outside, None);
    assert_eq!(edits.kept.remove.len(), 2);
}

#[test]
fn endpoints_elsewhere_are_told_apart() {
    let mut contents = Contents::new(PODS);
    let elsewhere = Wanted {
        endpoints: vec![(Ipv4Addr::new(10, 0, 1, 1).into(), 80)],
        ..wanted("")
    };
    let edits = set(&mut contents, FRONT, Some(&elsewhere));
    assert_eq!(edits.away.add.len(), 1);
    let edits = set(&mut contents, FRONT, Some(&wanted("a")));
    assert_eq!((edits.away.remove.len(), edits.away.add.len()), (1, 0));
}

#[test]
fn an_endpoint_that_moves_between_fronts_keeps_its_hairpin() {
    let mut contents = Contents::new(PODS);
    let other = Front { port: 81, ..FRONT };
    set(&mut contents, FRONT, Some(&wanted("a")));
    let mut edits = Edits::default();
    contents.set(FRONT, None, &mut edits);
    contents.set(other, Some(&wanted("a")), &mut edits);
    assert_eq!(edits.hairpin, Delta::default());
}

#[test]
fn swapped_holes_close_for_every_subset() {
    // Every old subset of six to every wanted subset: no endpoint lost, none invented.
    let all = endpoints("abcdef");
    let subset = |bits: u32| {
        (0..6)
            .filter(|bit| bits & 1 << bit != 0)
            .map(|bit| all[bit as usize])
            .collect::<Vec<_>>()
    };
    for old in 0..64 {
        for wanted in 0..64 {
            let mut got = assign(&subset(old), &subset(wanted)).to_vec();
            got.sort_unstable();
            assert_eq!(got, subset(wanted), "{old:b} → {wanted:b}");
        }
    }
}
