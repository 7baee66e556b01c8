//! What is shipped for watching Overdue goes together with what it tells: alert rules, dashboard, metrics.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::{World, env};

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

/// Prometheus' own tool; fetched where it is missing.
fn promtool() -> Command {
    let found =
        Command::new(repository("scripts/unpacked")).args(["prometheus", "/usr/bin/promtool"]).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    Command::new(String::from_utf8(found.stdout).unwrap().trim())
}

#[track_caller]
fn assert_success(output: &Output) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

fn alerts(text: &str, mark: &str) -> BTreeSet<String> {
    let names = text.lines().filter_map(|line| line.trim_start().strip_prefix(mark));
    names.map(|name| name.split([' ', ',']).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_alert_fires_on_what_it_is_for() {
    let directory = repository("deploy/prometheus");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        assert_success(&promtool().args(arguments).current_dir(&directory).output().unwrap());
    }
    let (rules, tests) = (read("deploy/prometheus/alerts.yml"), read("deploy/prometheus/alerts.test.yml"));
    let rules = alerts(&rules, "- alert: ");
    assert!(rules.len() > 10);
    assert_eq!(rules, alerts(&tests, "alertname: "), "each is fired");
}

/// The names of our metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.split(word).filter(|name| name.starts_with("overdue_")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboard_name_metrics_that_there_are() {
    let world = World::new().await;
    let file = std::env::temp_dir().join(format!("overdue-{}-watched.toml", world.vhost));
    let endpoint = "[[endpoint]]\nname = \"shop\"\nurl = \"https://shop.invalid/\"\ntypes = [\"timer.nothing\"]\nkeys = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]\n";
    std::fs::write(&file, endpoint).unwrap();
    let webhooks = ["--webhooks", file.to_str().unwrap()];
    assert_success(&world.overdue(&[&["topology", "declare"], &webhooks[..]].concat()).await);
    let mut command = world.command(&[&["run", "--listen", "127.0.0.1:0"], &webhooks[..]].concat());
    command.env("OVERDUE_MANAGEMENT_URL", env("OVERDUE_MANAGEMENT_URL"));
    let process = world.start_command(command);
    let url = format!("{}/metrics", process.http_base().await);
    let page = async || reqwest::get(&url).await.unwrap().text().await.unwrap();
    let mut text = page().await;
    // What is counted by kind is shown once there is one.
    world.execute("select overdue_arm('sms', '1', now())").await;
    while !text.contains("overdue_queue_messages") || !text.contains("overdue_timer_lateness_seconds_bucket") {
        tokio::time::sleep(Duration::from_millis(100)).await;
        text = page().await;
    }
    let there = metrics(&text);
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/overdue.json")).unwrap();
    for (file, text) in [("alerts", read("deploy/prometheus/alerts.yml")), ("dashboard", dashboard.to_string())] {
        let missing: Vec<String> = metrics(&text).difference(&there).cloned().collect();
        assert!(missing.is_empty(), "the {file} look at metrics that there are not: {missing:?}");
    }
    // Names and units by Prometheus' conventions.
    let mut linter = promtool()
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write as _;
    // It reads the older text form, in which a counter's type names the counter with its suffix.
    let page: String = text
        .lines()
        .filter(|line| *line != "# EOF")
        .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            ["#", kind @ ("TYPE" | "HELP"), name, ..] if text.contains(&format!("# TYPE {name} counter")) => {
                line.replacen(&format!("# {kind} {name} "), &format!("# {kind} {name}_total "), 1) + "\n"
            }
            _ => format!("{line}\n"),
        })
        .collect();
    linter.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    assert_success(&linter.wait_with_output().unwrap());
    process.kill().await;
    std::fs::remove_file(&file).unwrap();
    world.close().await;
}
