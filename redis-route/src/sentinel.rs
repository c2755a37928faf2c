//! Who is the primary: several sentinels are asked, then the server itself.

use std::sync::Arc;

use futures_util::future::join_all;
use redis::Value;

use crate::{Address, Node};

/// Each address that a sentinel names, those that most of them name first.
pub(crate) async fn primaries(sentinels: &[Arc<Node>], master_name: &str) -> Vec<Address> {
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(master_name);
    let answers = join_all(sentinels.iter().map(|sentinel| sentinel.call(0, &question))).await;
    let mut named: Vec<(usize, Address)> = Vec::new();
    for address in answers.into_iter().flatten().filter_map(address) {
        match named.iter_mut().find(|(_, known)| *known == address) {
            Some((votes, _)) => *votes += 1,
            None => named.push((1, address)),
        }
    }
    named.sort_by_key(|(votes, _)| std::cmp::Reverse(*votes));
    named.into_iter().map(|(_, address)| address).collect()
}

/// Whether the server says so itself: a sentinel may be behind.
pub(crate) async fn is_primary(node: &Node) -> bool {
    let Ok(Value::Array(role)) = node.call(0, &redis::cmd("ROLE")).await else { return false };
    role.first().is_some_and(|role| text(role).as_deref() == Some("master"))
}

fn address(answer: Value) -> Option<Address> {
    let Value::Array(parts) = answer else { return None };
    let (host, port) = (text(parts.first()?)?, text(parts.get(1)?)?);
    Some(Address { host, port: port.parse().ok()? })
}

fn text(value: &Value) -> Option<String> {
    redis::from_redis_value_ref(value).ok()
}
