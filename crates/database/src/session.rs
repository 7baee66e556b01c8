//! What a connection is for, and the settings of its session that follow from it.

use std::time::Duration;

/// What connections are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Loading and settling some orders out of very many, by their keys.
    Settle,
    /// Claiming and deleting rows of the outbox.
    Relay,
    /// Creating and changing single orders.
    Shop,
    /// Questions about whole tables.
    Report,
    /// Creating and changing orders for clients. No connection waits for a lock: the request tries again without one.
    Clients,
    /// Looking at orders in a read replica.
    Replica,
}

/// Which servers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Any,
    /// One that takes writes.
    Primary,
    /// One that takes none.
    Standby,
}

impl Target {
    /// Whether a server will do that takes no writes (or takes them).
    pub(crate) fn is(self, read_only: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Primary => !read_only,
            Self::Standby => read_only,
        }
    }
}

impl Purpose {
    /// Whether any server will do, or only one that takes writes.
    pub(crate) fn target(self) -> Target {
        match self {
            Self::Settle | Self::Relay | Self::Shop | Self::Clients => Target::Primary,
            Self::Report | Self::Replica => Target::Any,
        }
    }

    /// Settings of the session.
    ///
    /// Loading and settling must look rows up by their keys whatever the planner believes of the tables: in a flash sale
    /// the statistics are those of the quiet hour before, and a plan that reads a whole table, or all pending orders, for
    /// each batch would never come to an end. A plan that knows no batch size (generic) and joins that can only be nested
    /// loops over indexes leave nothing else to choose; it also saves planning each batch anew. And no batch waits for long
    /// for a row that another transaction holds locked: a batch goes on without it.
    ///
    /// Rows of the outbox are found by their keys, although the statistics, made when it was empty, say that reading all
    /// of it costs nothing.
    ///
    /// What a client asks of an order has one plan as well, by its key: planning anew took as long as the answer.
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Settle => &[
                ("plan_cache_mode", "force_generic_plan"),
                ("enable_seqscan", "off"),
                ("enable_bitmapscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("enable_material", "off"),
                ("lock_timeout", "300"),
            ],
            Self::Relay => &[("plan_cache_mode", "force_custom_plan"), ("enable_seqscan", "off")],
            Self::Replica => &[("default_transaction_read_only", "on"), ("plan_cache_mode", "force_generic_plan")],
            Self::Clients => &[("lock_timeout", "100"), ("plan_cache_mode", "force_generic_plan")],
            Self::Shop | Self::Report => &[],
        }
    }
}

/// How the server finds out that we are gone without a word: locks, and the lead of the sweep, would be held
/// for hours by its own defaults.
const SERVER_KEEPALIVES: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "15"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")];

/// Whether this program sets this setting itself, so that a value of the user's would have no effect.
pub(crate) fn is_ours(name: &str) -> bool {
    let all =
        [Purpose::Settle, Purpose::Relay, Purpose::Clients, Purpose::Replica].into_iter().flat_map(Purpose::settings);
    let fixed =
        ["TimeZone", "DateStyle", "application_name", "statement_timeout", "idle_in_transaction_session_timeout"];
    let ours = all.chain(&SERVER_KEEPALIVES).map(|(name, _)| *name).chain(fixed);
    ours.into_iter().any(|ours| ours.eq_ignore_ascii_case(name))
}

/// All settings of a session: the user's first, so that of two values of one setting ours holds.
pub(crate) fn settings(
    users: &[(String, String)],
    purpose: Purpose,
    statement_timeout: Duration,
) -> Vec<(String, String)> {
    let timeout_ms = statement_timeout.as_millis().to_string();
    let fixed = [
        ("TimeZone", "UTC"),
        ("DateStyle", "ISO"),
        ("statement_timeout", timeout_ms.as_str()),
        ("idle_in_transaction_session_timeout", timeout_ms.as_str()),
    ];
    let ours = fixed.iter().chain(&SERVER_KEEPALIVES).chain(purpose.settings());
    let ours = ours.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    users.iter().cloned().chain(ours).collect()
}
