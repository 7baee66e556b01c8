//! What is wrong with the processes, as they say of themselves.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::{Flaw, ProcessRow};

/// What is wrong with these processes: none is at work with a role that is needed, one has gone silent, or they are of two versions.
/// Which one sweeps is told by the lead, and not by them.
#[must_use]
pub fn process_flaws(processes: &[ProcessRow], needs_webhooks: bool) -> Vec<Flaw> {
    let needed: &[&str] = if needs_webhooks { &["relay", "worker", "webhooks"] } else { &["relay", "worker"] };
    let mut flaws = Vec::new();
    let alive: Vec<&ProcessRow> = processes.iter().filter(|process| !process.is_silent()).collect();
    if alive.is_empty() {
        let advice = "start `overdue run`; without a process nothing closes";
        flaws.push(Flaw::new("processes", "none is at work", advice));
    }
    for role in needed.iter().filter(|role| !alive.is_empty() && !processes.iter().any(|process| process.serves(role)))
    {
        let advice = format!("start one: `overdue run --only {role}`");
        flaws.push(Flaw::new(format!("role {role}"), "no process with it is at work", advice));
    }
    let versions: BTreeSet<&str> = alive.iter().map(|process| process.said.version.as_str()).collect();
    if versions.len() > 1 {
        let versions: Vec<&str> = versions.into_iter().collect();
        let advice = "finish the upgrade, or take it back: restart those of the other version";
        let problem = format!("of two versions or more are at work: {}", versions.join(", "));
        flaws.push(Flaw::new("processes", problem, advice));
    }
    for process in processes.iter().filter(|process| process.is_silent() && !is_replaced(process, &alive)) {
        let (roles, silent) = (process.said.roles.join(", "), rough(process.silent_for));
        let problem = format!("has said nothing for {silent} ({roles})");
        let advice =
            "see whether it runs, and whether it reaches the database; it is left out an hour after its last word";
        flaws.push(Flaw::new(name(process), problem, advice));
    }
    flaws
}

/// Whether one that was started later on the same machine does what it did.
fn is_replaced(gone: &ProcessRow, alive: &[&ProcessRow]) -> bool {
    alive.iter().any(|process| {
        let same = process.said.host == gone.said.host && process.said.roles == gone.said.roles;
        same && process.said.started_at > gone.said.started_at
    })
}

fn name(process: &ProcessRow) -> String {
    format!("process {} on {}", process.said.pid, process.said.host)
}

fn rough(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use time::OffsetDateTime;

    use super::*;
    use crate::{Heartbeat, Lateness};

    fn process(pid: u32, roles: &[&str], version: &str, silent_s: u64) -> ProcessRow {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let said = Heartbeat {
            id: format!("{pid}"),
            host: "a".to_owned(),
            pid,
            version: version.to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            started_at: now + Duration::from_secs(pid.into()),
            is_first: false,
            sweep_leader: false,
            held_orders: 0,
            counters: BTreeMap::new(),
            circuits: Vec::new(),
            late: Lateness::default(),
            fired: 0,
            rescued: 0,
        };
        ProcessRow { said, seen_at: now, silent_for: Duration::from_secs(silent_s), up_for: Duration::from_secs(9) }
    }

    fn problems(processes: &[ProcessRow], needs_webhooks: bool) -> Vec<String> {
        let flaws = process_flaws(processes, needs_webhooks).into_iter();
        flaws.map(|flaw| format!("{}: {}", flaw.object, flaw.problem)).collect()
    }

    const ALL: [&str; 3] = ["relay", "worker", "sweep"];

    #[test]
    fn where_each_role_is_served_by_one_version_nothing_is_wrong() {
        assert_eq!(problems(&[process(1, &ALL, "1", 14)], false), [""; 0]);
        assert_eq!(problems(&[process(1, &["relay"], "1", 0), process(2, &["worker"], "1", 0)], false), [""; 0]);
    }

    #[test]
    fn a_missing_role_two_versions_and_silence_are_named() {
        assert_eq!(problems(&[], true), ["processes: none is at work"]);
        assert_eq!(problems(&[process(1, &["worker"], "1", 0)], false), ["role relay: no process with it is at work"]);
        assert_eq!(problems(&[process(1, &ALL, "1", 0)], true), ["role webhooks: no process with it is at work"]);
        let two = [process(1, &ALL, "1", 0), process(2, &ALL, "2", 0)];
        assert_eq!(problems(&two, false), ["processes: of two versions or more are at work: 1, 2"]);
        let silent = [process(1, &ALL, "1", 0), process(2, &["relay"], "1", 200)];
        assert_eq!(problems(&silent, false), ["process 2 on a: has said nothing for 3 min (relay)"]);
        let dead = [process(1, &ALL, "1", 16)];
        assert_eq!(
            problems(&dead, false),
            ["processes: none is at work", "process 1 on a: has said nothing for 16 s (relay, worker, sweep)"]
        );
    }

    #[test]
    fn one_that_was_started_anew_is_not_missed() {
        assert_eq!(problems(&[process(1, &ALL, "1", 60), process(2, &ALL, "1", 0)], false), [""; 0]);
    }
}
