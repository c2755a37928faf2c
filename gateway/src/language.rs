//! The `detail` of problems in the client's language: English, or Chinese.

use actix_web::http::header::{ACCEPT_LANGUAGE, HeaderMap};
use common::problem::{Code, Problem};

/// Most entries of Accept-Language that are looked at.
const ENTRIES_MAX: usize = 16;

/// A language that problems can be told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `en`
    English,
    /// `zh-CN`
    Chinese,
}

impl Language {
    /// What the client likes best of these two; English unless it says otherwise.
    pub fn of(headers: &HeaderMap) -> Self {
        let Some(wish) = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()) else {
            return Self::English;
        };
        let (mut english, mut chinese) = (0.0_f32, 0.0_f32);
        for entry in wish.split(',').take(ENTRIES_MAX) {
            let (tag, parameters) = entry.split_once(';').unwrap_or((entry, ""));
            let quality =
                parameters.trim().strip_prefix("q=").map_or(1.0, |q| q.trim().parse().unwrap_or(0.0));
            let primary = tag.trim().split('-').next().unwrap_or_default();
            if primary.eq_ignore_ascii_case("zh") {
                chinese = chinese.max(quality);
            } else if primary.eq_ignore_ascii_case("en") || primary == "*" {
                english = english.max(quality);
            }
        }
        if chinese > english { Self::Chinese } else { Self::English }
    }

    /// The language's tag.
    pub fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh-CN",
        }
    }
}

/// The problem with its detail in `language`. In English it is as it was written.
pub fn localise(mut problem: Problem, language: Language) -> Problem {
    if language == Language::Chinese {
        problem.detail = match (&problem.field, problem.code) {
            (Some(field), Code::InvalidRequest) => format!("请求无效：{field} 不符合要求。").into(),
            _ => chinese(problem.code).into(),
        };
    }
    problem
}

fn chinese(code: Code) -> &'static str {
    match code {
        Code::InvalidRequest => "请求无效。",
        Code::Unauthenticated => "需要有效的访问令牌。",
        Code::Forbidden => "您的角色无权执行此操作。",
        Code::PlaceRequired => "请先排队，并凭排队获得的购买令牌下单。",
        Code::ChallengeRequired => "请完成验证后携带答案重试。",
        Code::Blocked => "该账号、设备或网络已被限制，请联系客服。",
        Code::NotFound => "资源不存在。",
        Code::MethodNotAllowed => "此处不支持该请求方法。",
        Code::TooLarge => "请求体过大。",
        Code::UnsupportedMediaType => "请求体必须是 application/json。",
        Code::NotStarted => "活动尚未开始。",
        Code::Ended => "活动已结束。",
        Code::Paused => "活动已暂停。",
        Code::SoldOut => "已售罄。",
        Code::LimitExceeded => "您已拥有或已尝试的数量达到上限。",
        Code::InvalidTransition => "当前状态不允许此操作。",
        Code::IdempotencyMismatch => "该 Idempotency-Key 已用于另一个请求。",
        Code::RateLimited => "请求过于频繁，请稍后再试。",
        Code::TooBusy => "当前人数过多，请稍后再试。",
        Code::Unavailable => "服务暂时不可用，请稍后再试。",
        Code::OutcomeUnknown => "结果暂时未知，请使用相同的 Idempotency-Key 重试。",
        Code::Internal => "服务器内部错误。",
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn the_better_liked_language_wins_and_english_is_the_default() {
        let table = [
            ("", Language::English),
            ("zh-CN", Language::Chinese),
            ("zh", Language::Chinese),
            ("zh-Hans-CN, en;q=0.5", Language::Chinese),
            ("en, zh;q=0.9", Language::English),
            ("en;q=0.1, zh;q=0.9", Language::Chinese),
            ("zh;q=0", Language::English),
            ("fr", Language::English),
            ("fr, zh;q=0.3", Language::Chinese),
            ("zh;q=nonsense", Language::English),
            ("*", Language::English),
            (";;;,,,q=", Language::English),
        ];
        for (wish, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static(wish));
            assert_eq!(Language::of(&headers), expected, "{wish}");
        }
    }
}
