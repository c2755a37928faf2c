//! The four services as processes: they come, go, come back, and leave nothing.

use reqwest::StatusCode;
use testkit::Services;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_service_is_gone_and_comes_back_at_the_same_address() {
    let mut services = Services::start().await;
    for name in services.names() {
        let url = services.url(&name);
        assert_eq!(healthz(&url).await, Some(StatusCode::OK), "{name}");

        services.kill(&name);
        assert_eq!(healthz(&url).await, None, "{name} survived");

        services.restart(&name).await;
        assert_eq!(services.url(&name), url);
        assert_eq!(healthz(&url).await, Some(StatusCode::OK), "{name} did not come back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_processes_of_their_own_and_stop_in_good_order() {
    let mut services = Services::start_with(2, &[("GATEWAY__TELEMETRY__LOG", "debug")]).await;
    assert_eq!(services.names().len(), 8);
    assert_eq!(services.gateway_urls().len(), 2);

    services.stop("gateway-2").await;

    assert_eq!(healthz(&services.url("gateway-2")).await, None);
    assert_eq!(healthz(&services.url("gateway")).await, Some(StatusCode::OK));
    assert!(services.log("gateway").contains("DEBUG"), "the test's own setting did not reach the service");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_answers_after_the_end_of_a_test() {
    let services = Services::start().await;
    let urls: Vec<String> = services.names().iter().map(|name| services.url(name)).collect();

    drop(services);

    for url in urls {
        assert_eq!(healthz(&url).await, None, "{url}");
    }
}

async fn healthz(url: &str) -> Option<StatusCode> {
    let client = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    client.get(format!("{url}/healthz")).send().await.ok().map(|answer| answer.status())
}
