//! What logs and traces say: the trace context of an order, the causes of an error, and how often the same is said.

mod causes;
mod context;
mod throttle;

pub use causes::causes;
pub use context::{BadTraceParent, HEADER, TARGET, TraceParent, follow, onward};
pub use throttle::Throttle;
