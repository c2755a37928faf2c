//! The capacity model says what was measured before it says anything else.

use model::capacity::{Figures, Load, Machine, Plan, simulate};

#[test]
fn every_measured_case_is_reproduced_within_a_fifth() {
    let figures = Figures::embedded().unwrap();
    assert!(figures.measured.len() >= 2);
    for case in &figures.measured {
        let machine = Machine {
            cores: case.cores,
            connections: case.connections,
            cost_factor: case.cost_factor,
            seconds: 5.0,
        };
        let found = simulate(&figures, machine);
        let within = |measured: f64, found: f64| (found / measured - 1.0).abs() <= 0.2;
        assert!(within(case.orders_per_s, found.orders_per_s), "{}: {found:?}", case.name);
        if let Some(p50_ms) = case.p50_ms {
            assert!(within(p50_ms, found.p50_ms), "{}: {found:?}", case.name);
        }
        assert_eq!(simulate(&figures, machine), found, "the same twice");
    }
}

#[test]
fn ten_times_the_load_takes_about_ten_times_the_machines() {
    let figures = Figures::embedded().unwrap();
    let plan = |orders_per_s| Plan::of(&figures, Load { orders_per_s, refusals_per_s: 0.0 }, 1.0);
    let (small, large) = (plan(1e5), plan(1e6));
    assert!(small.redis_shards >= 2, "one core does not run so many scripts: {small:?}");
    // Small figures are rounded up by more.
    let grows = |small: u64, large: u64| large > small * 7 && large <= small * 10;
    assert!(grows(small.redis_shards, large.redis_shards) && grows(small.partitions, large.partitions));
    let refusing = Plan::of(&figures, Load { orders_per_s: 1e5, refusals_per_s: 1e7 }, 1.0);
    assert_eq!(refusing.redis_shards, small.redis_shards, "refusals reach no store");
    assert!(refusing.gateway_cores > small.gateway_cores);
}
