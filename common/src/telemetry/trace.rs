//! Traces: who works for whom, across processes.
//!
//! Every request and every batch of messages has a trace context, so that log lines can be put together. Spans are made
//! only where the context is sampled: for everything else the cost is that of passing the context on, and that is why
//! spans are not made through `tracing`, whose spans are made before anybody knows whether they are kept.
//!
//! A batch works for several at once: its span is a child of the first sampled one, and linked to the others.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use opentelemetry::trace::{
    FutureExt as _, Link, SpanBuilder, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags,
    TraceId, TraceState, Tracer as _, WithContext,
};
use opentelemetry::{KeyValue, Value};
use rand::Rng as _;

pub use opentelemetry::Context;
pub use opentelemetry::trace::SpanKind;

/// The header that carries the trace context.
pub const TRACEPARENT_HEADER: &str = "traceparent";

/// Length of a `traceparent`: version, trace, span, flags.
const TRACEPARENT_LENGTH: usize = 55;
/// Most others that one span is linked to.
const LINKS_MAX: usize = 32;
/// Most traces a second that strangers may ask for by a `traceparent` that says "sampled".
const ASKED_FOR_PER_SECOND_MAX: u64 = 20;
/// The name of what makes spans.
const SCOPE: &str = "stampede";

/// Where a piece of work comes from: small enough to travel with every request in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    trace: TraceId,
    span: SpanId,
    sampled: bool,
}

impl Origin {
    /// Nobody's.
    pub const NONE: Self = Self { trace: TraceId::INVALID, span: SpanId::INVALID, sampled: false };

    /// What this task is at work on.
    pub fn current() -> Self {
        Context::map_current(Self::of)
    }

    /// From a `traceparent`; [`Origin::NONE`] if it is not valid.
    pub fn parse(traceparent: &str) -> Self {
        parse(traceparent).unwrap_or(Self::NONE)
    }

    /// As a `traceparent`; `None` for nobody's.
    pub fn traceparent(self) -> Option<String> {
        let flags = u8::from(self.sampled);
        self.is_some().then(|| format!("00-{}-{}-{flags:02x}", self.trace, self.span))
    }

    /// Whether its spans are kept.
    pub fn is_sampled(self) -> bool {
        self.sampled
    }

    fn is_some(self) -> bool {
        self != Self::NONE
    }

    fn of(context: &Context) -> Self {
        let span = context.span();
        let span = span.span_context();
        Self { trace: span.trace_id(), span: span.span_id(), sampled: span.is_sampled() }
    }

    fn span_context(self) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        SpanContext::new(self.trace, self.span, flags, true, TraceState::NONE)
    }

    /// To work in the name of it, without a span of its own.
    pub fn context(self) -> Context {
        if self.is_some() {
            Context::new().with_remote_span_context(self.span_context())
        } else {
            Context::new()
        }
    }
}

fn parse(text: &str) -> Option<Origin> {
    let text = text.trim();
    let later = text.len() > TRACEPARENT_LENGTH && text.as_bytes().get(TRACEPARENT_LENGTH) == Some(&b'-');
    let known = text.len() == TRACEPARENT_LENGTH;
    let head = text.get(..TRACEPARENT_LENGTH).filter(|_| known || (later && !text.starts_with("00")))?;
    let mut parts = head.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !(hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16) && hex(flags, 2)) {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some(Origin { trace, span, sampled })
}

/// The trace context of the current work as a `traceparent`; `None` without one.
pub fn current_traceparent() -> Option<String> {
    Origin::current().traceparent()
}

/// The id of the trace that this task works in, for people who ask; `None` without one.
pub fn current_trace_id() -> Option<String> {
    let origin = Origin::current();
    origin.is_some().then(|| origin.trace.to_string())
}

/// What a span is called and says. No personal data, no secrets: it leaves the process.
pub struct Describe(SpanBuilder);

impl Describe {
    /// A span; names are few, ids belong into attributes.
    pub fn new(name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Self {
        Self(SpanBuilder::from_name(name).with_kind(kind).with_attributes([]))
    }

    /// Says one thing more, by OpenTelemetry's semantic conventions where there is a name.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.0.attributes.get_or_insert_default().push(KeyValue::new(key, value));
        self
    }
}

/// A piece of the current work, as a context to do it in: [`within`]. Without a sampled trace it is
/// the current context, and nothing is described.
pub fn child(describe: impl FnOnce() -> Describe) -> Context {
    child_of(&Context::current(), describe)
}

/// As [`child`], of other work than the current.
pub fn child_of(parent: &Context, describe: impl FnOnce() -> Describe) -> Context {
    if parent.span().span_context().is_sampled() {
        start(describe(), parent, Vec::new())
    } else {
        parent.clone()
    }
}

/// The common work for several origins; see the module.
pub fn batch(origins: impl IntoIterator<Item = Origin>, describe: impl FnOnce() -> Describe) -> Context {
    let mut first = Origin::NONE;
    let mut links: Vec<Link> = Vec::new();
    for origin in origins {
        if !origin.sampled {
            first = if first.is_some() { first } else { origin };
        } else if !first.sampled {
            first = origin;
        } else if origin.span != first.span && links.len() < LINKS_MAX {
            let context = origin.span_context();
            if links.iter().all(|link| link.span_context.span_id() != origin.span) {
                links.push(Link::with_context(context));
            }
        }
    }
    if first.sampled { start(describe(), &first.context(), links) } else { renewed(first).context() }
}

/// Does `work` in this context: its spans are children, its log lines have its ids, and its calls pass it on.
pub fn within<F: Future>(context: Context, work: F) -> WithContext<F> {
    work.with_context(context)
}

