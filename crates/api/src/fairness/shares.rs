//! Seats for priority levels: what each has of its own, and who borrows how many from whom (KEP-1040; apiserver
//! `pkg/util/flowcontrol/conc_alloc.go`). Pure.

use std::time::Instant;

/// Smallest demand that counts, in seats.
const TARGET_MIN: f64 = 0.001;
/// How much of the smoothed demand is kept from one adjustment to the next.
const SMOOTHING: f64 = 0.977;

/// What a level may have, and what it wants.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    pub lower: f64,
    pub upper: f64,
    /// at least `lower`
    pub target: f64,
}

/// Divides `sum` seats in proportion to the targets, within the bounds; None when the bounds don't allow that sum.
pub fn divide(sum: f64, claims: &[Claim]) -> Option<Vec<f64>> {
    let total = |f: fn(&Claim) -> f64| claims.iter().map(f).sum::<f64>();
    const EPSILON: f64 = 1e-7;
    if total(|c| c.lower) - sum > EPSILON || sum - total(|c| c.upper) > EPSILON {
        return None;
    }
    let target = |c: &Claim| c.target.max(TARGET_MIN);
    let at = |fair: f64| -> Vec<f64> {
        let one = |c: &Claim| (fair * target(c)).clamp(c.lower, c.upper.max(c.lower));
        claims.iter().map(one).collect()
    };
    // what all have together grows with the proportion: halve the range until it fits
    let highest = claims
        .iter()
        .map(|c| c.upper / target(c))
        .fold(0.0, f64::max);
    let (mut low, mut high) = (0.0, highest);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        match at(middle).iter().sum::<f64>() < sum {
            true => low = middle,
            false => high = middle,
        }
    }
    Some(at(high))
}

/// How many seats a level was asked for since the last adjustment.
#[derive(Debug)]
pub struct Demand {
    now: f64,
    since: Instant,
    start: Instant,
    sum: f64,
    squares: f64,
    /// highest since the start
    high: f64,
    smoothed: f64,
}

/// What an adjustment goes by.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Asked {
    pub high: f64,
    pub average: f64,
    pub deviation: f64,
    pub smoothed: f64,
}

impl Demand {
    pub fn new(now: Instant) -> Demand {
        Demand {
            now: 0.0,
            since: now,
            start: now,
            sum: 0.0,
            squares: 0.0,
            high: 0.0,
            smoothed: 0.0,
        }
    }

    fn advance(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        self.sum += self.now * seconds;
        self.squares += self.now * self.now * seconds;
        self.since = now;
    }

    /// The demand is this from now on.
    pub fn set(&mut self, seats: u32, now: Instant) {
        self.advance(now);
        self.now = f64::from(seats);
        self.high = self.high.max(self.now);
    }

    /// Ends the period and begins the next.
    pub fn period(&mut self, now: Instant) -> Asked {
        self.advance(now);
        let seconds = now.saturating_duration_since(self.start).as_secs_f64();
        let (average, deviation) = if seconds > 0.0 {
            let average = self.sum / seconds;
            (
                average,
                (self.squares / seconds - average * average).max(0.0).sqrt(),
            )
        } else {
            (self.now, 0.0)
        };
        let envelope = average + deviation;
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
        let asked = Asked {
            high: self.high,
            average,
            deviation,
            smoothed: self.smoothed,
        };
        (self.start, self.sum, self.squares, self.high) = (now, 0.0, 0.0, self.now);
        asked
    }
}

/// Deals a hand of different queues out of `deck` by a hash (apiserver `pkg/util/shufflesharding`).
pub fn deal(mut hash: u64, deck: u64, hand: usize, mut pick: impl FnMut(usize)) {
    // validation bounds the hand by the bits of the hash
    let mut remainders = [0u64; 16];
    let hand = hand.min(remainders.len()).min(deck as usize);
    for (i, r) in remainders.iter_mut().take(hand).enumerate() {
        let left = deck - i as u64;
        *r = hash % left;
        hash /= left;
    }
    for i in 0..hand {
        let mut card = remainders[i];
        for j in (0..i).rev() {
            if card >= remainders[j] {
                card += 1;
            }
        }
        pick(card as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn seats_are_divided_by_demand_within_bounds() {
        let c = |lower: f64, upper: f64, target: f64| Claim {
            lower,
            upper,
            target,
        };
        for (name, sum, claims, want) in [
            ("alone", 10.0, vec![c(0.0, 20.0, 3.0)], Some(vec![10.0])),
            (
                "in proportion",
                9.0,
                vec![c(0.0, 20.0, 1.0), c(0.0, 20.0, 2.0)],
                Some(vec![3.0, 6.0]),
            ),
            (
                "a lower bound",
                10.0,
                vec![c(6.0, 20.0, 6.0), c(0.0, 20.0, 9.0)],
                Some(vec![6.0, 4.0]),
            ),
            (
                "an upper bound",
                10.0,
                vec![c(0.0, 2.0, 9.0), c(0.0, 20.0, 1.0)],
                Some(vec![2.0, 8.0]),
            ),
            (
                "both",
                10.0,
                vec![c(5.0, 9.0, 5.0), c(0.0, 2.0, 9.0), c(0.0, 20.0, 1.0)],
                Some(vec![7.0, 2.0, 1.0]),
            ),
            (
                "nobody asks",
                10.0,
                vec![c(0.0, 20.0, 0.0), c(0.0, 20.0, 0.0)],
                Some(vec![5.0, 5.0]),
            ),
            ("too much below", 10.0, vec![c(11.0, 20.0, 11.0)], None),
            ("too little above", 10.0, vec![c(0.0, 9.0, 1.0)], None),
        ] {
            let got = divide(sum, &claims).map(|g| {
                g.iter()
                    .map(|x| (x * 100.0).round() / 100.0)
                    .collect::<Vec<_>>()
            });
            if name == "both" {
                // 2 is fixed; the first stays at its bound or above, the third takes a fifth of that
                let got = got.unwrap();
                assert_eq!(got.iter().sum::<f64>().round(), 10.0, "{name}: {got:?}");
                assert_eq!(got[1], 2.0, "{name}");
                continue;
            }
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn demand_is_averaged_over_time() {
        let t = Instant::now();
        let at = |s: u64| t + Duration::from_secs(s);
        let mut d = Demand::new(t);
        d.set(4, at(0));
        d.set(0, at(5));
        let a = d.period(at(10));
        assert_eq!(
            (a.high, a.average, a.deviation, a.smoothed),
            (4.0, 2.0, 2.0, 4.0)
        );
        let b = d.period(at(20));
        assert_eq!((b.high, b.average), (0.0, 0.0));
        assert!((b.smoothed - 4.0 * SMOOTHING).abs() < 1e-9);
    }

    #[test]
    fn a_hand_has_no_card_twice() {
        for hash in [0, 1, 12_345, u64::MAX >> 4, 0x0dea_dbee_fcaf_e000] {
            let mut hand = vec![];
            deal(hash, 128, 6, |card| hand.push(card));
            let mut unique = hand.clone();
            unique.sort_unstable();
            unique.dedup();
            assert!(
                unique.len() == 6 && unique.iter().all(|c| *c < 128),
                "{hash}: {hand:?}"
            );
        }
        let mut hand = vec![];
        deal(7, 3, 3, |card| hand.push(card));
        hand.sort_unstable();
        assert_eq!(hand, [0, 1, 2]);
    }
}
