//! Which route a request is for: the table of [`crate::http::ENDPOINTS`], tried from the top, path by path.
//!
//! The framework's own router finds the same with a regular expression and a boxed service for each of its layers, which
//! was an eighth of what a refusal cost. A path has to be written as in the table: what is percent-encoded is no route.

use actix_web::http::Method;

use crate::endpoint::Endpoint;
use crate::http::Served;

/// The routes that this process serves.
pub struct Routes {
    paths: Vec<Path>,
}

/// All routes of one path.
struct Path {
    pattern: &'static str,
    endpoints: Vec<&'static Endpoint>,
    allowed: String,
}

/// What a request is for.
pub enum Found<'a> {
    /// This route.
    Route(&'static Endpoint),
    /// A path that has routes, for these methods only.
    WrongMethod(&'a str),
    /// A path without any.
    Nothing,
}

impl Routes {
    /// Those of `served`, HEAD wherever GET is.
    pub fn new(served: Served) -> Self {
        let mut paths: Vec<Path> = Vec::new();
        for endpoint in served.endpoints() {
            match paths.iter_mut().find(|path| path.pattern == endpoint.path) {
                Some(path) => path.endpoints.push(endpoint),
                None => paths.push(Path {
                    pattern: endpoint.path,
                    endpoints: vec![endpoint],
                    allowed: String::new(),
                }),
            }
        }
        for path in &mut paths {
            let methods = path.endpoints.iter().map(|endpoint| endpoint.method.as_str());
            let head = path.endpoints.iter().filter(|endpoint| endpoint.answers_head()).map(|_| "HEAD");
            path.allowed = methods.chain(head).collect::<Vec<_>>().join(", ");
        }
        Self { paths }
    }

    /// The route of a method and a path.
    pub fn find(&self, method: &Method, path: &str) -> Found<'_> {
        let Some(found) = self.paths.iter().find(|known| matches(known.pattern, path)) else {
            return Found::Nothing;
        };
        let answers = |endpoint: &&&'static Endpoint| {
            endpoint.method == *method || (*method == Method::HEAD && endpoint.answers_head())
        };
        found
            .endpoints
            .iter()
            .find(answers)
            .map_or(Found::WrongMethod(&found.allowed), |found| Found::Route(found))
    }
}

/// What `path` has at the place of `{parameter}` in `pattern`; empty if there is no such place.
pub fn parameter<'a>(pattern: &str, path: &'a str, parameter: &str) -> &'a str {
    let names = pattern.split('/').map(|part| part.strip_prefix('{').and_then(|part| part.strip_suffix('}')));
    let mut parts = names.zip(path.split('/'));
    parts.find(|(name, _)| *name == Some(parameter)).map(|(_, value)| value).unwrap_or_default()
}

/// Part by part the same, with anything but nothing for a parameter.
fn matches(pattern: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    let all = pattern.split('/').all(|expected| {
        let parameter = expected.starts_with('{');
        parts.next().is_some_and(|part| if parameter { !part.is_empty() } else { part == expected })
    });
    all && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        Routes::new(Served { dev: false, wechat: false })
    }

    fn found(method: &Method, path: &str) -> String {
        match routes().find(method, path) {
            Found::Route(endpoint) => format!("{} {}", endpoint.method, endpoint.path),
            Found::WrongMethod(allowed) => format!("only {allowed}"),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn what_is_not_written_as_in_the_table_is_no_route() {
        for path in [
            "",
            "/",
            "*",
            "//api/v1/sales",
            "/api/v1/sales/",
            "/api/v1//sales",
            "/api/v1/sales/1/2",
            "/api/v1/%73ales",
            "/API/v1/sales",
            "/api/v1/items//orders",
            "/internal/v1/sales",
            "/docs/a/b",
            "/api/v1/auth/dev-token",
        ] {
            assert_eq!(found(&Method::GET, path), "nothing", "{path}");
        }
    }

    #[test]
    fn a_path_has_the_routes_of_its_methods() {
        assert_eq!(found(&Method::GET, "/api/v1/sales"), "GET /api/v1/sales");
        assert_eq!(found(&Method::HEAD, "/api/v1/sales/7"), "GET /api/v1/sales/{sale_id}");
        assert_eq!(found(&Method::POST, "/api/v1/items/7/orders"), "POST /api/v1/items/{item_id}/orders");
        assert_eq!(found(&Method::GET, "/api/v1/items/7/orders"), "only POST");
        assert_eq!(found(&Method::PUT, "/api/v1/sales"), "only GET, HEAD");
        assert_eq!(found(&Method::HEAD, "/api/v1/events"), "only GET");
    }

    #[test]
    fn every_route_is_found_by_its_own_path() {
        let served = Served { dev: true, wechat: true };
        let routes = Routes::new(served);
        for endpoint in served.endpoints() {
            let Found::Route(found) = routes.find(&endpoint.method, endpoint.path) else {
                panic!("{} is not found", endpoint.path)
            };
            assert!(std::ptr::eq(found, endpoint), "{} is hidden by {}", endpoint.path, found.path);
        }
    }

    #[test]
    fn parameters_are_found_by_their_names() {
        let pattern = "/api/v1/admin/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver";
        let path = "/api/v1/admin/webhooks/w/deliveries/d/redeliver";
        assert_eq!(parameter(pattern, path, "webhook_id"), "w");
        assert_eq!(parameter(pattern, path, "delivery_id"), "d");
        assert_eq!(parameter(pattern, path, "item_id"), "");
    }
}
