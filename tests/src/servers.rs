use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method};
use serde_json::Value;
use url::Url;

/// A setting that tells where a server is.
///
/// # Panics
/// Without it, with a sentence that says how to get it.
#[must_use]
pub fn env(name: &str) -> String {
    if let Some(value) = OTHERS.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
        return value.clone();
    }
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run the tests with `make test`, or set it as CONTRIBUTING.md says")
    })
}

/// Settings that lead elsewhere than the environment says.
static OTHERS: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);

/// From now on all worlds of this process are made on other servers (`None`: those of the environment again).
pub fn use_servers(others: Option<HashMap<String, String>>) {
    *OTHERS.lock().unwrap_or_else(PoisonError::into_inner) = others.unwrap_or_default();
}

/// Calls RabbitMQ's management API as the administrator. Returns the answer, or null where there is none.
///
/// # Panics
/// If the API does not answer with success.
pub async fn management(method: Method, path: &[&str], body: Option<Value>) -> Value {
    install();
    // A client belongs to the runtime that uses it, and each test has one of its own.
    let client = Client::builder().timeout(Duration::from_secs(60)).build().expect("an HTTP client");
    let base: Url = env("OVERDUE_MANAGEMENT_URL").parse().expect("OVERDUE_MANAGEMENT_URL is a URL");
    let host = format!(
        "{}://{}:{}",
        base.scheme(),
        base.host_str().unwrap_or_default(),
        base.port_or_known_default().unwrap_or(80)
    );
    let path: Vec<String> =
        path.iter().map(|segment| utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string()).collect();
    let url = format!("{host}/api/{}", path.join("/"));
    for attempt in 1.. {
        let mut request = client.request(method.clone(), &url).basic_auth(base.username(), base.password());
        if let Some(body) = &body {
            request = request.json(body);
        }
        let response = request.send().await.expect("the management API answers");
        // A cluster on a busy machine may need longer for a virtual host than the API waits; it is there the next time.
        let busy = method == Method::PUT && response.status().is_server_error() && attempt < 5;
        if !busy {
            assert!(response.status().is_success(), "{method} {} answered {}", path.join("/"), response.status());
            return response.json().await.unwrap_or(Value::Null);
        }
    }
    unreachable!("the last attempt returns or panics")
}

/// What a program's `main` does first: the TLS provider, and logs (shown for tests that fail).
pub(crate) fn install() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let filter =
        tracing_subscriber::EnvFilter::new("info,overdue_worker=debug,overdue_relay=debug,lapin=off,sqlx=warn");
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}
