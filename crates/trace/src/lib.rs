//! What logs and traces say: the trace context of an order, and the causes of an error.

mod causes;
mod context;

pub use causes::causes;
pub use context::{BadTraceParent, HEADER, TARGET, TraceParent, follow, onward};
