//! Orders whose payment gateway must be asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use futures_util::stream;
use payment::PaymentGateway;
use tests::{simulator, wechat, wechat_environment};
use time::OffsetDateTime;

use crate::calibration::Calibration;
use crate::results::{Measurement, Run};
use crate::servers::Servers;
use crate::stage::{Orders, Stage};

/// How long the simulator takes for a call.
const CALL: Duration = Duration::from_millis(20);
/// How many calls may be under way at a time.
const IN_FLIGHT: usize = 128;

/// So many orders with an open trade, due at once; beside it, the same three calls for each trade and nothing else.
pub(crate) async fn measure(
    servers: &Servers,
    calibration: &Calibration,
    orders: u32,
    runs: usize,
) -> Result<Measurement> {
    let run = async || {
        let mut run = product(servers, orders).await?;
        run.limit = Some(calls(orders).await?);
        Ok(run)
    };
    let all = calibration.repeat(runs, run).await?;
    Ok(Measurement {
        name: "gateway".to_owned(),
        what: format!(
            "{orders} orders at a gateway that takes {} ms a call, {IN_FLIGHT} calls at a time",
            CALL.as_millis()
        ),
        beside: "the calls alone",
        runs: all,
    })
}

async fn product(servers: &Servers, orders: u32) -> Result<Run> {
    let stage = Stage::set(servers).await;
    let simulator = simulator().await;
    simulator.delay(CALL);
    let due = Orders { armed: true, ..Orders::due_at(stage.after(-1.0).await?, orders) };
    stage.seed(due).await?;
    stage
        .world
        .execute("insert into payments (order_id, gateway, prepay) select id, 'wechat', 'created' from orders")
        .await;
    for number in 1..=orders {
        simulator.ledger().open(&due.id(number), 1999, "CNY");
    }
    stage.settle_down().await?;
    let in_flight = IN_FLIGHT.to_string();
    let mut environment = wechat_environment(&simulator);
    environment.push(("OVERDUE_GATEWAY_CALLS_IN_FLIGHT_MAX", in_flight));
    environment.push(("OVERDUE_GATEWAY_CALLS_PER_SECOND_MAX", "100000".to_owned()));
    let begun = OffsetDateTime::now_utc();
    let watched =
        stage.start_with(&["--report-every", "20ms", "--only", "relay,worker"], 1, "consuming", &environment).await?;
    stage.until("all are closed", "select count(*) from orders where status = 'pending'", 0).await;
    let took = (OffsetDateTime::now_utc() - begun).as_seconds_f64();
    let cpu = stage.used(&watched)?;
    let mut run = Run { rate: Some(f64::from(orders) / took), cpu: Some(cpu), ..Run::default() };
    let calls = simulator.statistics().calls;
    ensure!(calls >= 3 * u64::from(orders), "only {calls} calls");
    run.more.insert("calls an order", calls as f64 / f64::from(orders));
    stage.close(Some(watched)).await?;
    Ok(run)
}

/// Query, close, query, with a client that does nothing else.
async fn calls(orders: u32) -> Result<f64> {
    let simulator = simulator().await;
    simulator.delay(CALL);
    let due = Orders::due_at(OffsetDateTime::now_utc(), orders);
    for number in 1..=orders {
        simulator.ledger().open(&due.id(number), 1999, "CNY");
    }
    let client = Arc::new(wechat(&simulator));
    let begun = Instant::now();
    let asked = stream::iter(1..=orders)
        .map(|number| {
            let (client, trade) = (Arc::clone(&client), due.id(number));
            async move {
                client.query(&trade).await.ok().context("query")?;
                client.close(&trade).await.ok().context("close")?;
                client.query(&trade).await.ok().context("query")?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(IN_FLIGHT);
    asked.for_each(async |_| {}).await;
    Ok(f64::from(orders) / begun.elapsed().as_secs_f64())
}
