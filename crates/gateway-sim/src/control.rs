//! How the simulator is told what its customers do and what goes wrong. Not signed: it serves this machine alone.
//!
//! | call | |
//! | --- | --- |
//! | `POST /sim/trades/{no}` with `{"amount_minor":1999,"currency":"CNY"}` | opens a trade |
//! | `POST /sim/trades/{no}/pay` | the customer pays |
//! | `POST /sim/trades/{no}/plan` with `[[{"query":1},"pay_after"]]` | lets calls go wrong |
//! | `POST /sim/outage` with a mishap or `null` | lets every call go wrong, or none |
//! | `POST /sim/delay` with milliseconds | slows every call down |
//! | `GET /sim/ledger` | trades and refunds as they stand |
//! | `GET /sim/hooks` | webhooks that came to `/hooks` so far, and those that were refused |
//! | `GET /sim/statistics` | calls so far, and how many at a time |

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::json;

use crate::message::{Reply, SimRequest};
use crate::shared::Shared;
use crate::{Call, Mishap};

#[derive(Deserialize)]
struct NewTrade {
    amount_minor: i64,
    currency: String,
}

pub(crate) fn answer(state: &Shared, request: &SimRequest, path: &[&str]) -> Reply {
    let done = match (request.method.clone(), path) {
        (Method::POST, ["trades", trade_no]) => read::<NewTrade>(request).map(|new| {
            state.ledger.open(trade_no, new.amount_minor, &new.currency);
            json!({})
        }),
        (Method::POST, ["trades", trade_no, "pay"]) => Ok(json!({ "paid": state.ledger.pay(trade_no) })),
        (Method::POST, ["trades", trade_no, "plan"]) => read::<Vec<(Call, Mishap)>>(request).map(|plan| {
            for (call, mishap) in plan {
                state.ledger.plan(trade_no, call, mishap);
            }
            json!({})
        }),
        (Method::POST, ["outage"]) => read::<Option<Mishap>>(request).map(|outage| {
            state.knobs().outage = outage;
            json!({})
        }),
        (Method::POST, ["delay"]) => read::<u64>(request).map(|ms| {
            state.knobs().delay = Duration::from_millis(ms);
            json!({})
        }),
        (Method::GET, ["ledger"]) => Ok(json!({ "trades": state.ledger.trades(), "refunds": state.ledger.refunds() })),
        (Method::GET, ["hooks"]) => Ok(state.hooks.counted()),
        (Method::GET, ["statistics"]) => Ok(json!(state.statistics())),
        _ => return Reply::json(404, &json!({ "error": "no such call; see `overdue-gateway-sim --help`" })),
    };
    match done {
        Ok(body) => Reply::json(200, &body),
        Err(error) => Reply::json(400, &json!({ "error": error.to_string() })),
    }
}

fn read<'a, T: Deserialize<'a>>(request: &'a SimRequest) -> Result<T, serde_json::Error> {
    serde_json::from_slice(&request.body)
}
