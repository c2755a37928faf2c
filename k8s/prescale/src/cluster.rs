//! The autoscalers, through the Kubernetes API.
//!
//! What to set is said by the objects themselves, in two annotations, so that the figures are where the limits are.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::http_client;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Certificate, Client};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

/// Annotation: the least number of replicas at other times.
pub const ORDINARY: &str = "stampede.dev/min-replicas";
/// Annotation: the least number around an opening.
pub const ON_SALE: &str = "stampede.dev/min-replicas-on-sale";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Which objects hold the least number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Objects {
    /// Autoscalers of Kubernetes itself.
    HorizontalPodAutoscalers,
    /// Those of KEDA, which owns the autoscalers and would put them back.
    ScaledObjects,
}

impl Objects {
    fn api(self) -> &'static str {
        match self {
            Self::HorizontalPodAutoscalers => "apis/autoscaling/v2",
            Self::ScaledObjects => "apis/keda.sh/v1alpha1",
        }
    }

    fn resource(self) -> &'static str {
        match self {
            Self::HorizontalPodAutoscalers => "horizontalpodautoscalers",
            Self::ScaledObjects => "scaledobjects",
        }
    }

    fn field(self) -> &'static str {
        match self {
            Self::HorizontalPodAutoscalers => "minReplicas",
            Self::ScaledObjects => "minReplicaCount",
        }
    }
}

/// The API server, as this pod's service account.
pub struct Cluster {
    client: Client,
    base: Url,
    namespace: String,
    token: String,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    spec: Value,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    #[serde(rename = "resourceVersion")]
    resource_version: String,
}

impl Cluster {
    /// The cluster that `account` (the folder of a mounted service account) belongs to. Its authority is trusted, and no
    /// other.
    ///
    /// # Errors
    /// The folder has no token, namespace or authority that can be used.
    pub fn new(base: Url, account: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = account.join(name);
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            anyhow::Ok(text.trim().to_owned())
        };
        http_client::install_crypto();
        let mut client =
            Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT);
        if base.scheme() == "https" {
            let authority = Certificate::from_pem_bundle(read("ca.crt")?.as_bytes()).context("ca.crt")?;
            client = client.tls_certs_only(authority);
        }
        let client = client.build().context("HTTP client")?;
        Ok(Self { client, base, namespace: read("namespace")?, token: read("token")? })
    }

    /// Sets the least number of replicas of one autoscaler, if it is another. Returns the number.
    ///
    /// # Errors
    /// The API does not answer or refuses, an annotation is missing or no number, or the object was changed meanwhile;
    /// the next run tries again.
    pub async fn set_least(&self, objects: Objects, name: &str, on_sale: bool) -> anyhow::Result<u64> {
        let url = self.base.join(&format!(
            "/{}/namespaces/{}/{}/{name}",
            objects.api(),
            self.namespace,
            objects.resource()
        ))?;
        let answer = self.client.get(url.clone()).bearer_auth(&self.token).send().await?;
        let object: Object = answer.error_for_status()?.json().await.context("the autoscaler")?;
        let annotation = if on_sale { ON_SALE } else { ORDINARY };
        let least = object.metadata.annotations.get(annotation);
        let least = least.with_context(|| format!("no annotation {annotation}"))?;
        let least: u64 = least.parse().with_context(|| format!("annotation {annotation}"))?;
        ensure!(least > 0, "annotation {annotation}: must be above 0");
        if object.spec.get(objects.field()).and_then(Value::as_u64) == Some(least) {
            return Ok(least);
        }
        // Only over what was read: somebody may be changing it.
        let patch = json!({
            "metadata": { "resourceVersion": object.metadata.resource_version },
            "spec": { objects.field(): least },
        });
        let request = self.client.patch(url).bearer_auth(&self.token);
        let request = request.header(CONTENT_TYPE, "application/merge-patch+json").body(patch.to_string());
        request.send().await?.error_for_status()?;
        Ok(least)
    }
}
