//! What is to be reached.

use crate::results::{Goal, Measurement};
use crate::{backlog, bursts, flows, idle};

/// What is to be reached, for what was measured.
pub(crate) fn goals(measurements: &[Measurement]) -> Vec<Goal> {
    let of = |name: &str| measurements.iter().find(|measurement| measurement.name == name);
    let p50 = |measurement: &Measurement| measurement.median(|run| run.lateness.map(|lateness| lateness.p50_ms));
    let p99 = |measurement: &Measurement| measurement.median(|run| run.lateness.map(|lateness| lateness.p99_ms));
    let mut goals = Vec::new();
    if let Some(odd) = of("odd") {
        goals.push(Goal::at_most(10.0, "odd deadlines: lateness p50, ms", p50(odd)));
        goals.push(Goal::at_most(30.0, "odd deadlines: lateness p99, ms", p99(odd)));
        goals.push(Goal::at_most(1.1, "odd deadlines: looks at the database an order", odd.more(flows::LOOKS)));
    }
    if let Some(odd) = of("timers_odd") {
        goals.push(Goal::at_most(10.0, "timers at arbitrary times: lateness p50, ms", p50(odd)));
        goals.push(Goal::at_most(30.0, "timers at arbitrary times: lateness p99, ms", p99(odd)));
    }
    if let Some(webhooks) = of("webhooks") {
        goals.push(Goal::at_least(1_000.0, "webhooks: deliveries a second", webhooks.rate()));
        if let Some(dead) = of("webhooks_dead") {
            goals.push(Goal::at_least(
                0.95,
                "webhooks beside a dead endpoint, of those without",
                dead.rate() / webhooks.rate(),
            ));
        }
    }
    if let Some(steady) = of("webhooks_steady") {
        goals.push(Goal::at_most(5.0, "webhooks: from publishing to the endpoint p50, ms", p50(steady)));
    }
    if let (Some(clock_time), Some(burst)) = (of("clock_time"), of("clock_time_burst")) {
        let above = p99(clock_time) - p99(burst);
        goals.push(Goal::at_most(30.0, "one clock time: lateness p99 above that of a burst, ms", above));
        goals.push(Goal::at_most(3.0, "one clock time: hops an order", clock_time.more(flows::HOPS)));
    }
    if let (Some(catch_up), Some(burst)) = (of("catch_up"), of("burst")) {
        let physics = catch_up.more(flows::OVERDUE) / burst.rate();
        let late = catch_up.more(flows::LAST_LATE) - physics;
        goals.push(Goal::at_most(2.0, "relay was down: last late order, after what a burst of them takes, s", late));
    }
    if let (Some(steady), Some(alone)) = (of("steady"), of("ttl_alone")) {
        goals.push(Goal::at_most(10.0, "steady: lateness p99 above TTL alone, ms", p99(steady) - p99(alone)));
        goals.push(Goal::at_most(
            325.0,
            "steady: CPU of the program and both servers an order, µs",
            steady.more(flows::CPU),
        ));
    }
    if let Some(arming) = of("arming") {
        goals.push(Goal::at_least(0.8, "arming beside a relay, of arming without one", arming.ratio()));
    }
    if let Some(snapshot) = of("snapshot") {
        goals.push(Goal::at_least(0.5, "relay beside an old transaction, of the rate without", snapshot.ratio()));
    }
    if let Some(burst) = of("burst") {
        goals.push(Goal::at_least(0.9, "burst, of the settle limit", burst.ratio()));
        let share = burst.more(bursts::SHARE);
        goals.push(Goal::at_most(15.0, "burst: overdue's own share of the CPU, %", share));
        for (name, bound, what) in [
            ("events", 0.9, "burst with events meanwhile, of the burst"),
            ("cold", 0.9, "burst in the first second of a worker, of the burst"),
            ("hot", 0.9, "one hot SKU, of the burst"),
            ("partitioned", 0.9, "partitioned tables, of the burst"),
        ] {
            if let Some(other) = of(name) {
                goals.push(Goal::at_least(bound, what, other.rate() / burst.rate()));
            }
        }
        if let Some(timers) = of("timers") {
            goals.push(Goal::at_least(
                0.8,
                "timers due at one instant, of the rate at which orders close",
                timers.rate() / burst.rate(),
            ));
        }
        if let Some(one_by_one) = of("one_by_one") {
            goals.push(Goal::at_least(20.0, "burst, times a transaction an order", burst.rate() / one_by_one.rate()));
        }
    }
    if let Some(single) = of("single") {
        goals.push(Goal::at_least(0.8, "one order a message, of bare consume", single.ratio()));
    }
    if let Some(idle) = of("idle") {
        goals.push(Goal::at_most(0.5, "idle: CPU of a core, %", idle.more(idle::CPU)));
        goals.push(Goal::at_most(40.0, "idle: memory, MB", idle.more(idle::MEMORY)));
        goals.push(Goal::at_most(10.0, "idle: connections to the database", idle.more(idle::CONNECTIONS)));
    }
    let backlog: Vec<&Measurement> =
        measurements.iter().filter(|measurement| measurement.name.starts_with(backlog::NAME)).collect();
    if let [first, .., last] = backlog[..] {
        goals.push(Goal::at_least(0.9, "burst with the most pending, of that with none", last.rate() / first.rate()));
        goals.push(Goal::at_most(
            100.0,
            "broker memory a pending order, a message each, bytes",
            last.more(backlog::MEMORY),
        ));
    }
    if let Some(coalesced) = of("coalesced_memory") {
        goals.push(Goal::at_most(
            5.0,
            "broker memory a pending order, 256 a message, bytes",
            coalesced.more(backlog::MEMORY),
        ));
    }
    goals
}
