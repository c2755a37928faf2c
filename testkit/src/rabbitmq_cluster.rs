//! A private RabbitMQ cluster.

use tokio::time::Instant;

use crate::{RabbitNode, Vhost};

const NODES: usize = 3;

/// Three nodes, each with all quorum queues: one may be lost.
#[derive(Debug)]
pub struct RabbitCluster {
    nodes: Vec<RabbitNode>,
}

impl RabbitCluster {
    /// Starts three nodes without data, joined. Takes half a minute on a busy machine.
    ///
    /// # Panics
    /// If one cannot be started, or outside `./dev test`.
    pub async fn start() -> Self {
        let names: Vec<String> = (1..=NODES).map(|n| format!("stampede{n}@localhost")).collect();
        let mut nodes: Vec<RabbitNode> = Vec::new();
        for name in &names {
            // One after the other: the first one makes the cluster, the others find it.
            let mut node = RabbitNode::new(name, &names, nodes.first());
            node.resume().await;
            nodes.push(node);
        }
        Self { nodes }
    }

    /// The default virtual host, at the first node.
    pub fn vhost(&self) -> Vhost {
        self.nodes[0].vhost()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// There are always some.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All nodes, `host:port` with commas between, as services take them.
    pub fn addresses(&self) -> String {
        let addresses = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.amqp_port()));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Kills a node (SIGKILL); its data stays for [`RabbitCluster::resume`].
    pub fn stop(&mut self, node: usize) {
        self.nodes[node].stop();
    }

    /// Starts a stopped node again, and says when it took connections.
    ///
    /// # Panics
    /// If it does not.
    pub async fn resume(&mut self, node: usize) -> Instant {
        self.nodes[node].resume().await
    }
}
