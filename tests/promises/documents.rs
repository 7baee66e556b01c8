//! Lists that a document repeats are compared with the code that owns them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use order::{EventKind, ParkReason, TimeoutKind};
use regex::Regex;
use serde_json::Value;
use tests::World;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The first group of every match.
fn all(pattern: &str, text: &str) -> BTreeSet<String> {
    Regex::new(pattern).unwrap().captures_iter(text).map(|found| found[1].to_owned()).collect()
}

fn names<T: Copy>(kinds: &[T], name: fn(T) -> &'static str) -> BTreeSet<String> {
    kinds.iter().map(|kind| name(*kind).to_owned()).collect()
}

#[test]
fn the_runbook_has_every_reason_for_parking_with_its_advice() {
    let text = read("docs/runbook.md");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip_while(|line| !line.starts_with("| reason |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let written: Vec<(&str, &str)> = rows.iter().map(|row| (row[0].trim_matches('`'), row[2])).collect();
    let expected: Vec<(&str, &str)> =
        ParkReason::ALL.into_iter().map(|reason| (reason.code(), reason.advice())).collect();
    assert_eq!(written, expected);
}

#[tokio::test]
async fn events_are_the_same_in_code_table_function_and_description() {
    let world = World::bare(&[]).await;
    let expected = names(&EventKind::ALL, EventKind::as_str);
    let check = "select string_agg(pg_get_constraintdef(oid), ' ') from pg_constraint
                 where conrelid = 'outbox'::regclass and pg_get_constraintdef(oid) like '%order.closed%'";
    let check: String = sqlx::query_scalar(check).fetch_one(&world.pool).await.unwrap();
    assert_eq!(all(r"'([a-z]+\.[a-z]+)'", &check), expected, "the CHECK on outbox.event");
    let description: Value = serde_json::from_str(&read("docs/asyncapi.json")).unwrap();
    let described = all(r#""const":"([a-z]+\.[a-z]+)""#, &description["components"]["schemas"].to_string());
    assert_eq!(described, expected, "docs/asyncapi.json");
    assert_eq!(all(r"(?m)^\| `([a-z]+\.[a-z]+)` \|", &read("docs/contract.md")), expected, "docs/contract.md");
    for kind in EventKind::ALL {
        let data = "select data is not null from overdue_event($1, 'A-1', 'id', now(), null, 1, 'CNY')";
        let has_data: bool = sqlx::query_scalar(data).bind(kind.as_str()).fetch_one(&world.pool).await.unwrap();
        assert!(has_data, "overdue_event knows no {}", kind.as_str());
    }
    let unknown = "insert into outbox (order_id, due_at, traceparent, event, event_id, data)
                   select e.* from overdue_event('order.lost', 'A-1', 'id', now(), null, 1, 'CNY') e";
    assert!(sqlx::query(unknown).execute(&world.pool).await.is_err());
    world.close().await;
}

#[tokio::test]
async fn kinds_are_the_same_in_code_and_table() {
    let world = World::bare(&[]).await;
    let comment = "select col_description('outbox'::regclass, attnum) from pg_attribute
                   where attrelid = 'outbox'::regclass and attname = 'kind'";
    let comment: String = sqlx::query_scalar(comment).fetch_one(&world.pool).await.unwrap();
    assert_eq!(all(r"([a-z]+) \(", &comment), names(&TimeoutKind::ALL, TimeoutKind::as_str));
    world.close().await;
}

/// At most thirty, so that an operator can read them all; a gateway's own settings and forms that read from a file are not counted.
#[tokio::test]
async fn every_setting_is_in_the_operations_page_with_its_default() {
    let world = World::bare(&[]).await;
    let mut help = String::new();
    for command in ["run", "doctor", "demo", "audit"] {
        help += &String::from_utf8(world.overdue(&[command, "--help"]).await.stdout).unwrap();
    }
    let known = all(r"\[env: (OVERDUE_[A-Z0-9_]+)", &help);
    let page = read("docs/operations.md");
    assert_eq!(all(r"`(OVERDUE_[A-Z0-9_]+)`", &page), known);
    let read_from_file = |name: &str| name.strip_suffix("_FILE").is_some_and(|value| known.contains(value));
    let of_a_gateway =
        |name: &str| ["WECHAT_", "ALIPAY_", "HTTP_GATEWAY_"].iter().any(|gateway| name.contains(gateway));
    let counted = known.iter().filter(|name| !read_from_file(name) && !of_a_gateway(name)).count();
    assert!(counted <= 30, "{counted} settings");
    // Defaults stand in the page as `--help` prints them.
    let defaults = Regex::new(r"\[env: (OVERDUE_[A-Z0-9_]+)(?:=[^\]]*)?\]\s+\[default: ([^\]]+)\]").unwrap();
    for found in defaults.captures_iter(&help) {
        let (name, default) = (&found[1], &found[2]);
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
        assert!(
            row.contains(&format!("| `{default}` |")) || default.starts_with("https:"),
            "{name} has {default}: {row}"
        );
    }
    world.close().await;
}

#[test]
fn the_page_of_the_http_api_has_every_problem_with_its_status() {
    let mut written = BTreeSet::new();
    for row in read("docs/http-api.md").lines().filter(|line| Regex::new(r"^\| \d{3} \|").unwrap().is_match(line)) {
        let (status, names) = row.trim_matches('|').split_once('|').unwrap();
        written.extend(all("`([a-z-]+)`", names).into_iter().map(|name| (status.trim().to_owned(), name)));
    }
    let expected = api::ProblemKind::ALL.map(|kind| {
        let (status, name) = kind.status_and_name();
        (status.as_u16().to_string(), name.to_owned())
    });
    assert_eq!(written, BTreeSet::from(expected));
}

#[tokio::test]
async fn exit_codes_are_the_same_in_help_and_page() {
    let world = World::bare(&[]).await;
    let help = String::from_utf8(world.overdue(&["--help"]).await.stdout).unwrap();
    let helped: Vec<String> =
        Regex::new(r"(?m)^ {1,2}(\d+) {2}").unwrap().captures_iter(&help).map(|it| it[1].to_owned()).collect();
    let page = read("docs/operations.md");
    let written: Vec<String> =
        Regex::new(r"(?m)^\| (\d+) \|").unwrap().captures_iter(&page).map(|it| it[1].to_owned()).collect();
    assert_eq!(written, helped);
    world.close().await;
}

/// Files, tests and links that the documents name.
#[test]
fn what_the_documents_name_exists() {
    let architecture = read("ARCHITECTURE.md");
    for path in all(r"`([a-z_-]+/src/[a-z_/]+\.(?:rs|sql))`", &architecture) {
        assert!(repository("crates").join(&path).exists(), "ARCHITECTURE.md names {path}");
    }
    let invariants = architecture.split("## Invariants").nth(1).unwrap();
    let invariants = invariants.split("\n## ").next().unwrap();
    for found in Regex::new(r"`(console/)?([a-z]+)::([a-z_*]+)`").unwrap().captures_iter(invariants) {
        let (folder, file, test) = (found.get(1).map_or("promises/", |folder| folder.as_str()), &found[2], &found[3]);
        let source = read(&format!("tests/{folder}{file}.rs"));
        assert!(test == "*" || source.contains(&format!("fn {test}(")), "there is no test {file}::{test}");
    }
    let pages =
        ["README.md", "README.zh-CN.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "rabbitmq/README.md"];
    let docs = std::fs::read_dir(repository("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs: Vec<String> = docs.map(|name| format!("docs/{}", name.to_str().unwrap())).collect();
    for page in pages.into_iter().chain(docs.iter().map(String::as_str).filter(|name| name.ends_with(".md"))) {
        let text = read(page);
        for link in all(r"\]\(([^)#:]+)(?:#[^)]*)?\)", &text) {
            assert!(repository(page).parent().unwrap().join(&link).exists(), "{page} links to {link}");
        }
    }
}
