use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use broker::BrokerProbe;
use database::Client;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::problem::{Problem, ProblemKind};

/// Whether the servers that a process needs answer, and whether it can do its work with them.
pub struct Readiness {
    database: Client,
    troubles: Vec<Trouble>,
    looks: Mutex<Looks>,
}

/// What is kept between looks.
struct Looks {
    broker: Option<BrokerProbe>,
    /// The last finding, and when: a probe now and then must not become a load.
    last: Option<(Instant, Result<(), String>)>,
}

/// Tells what keeps the process from its work, as far as it has met that itself.
pub type Trouble = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// For how long a finding holds.
const HOLDS: Duration = Duration::from_secs(3);

/// How long a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

impl Readiness {
    /// Of a process that needs this database, and this broker, if any; `troubles` is what else may keep it from its work.
    #[must_use]
    pub fn of(database: Client, broker: Option<BrokerProbe>, troubles: Vec<Trouble>) -> Self {
        Self { database, troubles, looks: Mutex::new(Looks { broker, last: None }) }
    }

    async fn look(&self) -> Result<(), String> {
        let Looks { broker, last } = &mut *self.looks.lock().await;
        match &*last {
            Some((at, found)) if at.elapsed() < HOLDS => found.clone(),
            _ => {
                let found = self.ask(broker.as_mut()).await;
                *last = Some((Instant::now(), found.clone()));
                found
            }
        }
    }

    async fn ask(&self, broker: Option<&mut BrokerProbe>) -> Result<(), String> {
        let silent = |server: &str| format!("the {server} does not answer");
        let database = timeout(ANSWER_TIMEOUT, self.database.probe()).await;
        database.map_err(|_| silent("database"))?.map_err(|error| format!("database: {error}"))?;
        if let Some(broker) = broker {
            let ready = timeout(ANSWER_TIMEOUT, broker.check()).await;
            ready.map_err(|_| silent("broker"))?.map_err(|error| format!("broker: {error}"))?;
        }
        self.troubles.iter().find_map(|trouble| trouble()).map_or(Ok(()), Err)
    }
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = String)))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// The process lives, and the servers that it needs answer.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = String), (status = 503, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn readyz(State(readiness): State<Arc<Readiness>>) -> Response {
    match readiness.look().await {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => Problem::new(ProblemKind::NotReady, reason).into_response(),
    }
}
