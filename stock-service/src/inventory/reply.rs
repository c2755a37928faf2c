//! Reading the flat arrays that scripts return.

use redis::Value;

use super::StoreError;
use crate::stock::Shut;

/// The elements of a reply, in order.
pub(super) struct Reply {
    elements: std::vec::IntoIter<Value>,
    script: &'static str,
}

impl Reply {
    pub(super) fn of(value: Value, script: &'static str) -> Result<Self, StoreError> {
        if let Value::Array(elements) = value {
            Ok(Self { elements: elements.into_iter(), script })
        } else {
            Err(StoreError::Garbled(script))
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.elements.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.elements.len()
    }

    pub(super) fn int(&mut self) -> Result<i64, StoreError> {
        match self.elements.next() {
            Some(Value::Int(number)) => Ok(number),
            _ => Err(self.garbled()),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        match self.elements.next() {
            Some(Value::BulkString(bytes)) => String::from_utf8(bytes).map_err(|_| self.garbled()),
            Some(Value::SimpleString(text)) => Ok(text),
            _ => Err(self.garbled()),
        }
    }

    /// Text that is something.
    pub(super) fn parsed<T, E>(
        &mut self,
        parse: impl FnOnce(String) -> Result<T, E>,
    ) -> Result<T, StoreError> {
        let text = self.text()?;
        parse(text).map_err(|_| self.garbled())
    }

    pub(super) fn array(&mut self) -> Result<Self, StoreError> {
        let value = self.elements.next().ok_or_else(|| self.garbled())?;
        Self::of(value, self.script)
    }

    /// The state of the gate, the first element of most replies; `None`: open.
    pub(super) fn gate(&mut self) -> Result<Option<Shut>, StoreError> {
        gate_from(self.int()?).ok_or_else(|| self.garbled())
    }

    pub(super) fn garbled(&self) -> StoreError {
        StoreError::Garbled(self.script)
    }
}

/// A gate code of `lua/include/gate.lua`; the inner `None`: open.
pub(super) fn gate_from(code: i64) -> Option<Option<Shut>> {
    match code {
        0 => Some(None),
        -1 => Some(Some(Shut::Unknown)),
        -10 => Some(Some(Shut::Closed)),
        -11 => Some(Some(Shut::Broken)),
        _ => None,
    }
}
