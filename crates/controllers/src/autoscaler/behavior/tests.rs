use super::*;
use serde_json::{Value, json};

fn behavior(v: Value) -> Behavior {
    serde_json::from_value(v).unwrap()
}
fn ago(now: Instant, s: u64) -> Instant {
    now - Duration::from_secs(s)
}
fn bounds(min: i32, max: i32, current: i32) -> Bounds {
    Bounds { min, max, current }
}

// horizontal_test.go: TestConvertDesiredReplicasWithRules and TestNormalizeDesiredReplicas
#[tokio::test(start_paused = true)]
async fn without_behavior() {
    tokio::time::advance(Duration::from_secs(100_000)).await;
    let now = Instant::now();
    for (name, past, desired, b, want, able, limit) in [
        (
            "nothing known",
            vec![],
            5,
            bounds(1, 10, 5),
            5,
            READY,
            IN_RANGE,
        ),
        (
            "higher, recently",
            vec![(7, 60)],
            5,
            bounds(1, 10, 7),
            7,
            DOWN_STABILIZED,
            IN_RANGE,
        ),
        (
            "higher, long ago",
            vec![(7, 400)],
            5,
            bounds(1, 10, 7),
            5,
            READY,
            IN_RANGE,
        ),
        (
            "lower, recently",
            vec![(2, 60)],
            5,
            bounds(1, 10, 5),
            5,
            READY,
            IN_RANGE,
        ),
        ("too few", vec![], 0, bounds(2, 10, 3), 2, READY, TOO_FEW),
        (
            "too many",
            vec![],
            30,
            bounds(2, 10, 8),
            10,
            READY,
            TOO_MANY,
        ),
        (
            "too fast",
            vec![],
            30,
            bounds(2, 30, 8),
            16,
            READY,
            UP_LIMIT,
        ),
        (
            "too fast, from little",
            vec![],
            30,
            bounds(1, 30, 1),
            4,
            READY,
            UP_LIMIT,
        ),
    ] {
        let mut m = Memory {
            recommendations: past.iter().map(|(n, s)| (*n, ago(now, *s))).collect(),
            ..Default::default()
        };
        let got = m.normalize(None, desired, b, now);
        assert_eq!(
            (got.replicas, got.able, got.limit),
            (want, able, limit),
            "{name}"
        );
    }
}

// TestScalingWithRules
#[tokio::test(start_paused = true)]
async fn policies_limit() {
    tokio::time::advance(Duration::from_secs(100_000)).await;
    let now = Instant::now();
    let up = |policies: Value, select: &str| {
        behavior(json!({"scaleUp":{"policies":policies,"selectPolicy":select}}))
    };
    let down = |policies: Value, select: &str| {
        behavior(
            json!({"scaleDown":{"policies":policies,"selectPolicy":select,"stabilizationWindowSeconds":0}}),
        )
    };
    let pods = |n: i32, s: i32| json!({"type":"Pods","value":n,"periodSeconds":s});
    let percent = |n: i32, s: i32| json!({"type":"Percent","value":n,"periodSeconds":s});
    let none: Vec<(i32, u64)> = vec![];
    for (name, b, ups, downs, desired, bs, want, limit) in [
        (
            "up: pods",
            up(json!([pods(4, 60)]), "Max"),
            none.clone(),
            none.clone(),
            30,
            bounds(1, 100, 10),
            14,
            UP_LIMIT,
        ),
        (
            "up: percent, rounded up",
            up(json!([percent(10, 60)]), "Max"),
            none.clone(),
            none.clone(),
            30,
            bounds(1, 100, 11),
            13,
            UP_LIMIT,
        ),
        (
            "up: the larger",
            up(json!([pods(4, 60), percent(100, 60)]), "Max"),
            none.clone(),
            none.clone(),
            30,
            bounds(1, 100, 10),
            20,
            UP_LIMIT,
        ),
        (
            "up: the smaller",
            up(json!([pods(4, 60), percent(100, 60)]), "Min"),
            none.clone(),
            none.clone(),
            30,
            bounds(1, 100, 10),
            14,
            UP_LIMIT,
        ),
        (
            "up: disabled",
            up(json!([pods(4, 60)]), "Disabled"),
            none.clone(),
            none.clone(),
            30,
            bounds(1, 100, 10),
            10,
            UP_LIMIT,
        ),
        (
            "up: part of it done",
            up(json!([pods(4, 60)]), "Max"),
            vec![(3, 30)],
            none.clone(),
            30,
            bounds(1, 100, 10),
            11,
            UP_LIMIT,
        ),
        (
            "up: all of it done",
            up(json!([pods(4, 60)]), "Max"),
            vec![(6, 30)],
            none.clone(),
            30,
            bounds(1, 100, 10),
            10,
            UP_LIMIT,
        ),
        (
            "up: done long ago",
            up(json!([pods(4, 60)]), "Max"),
            vec![(4, 70)],
            none.clone(),
            30,
            bounds(1, 100, 10),
            14,
            UP_LIMIT,
        ),
        (
            "up: was shrunk meanwhile",
            up(json!([pods(4, 60)]), "Max"),
            none.clone(),
            vec![(2, 30)],
            30,
            bounds(1, 100, 10),
            16,
            UP_LIMIT,
        ),
        (
            "up: the default",
            behavior(json!({})),
            none.clone(),
            none.clone(),
            30,
            bounds(1, 100, 3),
            7,
            UP_LIMIT,
        ),
        (
            "up: most",
            up(json!([pods(50, 60)]), "Max"),
            none.clone(),
            none.clone(),
            30,
            bounds(1, 20, 10),
            20,
            TOO_MANY,
        ),
        (
            "down: pods",
            down(json!([pods(3, 60)]), "Max"),
            none.clone(),
            none.clone(),
            1,
            bounds(1, 100, 10),
            7,
            DOWN_LIMIT,
        ),
        (
            "down: percent, rounded down",
            down(json!([percent(25, 60)]), "Max"),
            none.clone(),
            none.clone(),
            1,
            bounds(1, 100, 10),
            7,
            DOWN_LIMIT,
        ),
        (
            "down: the larger change",
            down(json!([pods(3, 60), percent(50, 60)]), "Max"),
            none.clone(),
            none.clone(),
            1,
            bounds(1, 100, 10),
            5,
            DOWN_LIMIT,
        ),
        (
            "down: the smaller change",
            down(json!([pods(3, 60), percent(50, 60)]), "Min"),
            none.clone(),
            none.clone(),
            1,
            bounds(1, 100, 10),
            7,
            DOWN_LIMIT,
        ),
        (
            "down: disabled",
            down(json!([pods(3, 60)]), "Disabled"),
            none.clone(),
            none.clone(),
            1,
            bounds(1, 100, 10),
            10,
            DOWN_LIMIT,
        ),
        (
            "down: part of it done",
            down(json!([pods(3, 60)]), "Max"),
            none.clone(),
            vec![(2, 30)],
            1,
            bounds(1, 100, 10),
            9,
            DOWN_LIMIT,
        ),
        (
            "down: fewest",
            down(json!([pods(30, 60)]), "Max"),
            none.clone(),
            none.clone(),
            1,
            bounds(5, 100, 10),
            5,
            TOO_FEW,
        ),
        (
            "within",
            down(json!([pods(3, 60)]), "Max"),
            none.clone(),
            none,
            8,
            bounds(1, 100, 10),
            8,
            IN_RANGE,
        ),
    ] {
        let at = |all: Vec<(i32, u64)>| all.iter().map(|(n, s)| (*n, ago(now, *s))).collect();
        let mut m = Memory {
            ups: at(ups),
            downs: at(downs),
            ..Default::default()
        };
        let got = m.normalize(Some(&b), desired, bs, now);
        assert_eq!((got.replicas, got.limit), (want, limit), "{name}");
    }
}

