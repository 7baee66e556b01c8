//! An order's way can be followed from its creation to its close: one trace, handed on in the outbox and in messages.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tests::{World, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A collector of traces that keeps what it gets.
async fn collector() -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let spans = Arc::<Mutex<Vec<Value>>>::default();
    let kept = Arc::clone(&spans);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let kept = Arc::clone(&kept);
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    bytes.extend_from_slice(&buffer[..read]);
                    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
                    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
                    let length =
                        text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
                    let length: usize = length.unwrap_or(0);
                    if bytes.len() < head + 4 + length {
                        continue;
                    }
                    let body: Value = serde_json::from_slice(&bytes[head + 4..head + 4 + length]).unwrap_or_default();
                    bytes.drain(..head + 4 + length);
                    for resource in body["resourceSpans"].as_array().into_iter().flatten() {
                        for scope in resource["scopeSpans"].as_array().into_iter().flatten() {
                            kept.lock().unwrap().extend(scope["spans"].as_array().into_iter().flatten().cloned());
                        }
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
                    stream.write_all(answer).await.ok();
                }
            });
        }
    });
    (url, spans)
}

fn named(spans: &[Value], name: &str) -> Vec<Value> {
    spans.iter().filter(|span| span["name"] == name).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_request_to_the_close() {
    let world = World::with_timeouts(&["2s"]).await;
    world.stock("tea", 5).await;
    let (collector, spans) = collector().await;
    let mut command = world.command(&["run", "--listen", "127.0.0.1:0", "--otlp-endpoint", &collector]);
    command.env("OTEL_BSP_SCHEDULE_DELAY", "200");
    let process = world.start_command(command);
    process.says("running").await;
    let log = process.log_text();
    assert!(!log.contains("--otlp-endpoint"), "{log}");
    let base = process.http_base().await;
    // The shop's own trace.
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let order = serde_json::json!({ "id": "T-1", "items": [{ "sku": "tea", "quantity": 1 }], "amount_minor": 1, "currency": "CNY", "payment_timeout_s": 2 });
    let request = reqwest::Client::new().post(format!("{base}/orders")).json(&order);
    let response = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")).send().await.unwrap();
    assert!(response.status().is_success());
    world.becomes(&order::OrderId::new("T-1").unwrap(), "closed").await;
    for name in ["request", "send timeout", "settle batch"] {
        eventually(&format!("the trace has the span {name:?}"), async || {
            named(&spans.lock().unwrap(), name).iter().any(|span| span["traceId"] == trace)
        })
        .await;
    }
    // Each is a child of the one before.
    let all = spans.lock().unwrap().clone();
    let of = |name: &str| named(&all, name).into_iter().find(|span| span["traceId"] == trace).unwrap();
    assert_eq!(of("request")["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(of("send timeout")["parentSpanId"], of("request")["spanId"]);
    assert_eq!(of("settle batch")["parentSpanId"], of("send timeout")["spanId"]);
    process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_a_foreign_service_gives_reaches_whoever_hears_of_the_close() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    world
        .execute(&format!(
            "insert into outbox (order_id, due_at, traceparent) values ('{}', now(), '{context}')",
            order.id
        ))
        .await;
    let foreign = world.foreign().await;
    let (options, nothing) = (lapin::options::QueueDeclareOptions::default(), lapin::types::FieldTable::default);
    foreign.channel.queue_declare("listener".into(), options, nothing()).await.unwrap();
    let bind = lapin::options::QueueBindOptions::default();
    foreign.channel.queue_bind("listener".into(), "overdue.events".into(), "#".into(), bind, nothing()).await.unwrap();
    let (relay, worker) = (world.relay(), world.worker());
    foreign.queue_holds("listener", 1).await;
    let event = foreign.take("listener", 1).await.remove(0);
    assert_eq!(
        event.header("traceparent").as_deref(),
        Some(context),
        "no traces are made here: it is handed on as it is"
    );
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(body["traceparent"], context);
    tokio::time::timeout(Duration::from_secs(30), async {
        worker.stop().await;
        relay.stop().await
    })
    .await
    .unwrap();
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_for_machines_are_one_object_a_line() {
    let world = World::new().await;
    let process = world.start(&["run", "--log-format", "json"]);
    process.says("running").await;
    for line in process.log_text().lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(entry["level"].is_string() && entry["fields"]["message"].is_string(), "{line}");
    }
    process.kill().await;
    world.close().await;
}
