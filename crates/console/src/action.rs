/// What an operator can do. Each is a POST to `/console/act/` and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Close an order now.
    OrderClose,
    /// Give the customer of an order more time.
    OrderExtend,
    /// Have an order looked at.
    OrderLook,
    /// Send parked messages in again.
    ParkedRequeue,
    /// Drop parked messages.
    ParkedDrop,
    /// Have dropped messages back.
    ParkedRestore,
    /// Say that a refund is done with.
    RefundResolve,
    /// Have a refund asked for again.
    RefundRetry,
    /// Try a gateway or an endpoint at once.
    CircuitProbe,
    /// Send an endpoint nothing more.
    EndpointStop,
    /// Let an endpoint go on.
    EndpointResume,
    /// Miss a process no more.
    ProcessForget,
    /// Fire a timer now.
    TimerFire,
    /// Cancel a timer.
    TimerCancel,
    /// Run the doctor.
    DoctorRun,
    /// Run the audit.
    AuditRun,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 16] = [
        Self::OrderClose,
        Self::OrderExtend,
        Self::OrderLook,
        Self::ParkedRequeue,
        Self::ParkedDrop,
        Self::ParkedRestore,
        Self::RefundResolve,
        Self::RefundRetry,
        Self::CircuitProbe,
        Self::EndpointStop,
        Self::EndpointResume,
        Self::ProcessForget,
        Self::TimerFire,
        Self::TimerCancel,
        Self::DoctorRun,
        Self::AuditRun,
    ];

    /// Its name in addresses.
    #[must_use]
    pub fn slug(self) -> &'static str {
        match self {
            Self::OrderClose => "order-close",
            Self::OrderExtend => "order-extend",
            Self::OrderLook => "order-look",
            Self::ParkedRequeue => "parked-requeue",
            Self::ParkedDrop => "parked-drop",
            Self::ParkedRestore => "parked-restore",
            Self::RefundResolve => "refund-resolve",
            Self::RefundRetry => "refund-retry",
            Self::CircuitProbe => "circuit-probe",
            Self::EndpointStop => "endpoint-stop",
            Self::EndpointResume => "endpoint-resume",
            Self::ProcessForget => "process-forget",
            Self::TimerFire => "timer-fire",
            Self::TimerCancel => "timer-cancel",
            Self::DoctorRun => "doctor-run",
            Self::AuditRun => "audit-run",
        }
    }

    /// Its name on record, such as `order.close`.
    #[must_use]
    pub fn name(self) -> String {
        self.slug().replace('-', ".")
    }

    pub(crate) fn parse(slug: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.slug() == slug)
    }
}
