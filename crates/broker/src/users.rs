use serde_json::{Value, json};

/// A user of the broker, with no more rights than it needs: regular expressions for what it may configure, write to and
/// read from (<https://www.rabbitmq.com/docs/access-control#authorisation>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerUser {
    /// What it is for: `overdue-publisher`, `overdue-worker` or `overdue-operator`.
    pub name: &'static str,
    /// What it may create and delete.
    pub configure: &'static str,
    /// Where it may publish to (and what it may bind).
    pub write: &'static str,
    /// What it may consume (and bind to).
    pub read: &'static str,
    /// Its tags, which open the management API.
    pub tags: &'static str,
}

const NOTHING: &str = "^$";

/// The users of a deployment. To look whether an object exists (a passive declaration) takes no right.
pub const USERS: [BrokerUser; 3] = [
    // Relays, and services that publish order IDs themselves.
    BrokerUser {
        name: "overdue-publisher",
        configure: NOTHING,
        write: "^overdue[.](delay|lanes|events)$",
        read: NOTHING,
        tags: "",
    },
    BrokerUser {
        name: "overdue-worker",
        configure: NOTHING,
        write: "^overdue[.](lanes|parked)$",
        read: "^overdue[.]v1[.]due[.](payment|gateway)([.][0-9]+)?$",
        tags: "",
    },
    // `topology`, `doctor`, `parked`: to bind a queue takes the right to write to it and to read the exchange.
    BrokerUser {
        name: "overdue-operator",
        configure: "^overdue[.]",
        write: "^overdue[.]",
        read: "^overdue[.]",
        tags: "monitoring",
    },
];

/// The users as a definitions file for this virtual host. Nobody can log in as one of them before it has got a password.
#[must_use]
pub fn user_definitions(vhost: &str) -> Value {
    let users = USERS.map(|user| json!({ "name": user.name, "password_hash": "", "tags": user.tags }));
    let permissions = USERS.map(|user| {
        json!({
            "user": user.name, "vhost": vhost,
            "configure": user.configure, "write": user.write, "read": user.read,
        })
    });
    json!({ "users": users, "permissions": permissions })
}
