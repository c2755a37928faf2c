//! Where the servers of this test run are: the only reader of the `STAMPEDE_TEST_*` variables.

use std::path::PathBuf;

use reqwest::Url;

/// Postgres, as a superuser, in the database `postgres`.
pub(crate) fn postgres_url() -> Url {
    url("STAMPEDE_TEST_POSTGRES_URL")
}

/// RabbitMQ's AMQP listener, with the name and password of an administrator.
pub(crate) fn rabbitmq_url() -> Url {
    url("STAMPEDE_TEST_RABBITMQ_URL")
}

/// RabbitMQ's management API, with the name and password of an administrator.
pub(crate) fn rabbitmq_api_url() -> Url {
    url("STAMPEDE_TEST_RABBITMQ_API_URL")
}

/// A folder for this run's files, removed when the run ends.
pub(crate) fn directory() -> PathBuf {
    PathBuf::from(variable("STAMPEDE_TEST_DIR"))
}

/// Where the binaries of the services are, if not beside the test binary: such as those with failpoints.
#[expect(clippy::disallowed_methods, reason = "as below")]
pub(crate) fn binaries() -> Option<PathBuf> {
    std::env::var("STAMPEDE_TEST_BINARIES").ok().map(PathBuf::from)
}

/// The program that makes requests from the API's document; `None` where it could not be installed.
#[expect(clippy::disallowed_methods, reason = "as below")]
pub fn schemathesis() -> Option<PathBuf> {
    std::env::var("STAMPEDE_TEST_SCHEMATHESIS").ok().map(PathBuf::from)
}

fn url(name: &str) -> Url {
    let text = variable(name);
    Url::parse(&text).unwrap_or_else(|error| panic!("{name}={text} is not a URL: {error}"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "these variables come from ./dev test, not from a service's settings"
)]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: this test needs servers of its own. Run `./dev test`, \
             which starts them; arguments go to cargo test, e.g. `./dev test -p stock-service sold_out`"
        )
    })
}
