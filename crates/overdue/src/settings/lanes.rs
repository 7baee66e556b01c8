use clap::Args;
use order::{Lane, Lanes, Shards};

#[derive(Debug, Clone, Args)]
pub(crate) struct LaneSettings {
    /// The shop's payment timeouts: each gets a lane of its own, in addition to the standard ones (1s 5s 30s 2m 10m
    /// 15m 30m 2h 12h 1d). The same for `topology` and for every role
    #[arg(
        long,
        env = "OVERDUE_PAYMENT_TIMEOUTS",
        default_value = "30m",
        value_delimiter = ',',
        value_name = "DURATION,..."
    )]
    payment_timeouts: Vec<Lane>,
    /// Over how many queues each lane and each due queue is spread, for clusters whose nodes share the work. The same
    /// for `topology` and for every role; more may be added later, never fewer while messages wait
    #[arg(long, env = "OVERDUE_SHARDS", default_value = "1", value_parser = shards, value_name = "COUNT")]
    shards: Shards,
}

impl LaneSettings {
    /// With these payment timeouts, and one shard.
    pub(crate) fn of(payment_timeouts: Vec<Lane>) -> Self {
        Self { payment_timeouts, shards: Shards::ONE }
    }

    pub(crate) fn lanes(&self) -> Lanes {
        Lanes::standard(&self.payment_timeouts).sharded(self.shards)
    }
}

fn shards(text: &str) -> Result<Shards, String> {
    let count = text.parse().map_err(|_| format!("{text:?} is not a whole number"))?;
    Shards::new(count).map_err(|error| error.to_string())
}
