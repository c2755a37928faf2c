//! The job against an API server that behaves as Kubernetes does, as far as it is used.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use chrono::{DateTime, TimeDelta, Utc};
use common::api::{Sale, SaleState};
use common::ids::SaleId;
use parking_lot::Mutex;
use prescale::calendar::{Window, opening};
use prescale::cluster::{Cluster, Objects};
use serde_json::{Value, json};
use url::Url;

const WINDOW: Window = Window { lead: Duration::from_secs(600), hold: Duration::from_secs(300) };

fn sale(starts_in_s: i64, state: SaleState) -> Sale {
    let now = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000);
    Sale {
        id: SaleId(Default::default()),
        title: String::new(),
        state,
        starts_at: now + TimeDelta::seconds(starts_in_s),
        ends_at: now + TimeDelta::seconds(starts_in_s + 3_600),
        payment_window_seconds: 60,
        server_time: now,
        stale: false,
        waiting_room: false,
        challenge: false,
        items: Vec::new(),
    }
}

#[test]
fn replicas_are_wanted_from_the_lead_before_an_opening_till_the_hold_after_it() {
    for (starts_in_s, wanted) in
        [(601, false), (600, true), (1, true), (0, true), (-299, true), (-300, false), (-301, false)]
    {
        let sales = [sale(90_000, SaleState::Scheduled), sale(starts_in_s, SaleState::Scheduled)];
        assert_eq!(opening(&sales, WINDOW), wanted, "a sale that starts in {starts_in_s} s");
    }
    assert!(!opening(&[], WINDOW));
    assert!(!opening(&[sale(60, SaleState::Ended)], WINDOW), "a sale that was taken back");
    assert!(opening(&[sale(60, SaleState::Paused)], WINDOW), "a sale that may go on any moment");
}

#[derive(Default)]
struct Api {
    objects: Mutex<std::collections::BTreeMap<String, Value>>,
    patches: Mutex<Vec<String>>,
    conflict: Mutex<bool>,
}

async fn get(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    if request.headers().get("authorization").is_none_or(|token| token != "Bearer token-1") {
        return HttpResponse::Unauthorized().finish();
    }
    match api.objects.lock().get(request.path()) {
        Some(object) => HttpResponse::Ok().json(object),
        None => HttpResponse::NotFound().finish(),
    }
}

async fn patch(api: web::Data<Api>, request: HttpRequest, body: String) -> HttpResponse {
    assert_eq!(request.headers().get("content-type").unwrap(), "application/merge-patch+json");
    if *api.conflict.lock() {
        return HttpResponse::Conflict().finish();
    }
    api.patches.lock().push(format!("{} {body}", request.path()));
    HttpResponse::Ok().json(json!({}))
}

/// A cluster with one autoscaler of each kind, and the API behind it.
async fn cluster() -> (Cluster, Arc<Api>) {
    let metadata = json!({
        "resourceVersion": "7",
        "annotations": { "stampede.dev/min-replicas": "5", "stampede.dev/min-replicas-on-sale": "15" },
    });
    let api = web::Data::new(Api::default());
    for (path, field) in [
        ("/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/gateway", "minReplicas"),
        ("/apis/keda.sh/v1alpha1/namespaces/shop/scaledobjects/gateway", "minReplicaCount"),
    ] {
        let object = json!({ "metadata": metadata, "spec": { field: 5, "maxReplicas": 30 } });
        api.objects.lock().insert(path.to_owned(), object);
    }
    let shared = api.clone();
    let server = HttpServer::new(move || {
        let all = web::resource("/{path:.*}").route(web::get().to(get)).route(web::patch().to(patch));
        App::new().app_data(shared.clone()).service(all)
    });
    let server = server.workers(1).bind("127.0.0.1:0").unwrap();
    let base = Url::parse(&format!("http://{}", server.addrs()[0])).unwrap();
    tokio::spawn(server.run());
    let account = std::env::temp_dir().join(format!("prescale-{}", std::process::id()));
    std::fs::create_dir_all(&account).unwrap();
    std::fs::write(account.join("token"), "token-1\n").unwrap();
    std::fs::write(account.join("namespace"), "shop\n").unwrap();
    (Cluster::new(base, &account).unwrap(), api.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_number_is_set_once_over_what_was_read() {
    let (cluster, api) = cluster().await;
    let hpa = Objects::HorizontalPodAutoscalers;

    assert_eq!(cluster.set_least(hpa, "gateway", false).await.unwrap(), 5);
    assert_eq!(*api.patches.lock(), Vec::<String>::new(), "it was so already");

    assert_eq!(cluster.set_least(hpa, "gateway", true).await.unwrap(), 15);
    assert_eq!(cluster.set_least(Objects::ScaledObjects, "gateway", true).await.unwrap(), 15);
    let patches = api.patches.lock().clone();
    assert_eq!(
        patches,
        [
            "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/gateway \
             {\"metadata\":{\"resourceVersion\":\"7\"},\"spec\":{\"minReplicas\":15}}",
            "/apis/keda.sh/v1alpha1/namespaces/shop/scaledobjects/gateway \
             {\"metadata\":{\"resourceVersion\":\"7\"},\"spec\":{\"minReplicaCount\":15}}",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_set_is_an_error() {
    let (cluster, api) = cluster().await;
    let hpa = Objects::HorizontalPodAutoscalers;
    assert!(cluster.set_least(hpa, "nobody", true).await.is_err());
    *api.conflict.lock() = true;
    assert!(cluster.set_least(hpa, "gateway", true).await.is_err(), "somebody else changed it");
    for object in api.objects.lock().values_mut() {
        object["metadata"]["annotations"] = json!({});
    }
    let error = cluster.set_least(hpa, "gateway", true).await.unwrap_err();
    assert!(format!("{error:#}").contains("stampede.dev/min-replicas-on-sale"), "{error:#}");
}
