//! Crash points and planted mistakes, as the services list them.

use serde::Serialize;

/// What happens at a crash point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The process aborts.
    Abort,
    /// It stands still for a while.
    Pause,
    /// The step fails.
    Error,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Abort, Self::Pause, Self::Error];

    /// In the language of `common::failpoint`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Pause => "pause",
            Self::Error => "error",
        }
    }
}

/// Every crash point with its service.
pub fn all() -> Vec<(&'static str, &'static str)> {
    let gateway = gateway::crash_points::ALL.map(|point| ("gateway", point));
    let stock = stock_service::crash_points::ALL.map(|point| ("stock-service", point));
    let order = order_service::crash_points::ALL.map(|point| ("order-service", point));
    let notify = notify_service::crash_points::ALL.map(|point| ("notify-service", point));
    gateway.into_iter().chain(stock).chain(order).chain(notify).collect()
}

/// Every planted mistake with its service.
pub fn planted() -> Vec<(&'static str, &'static str)> {
    let gateway = gateway::planted::ALL.map(|mistake| ("gateway", mistake));
    let stock = stock_service::planted::ALL.map(|mistake| ("stock-service", mistake));
    let order = order_service::planted::ALL.map(|mistake| ("order-service", mistake));
    let notify = notify_service::planted::ALL.map(|mistake| ("notify-service", mistake));
    gateway.into_iter().chain(stock).chain(order).chain(notify).collect()
}
