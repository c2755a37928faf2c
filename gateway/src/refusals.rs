//! Counts refusals by code, without touching the global registry for each.

use std::sync::OnceLock;

use common::problem::Code;
use metrics::Counter;

/// One counter per code that was ever sent.
#[derive(Default)]
pub struct Refusals([OnceLock<Counter>; Code::COUNT]);

impl Refusals {
    /// One more.
    pub fn count(&self, code: Code) {
        let counter = self.0[code as usize].get_or_init(|| {
            // Named as on the wire.
            let name = serde_json::to_value(code).ok();
            let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or("unnamed").to_owned();
            metrics::counter!("gateway_refusals_total", "code" => name)
        });
        counter.increment(1);
    }
}

#[cfg(test)]
mod tests {
    use utoipa::PartialSchema as _;

    use super::*;

    #[test]
    fn every_code_has_a_place() {
        let schema = serde_json::to_value(Code::schema()).unwrap();
        let codes = schema["enum"].as_array().expect("an enum").clone();
        assert_eq!(codes.len(), Code::COUNT);
        for code in codes {
            let code: Code = serde_json::from_value(code).unwrap();
            assert!((code as usize) < Code::COUNT, "{code:?}");
        }
    }
}