/// Says that what `context` was begun for did not work. `what` is one of few texts.
pub fn fail(context: &Context, what: &'static str) {
    context.span().set_status(Status::error(what));
}

/// Adds to the span of the current work, if it is kept.
pub fn note(key: &'static str, value: impl FnOnce() -> String) {
    Context::map_current(|context| {
        if context.span().is_recording() {
            note_on(context, key, value());
        }
    });
}

/// Adds to the span of `context`, if it is kept.
pub fn note_on(context: &Context, key: &'static str, value: impl Into<Value>) {
    context.span().set_attribute(KeyValue::new(key, value));
}

fn start(Describe(mut builder): Describe, parent: &Context, links: Vec<Link>) -> Context {
    if !links.is_empty() {
        builder = builder.with_links(links);
    }
    parent.with_span(opentelemetry::global::tracer(SCOPE).build_with_context(builder, parent))
}

/// The same trace with a span id of its own; a new trace if there is none.
fn renewed(origin: Origin) -> Origin {
    let mut rng = rand::rng();
    let trace = if origin.is_some() { origin.trace } else { TraceId::from_bytes(rng.random()) };
    Origin { trace, span: SpanId::from_bytes(rng.random()), sampled: origin.sampled }
}

/// Who decides which requests are traced: the caller, or, where there is none, chance.
#[derive(Debug, Clone, Default)]
pub struct Sampling {
    on: bool,
    /// Compared with the lower 63 bits of a trace id, as OpenTelemetry's own sampler by ratio does.
    threshold: u64,
    /// Set where strangers call.
    asked: Option<Arc<Asked>>,
}

/// What strangers have asked for in this second.
#[derive(Debug)]
struct Asked {
    since: Instant,
    /// The second in the upper 32 bits, how many in the lower.
    count: AtomicU64,
}

impl Sampling {
    /// Keeps this part, 0 to 1, of traces that nobody has decided about; without `on`, none at all.
    pub fn new(on: bool, ratio: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a ratio of 0 to 1 of a positive number"
        )]
        let threshold = (ratio * (1_u64 << 63) as f64) as u64;
        Self { on, threshold, asked: None }
    }

    /// The same for a port that strangers reach: they cannot have everything traced.
    #[must_use]
    pub(crate) fn for_strangers(self) -> Self {
        Self { asked: Some(Arc::new(Asked { since: Instant::now(), count: AtomicU64::new(0) })), ..self }
    }

    /// The context of a request that came with `traceparent`.
    pub fn request(&self, traceparent: Option<&str>, describe: impl FnOnce() -> Describe) -> Context {
        let caller = traceparent.map_or(Origin::NONE, Origin::parse);
        let begun = caller.is_some();
        if self.on && caller.sampled && self.asked.as_ref().is_none_or(|asked| asked.one_more()) {
            return start(describe(), &caller.context(), Vec::new());
        }
        let origin = Origin { sampled: false, ..renewed(caller) };
        let chosen = (u128::from_be_bytes(origin.trace.to_bytes()) & u128::from(u64::MAX >> 1))
            < u128::from(self.threshold);
        if self.on && !begun && chosen {
            return start(describe(), &Context::new(), Vec::new());
        }
        origin.context()
    }
}

impl Asked {
    fn one_more(&self) -> bool {
        let second = self.since.elapsed().as_secs() << 32;
        let count = |seen: u64| {
            if seen & !u64::from(u32::MAX) == second { (seen & u64::from(u32::MAX)) + 1 } else { 1 }
        };
        let raise = |seen: u64| Some(second | count(seen).min(u64::from(u32::MAX)));
        let seen = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise).unwrap_or(0);
        count(seen) <= ASKED_FOR_PER_SECOND_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_as_the_standard_says_and_written_again() {
        assert_eq!(Origin::parse(TRACEPARENT).traceparent().as_deref(), Some(TRACEPARENT));
        let later = format!("cc{}-what-comes-later", &TRACEPARENT[2..]);
        assert!(Origin::parse(&later).is_sampled());
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-01",
        ] {
            assert_eq!(Origin::parse(bad), Origin::NONE, "{bad:?}");
        }
    }

    #[test]
    fn without_a_sampled_trace_nothing_is_described() {
        let sampling = Sampling::new(true, 0.0);
        for traceparent in [None, Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")] {
            let context = sampling.request(traceparent, || unreachable!("not sampled"));
            assert!(Origin::of(&context).is_some(), "log lines have a trace id all the same");
            let piece = child_of(&context, || unreachable!("not sampled"));
            assert_eq!(Origin::of(&piece), Origin::of(&context));
        }
        let off = Sampling::new(false, 1.0);
        assert!(!Origin::of(&off.request(Some(TRACEPARENT), || unreachable!("off"))).is_sampled());
    }

    #[test]
    fn the_ratio_is_kept() {
        let sampling = Sampling::new(true, 0.25);
        let kept = (0..4_000).filter(|_| {
            let mut described = false;
            sampling.request(None, || {
                described = true;
                Describe::new("request", SpanKind::Server)
            });
            described
        });
        assert!((800..1_200).contains(&kept.count()));
    }

    #[test]
    fn strangers_cannot_have_everything_traced() {
        let sampling = Sampling::new(true, 0.0).for_strangers();
        let kept = (0..10_000).filter(|_| {
            let mut described = false;
            sampling.request(Some(TRACEPARENT), || {
                described = true;
                Describe::new("request", SpanKind::Server)
            });
            described
        });
        assert!((20..=80).contains(&kept.count()));
    }
}