// TestNormalizeDesiredReplicasWithBehavior
#[tokio::test(start_paused = true)]
async fn stabilization() {
    tokio::time::advance(Duration::from_secs(100_000)).await;
    let now = Instant::now();
    let windows = |up: i32, down: i32| {
        let free = json!([{"type":"Percent","value":1000,"periodSeconds":1}]);
        behavior(
            json!({"scaleUp":{"stabilizationWindowSeconds":up,"policies":free},"scaleDown":{"stabilizationWindowSeconds":down}}),
        )
    };
    for (name, b, past, current, desired, want, able) in [
        ("nothing known", windows(300, 300), vec![], 100, 5, 5, READY),
        (
            "down: the highest lately",
            windows(0, 300),
            vec![(7, 60), (9, 200), (20, 400)],
            100,
            5,
            9,
            DOWN_STABILIZED,
        ),
        (
            "down: no window",
            windows(0, 0),
            vec![(7, 60)],
            100,
            5,
            5,
            READY,
        ),
        (
            "up: the lowest lately",
            windows(300, 0),
            vec![(7, 60), (4, 200), (1, 400)],
            2,
            8,
            4,
            UP_STABILIZED,
        ),
        (
            "up: no window",
            windows(0, 300),
            vec![(1, 60)],
            2,
            8,
            8,
            READY,
        ),
        (
            "neither: stays between",
            windows(300, 300),
            vec![(2, 60), (10, 60)],
            5,
            8,
            5,
            UP_STABILIZED,
        ),
    ] {
        let mut m = Memory {
            recommendations: past.iter().map(|(n, s)| (*n, ago(now, *s))).collect(),
            ..Default::default()
        };
        let got = m.normalize(Some(&b), desired, bounds(1, 1000, current), now);
        assert_eq!((got.replicas, got.able), (want, able), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_remembered_as_long_as_they_count() {
    tokio::time::advance(Duration::from_secs(100_000)).await;
    let b =
        behavior(json!({"scaleUp":{"policies":[{"type":"Pods","value":2,"periodSeconds":60}]}}));
    let mut m = Memory::default();
    let mut size = 1;
    let mut sizes = vec![];
    for _ in 0..5 {
        let now = Instant::now();
        let next = m
            .normalize(Some(&b), 100, bounds(1, 100, size), now)
            .replicas;
        m.scaled(Some(&b), size, next, now);
        sizes.push(next);
        size = next;
        tokio::time::advance(Duration::from_secs(31)).await;
    }
    assert_eq!(sizes, [3, 3, 5, 5, 7]);
}
