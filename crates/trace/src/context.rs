//! The trace context of an order, handed on from its creation to its close: the header `traceparent` of W3C Trace Context
//! (<https://www.w3.org/TR/trace-context/#traceparent-header>), in the outbox and in messages. Only this file and the
//! program's telemetry know OpenTelemetry.

use std::fmt;
use std::str::FromStr;

use tracing::Span;

/// The name of the header, in HTTP and in AMQP.
pub const HEADER: &str = "traceparent";

/// The target of the spans that are for tracing alone. Logs leave them out.
pub const TARGET: &str = "overdue::trace";

/// The most contexts that a span refers to. A batch may have more; the others are left out.
#[cfg(feature = "otel")]
const LINKS_MAX: usize = 32;

/// Which trace, and which span in it: `00-<trace ID>-<span ID>-<flags>`, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TraceParent(String);

/// A text that is no trace context of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadTraceParent;

impl TraceParent {
    /// The header's value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TraceParent {
    type Err = BadTraceParent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let parts: Vec<&str> = text.split('-').collect();
        let fits = match parts[..] {
            ["00", trace, span, flags] => {
                let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
                hex(trace, 32) && hex(span, 16) && hex(flags, 2) && !zero(trace) && !zero(span)
            }
            _ => false,
        };
        if fits { Ok(Self(text.to_owned())) } else { Err(BadTraceParent) }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The context to hand on from inside this span: its own. A build that makes no traces hands on what came in, if all of it
/// has one context: what belongs to no trace gets none of its neighbours'.
#[must_use]
pub fn onward(span: &Span, parents: &[Option<TraceParent>]) -> Option<TraceParent> {
    context(span).or_else(|| the_one(parents).cloned())
}

/// The context of all, if it is one.
fn the_one(parents: &[Option<TraceParent>]) -> Option<&TraceParent> {
    let first = parents.first()?.as_ref()?;
    parents.iter().all(|parent| parent.as_ref() == Some(first)).then_some(first)
}

/// Makes a span that has not been entered the continuation of what came in. It becomes the child of the context that all
/// have, and refers to each of several.
#[cfg(feature = "otel")]
pub fn follow(span: &Span, parents: &[Option<TraceParent>]) {
    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
    use tracing_opentelemetry::OpenTelemetrySpanExt;
    let remote = |parent: &TraceParent| {
        let parts: Vec<&str> = parent.0.split('-').collect();
        let trace = TraceId::from_hex(parts[1]).unwrap_or(TraceId::INVALID);
        let span = SpanId::from_hex(parts[2]).unwrap_or(SpanId::INVALID);
        let flags = u8::from_str_radix(parts[3], 16).unwrap_or(0);
        SpanContext::new(trace, span, TraceFlags::new(flags), true, TraceState::default())
    };
    if let Some(parent) = the_one(parents) {
        let context = opentelemetry::Context::new().with_remote_span_context(remote(parent));
        // Fails where no collector is set up.
        let _ = span.set_parent(context);
        return;
    }
    let mut different: Vec<&TraceParent> = Vec::new();
    for parent in parents.iter().flatten() {
        if different.len() < LINKS_MAX && !different.contains(&parent) {
            different.push(parent);
        }
    }
    different.into_iter().for_each(|parent| span.add_link(remote(parent)));
}

/// Does nothing: this build makes no traces.
#[cfg(not(feature = "otel"))]
pub fn follow(_span: &Span, _parents: &[Option<TraceParent>]) {}

#[cfg(feature = "otel")]
fn context(span: &Span) -> Option<TraceParent> {
    use opentelemetry::trace::TraceContextExt;
    use tracing_opentelemetry::OpenTelemetrySpanExt;
    let context = span.context();
    let context = context.span().span_context().clone();
    let flags = context.trace_flags().to_u8();
    let text = format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
    context.is_valid().then_some(TraceParent(text))
}

#[cfg(not(feature = "otel"))]
fn context(_span: &Span) -> Option<TraceParent> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_the_form_of_the_standard_is_taken() {
        assert_eq!(GOOD.parse::<TraceParent>().unwrap().as_str(), GOOD);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(BadTraceParent), "{bad}");
        }
    }

    #[test]
    fn without_traces_of_our_own_one_context_is_handed_on_and_several_are_not() {
        let one: TraceParent = GOOD.parse().unwrap();
        let other: TraceParent = GOOD.replace("4bf9", "4bf8").parse().unwrap();
        let span = Span::none();
        let (one, other) = (Some(one), Some(other));
        assert_eq!(onward(&span, &[one.clone(), one.clone()]), one);
        assert_eq!(onward(&span, &[one.clone(), other]), None);
        assert_eq!(onward(&span, &[one.clone(), None]), None, "the neighbour belongs to no trace");
        assert_eq!(onward(&span, &[None, one]), None);
        assert_eq!(onward(&span, &[]), None);
    }
}
