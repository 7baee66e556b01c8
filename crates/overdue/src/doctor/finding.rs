use serde::Serialize;

/// A fault of the deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Where it is.
    pub(super) object: String,
    /// What is wrong with it.
    pub(super) problem: String,
    /// What to do.
    pub(super) advice: String,
}

impl Finding {
    pub(super) fn new(object: impl Into<String>, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { object: object.into(), problem: problem.into(), advice: advice.into() }
    }
}

impl From<broker::Finding> for Finding {
    fn from(finding: broker::Finding) -> Self {
        let broker::Finding { object, problem, advice } = finding;
        Self { object, problem, advice }
    }
}
