use std::fmt;

/// A fault of the live broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it is: `queue overdue.v1.delay.30m`.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub advice: String,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// The faults. None means that everything that was checked is in order.
    pub findings: Vec<Finding>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
}

impl Finding {
    pub(crate) fn new(object: impl Into<String>, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { object: object.into(), problem: problem.into(), advice: advice.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.object, self.problem, self.advice)
    }
}
