//! Counts refusals by code, without touching the global registry for each.

use std::collections::HashMap;

use common::problem::Code;
use metrics::Counter;
use parking_lot::RwLock;

/// One counter per code that was ever sent.
#[derive(Default)]
pub struct Refusals(RwLock<HashMap<Code, Counter>>);

impl Refusals {
    /// One more.
    pub fn count(&self, code: Code) {
        if let Some(counter) = self.0.read().get(&code) {
            counter.increment(1);
            return;
        }
        // Named as on the wire.
        let name = serde_json::to_value(code).ok();
        let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or("unnamed").to_owned();
        let counter = metrics::counter!("gateway_refusals_total", "code" => name);
        counter.increment(1);
        self.0.write().insert(code, counter);
    }
}
