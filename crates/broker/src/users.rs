use order::TimeoutKind;
use serde_json::{Value, json};

/// A user of the broker with no more rights than it needs: regular expressions for what it may configure, write to and
/// read from (<https://www.rabbitmq.com/docs/access-control#authorisation>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUser {
    /// What it is for: `overdue-publisher`, `overdue-timers`, `overdue-relay`, `overdue-worker`, `overdue-webhooks` or `overdue-operator`.
    pub name: &'static str,
    /// What it may create and delete.
    pub configure: &'static str,
    /// Where it may publish to (and what it may bind).
    pub write: &'static str,
    /// What it may consume (and bind to).
    pub read: String,
    /// Its tags, which open the management API.
    pub tags: &'static str,
}

const NOTHING: &str = "^$";

/// The users of a deployment. To look whether an object exists (a passive declaration) takes no right.
#[must_use]
pub fn users() -> [BrokerUser; 6] {
    let kinds = TimeoutKind::ALL.map(TimeoutKind::as_str).join("|");
    [
        // Services that publish order IDs themselves. What they could publish as an event, others would believe.
        BrokerUser {
            name: "overdue-publisher",
            configure: NOTHING,
            write: "^overdue[.]delay$",
            read: NOTHING.to_owned(),
            tags: "",
        },
        // Services that arm and cancel timers, and nothing else.
        BrokerUser {
            name: "overdue-timers",
            configure: NOTHING,
            write: "^overdue[.]commands$",
            read: NOTHING.to_owned(),
            tags: "",
        },
        BrokerUser {
            name: "overdue-relay",
            configure: NOTHING,
            write: "^overdue[.](lanes|events)$",
            read: NOTHING.to_owned(),
            tags: "",
        },
        BrokerUser {
            name: "overdue-worker",
            configure: NOTHING,
            write: "^overdue[.](lanes|parked|unreadable|commands)$",
            read: format!("^overdue[.]v1[.](parked|commands|due[.]({kinds})([.][0-9]+)?)$"),
            tags: "",
        },
        // Delivers events to endpoints. What fails goes back into a lane.
        BrokerUser {
            name: "overdue-webhooks",
            configure: NOTHING,
            write: "^overdue[.](lanes|parked)$",
            read: "^overdue[.]v1[.]webhook[.]".to_owned(),
            tags: "",
        },
        // `topology`, `doctor`, `parked`: to bind a queue takes the right to write to it and to read the exchange.
        BrokerUser {
            name: "overdue-operator",
            configure: "^overdue[.]",
            write: "^overdue[.]",
            read: "^overdue[.]".to_owned(),
            tags: "monitoring",
        },
    ]
}

/// The users as a definitions file for this virtual host. No login is possible before a user has a password.
#[must_use]
pub fn user_definitions(vhost: &str) -> Value {
    let permissions = users().map(|user| {
        json!({
            "user": user.name, "vhost": vhost,
            "configure": user.configure, "write": user.write, "read": user.read,
        })
    });
    let users = users().map(|user| json!({ "name": user.name, "password_hash": "", "tags": user.tags }));
    json!({ "users": users, "permissions": permissions })
}
