use std::num::NonZeroU32;
use std::time::Duration;

use order::CloseRules;
use retry::Policy;

/// How gateways are asked.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// How many calls to one gateway may be under way at a time.
    pub calls_in_flight_max: usize,
    /// How many calls a second one gateway gets at most; `None`: as many as it takes.
    pub calls_per_second_max: Option<NonZeroU32>,
    /// How long a call may take.
    pub call_timeout: Duration,
    /// How often one attempt at an order begins anew because no answer came.
    pub tries: u32,
    /// The times of the close protocol. The gateway's own minimum age comes on top.
    pub rules: CloseRules,
    /// The delays between attempts at an order.
    pub back_off: Policy,
    /// After so many attempts that settled nothing an order is parked. With the usual delays, 60 take nine hours.
    pub attempts_max: u32,
    /// How long after its deadline an order may wait for what is no failure, such as a customer who is just paying, before that
    /// counts as an attempt.
    pub later_max: Duration,
    /// How long an order waits while its gateway cannot be asked at all.
    pub hold: Duration,
    /// A refund that has not been accepted after this time needs a person.
    pub refund_age_max: Duration,
    /// A trade that the gateway did not know when its order was closed is looked for once more after this time.
    pub look_again_after: Duration,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            calls_in_flight_max: 64,
            calls_per_second_max: NonZeroU32::new(500),
            call_timeout: Duration::from_secs(5),
            tries: 3,
            rules: CloseRules::default(),
            back_off: Policy { initial: Duration::from_secs(2), max: Duration::from_secs(600) },
            attempts_max: 60,
            later_max: Duration::from_hours(6),
            hold: Duration::from_secs(30),
            refund_age_max: Duration::from_hours(24),
            look_again_after: Duration::from_secs(900),
        }
    }
}
