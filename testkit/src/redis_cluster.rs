//! A private Redis Cluster.

use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;

use crate::{Redis, eventually};

const SERVERS: usize = 6;
/// Keys that move to another server together.
const KEYS_AT_ONCE: usize = 100;
const MOVE_TIMEOUT_MS: u32 = 5_000;
const SETTLE_PAUSE: Duration = Duration::from_millis(50);

/// Six servers on loopback: three primaries with a replica each.
#[derive(Debug)]
pub struct RedisCluster {
    servers: Vec<Redis>,
}

/// What a server says of one of them.
#[derive(Debug)]
struct Member {
    id: String,
    port: u16,
    primary: bool,
    failed: bool,
    ranges: Vec<(u16, u16)>,
}

impl RedisCluster {
    /// Starts six servers without data and joins them.
    ///
    /// # Panics
    /// If they cannot be started or joined, or outside `./dev test`.
    pub async fn start() -> Self {
        let servers = join_all((0..SERVERS).map(|_| Redis::start_clustered())).await;
        let cluster = Self { servers };
        let mut create = tokio::process::Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(cluster.addresses().split(','));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]).stdin(Stdio::null());
        let created = create.output().await.expect("redis-cli starts");
        assert!(created.status.success(), "no cluster: {}", String::from_utf8_lossy(&created.stdout));
        cluster.healthy().await;
        cluster
    }

    /// The address of one server.
    pub fn url(&self) -> String {
        self.servers[0].url()
    }

    /// All servers, `host:port` with commas between, as services take them.
    pub fn addresses(&self) -> String {
        let addresses = self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port()));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Waits until every running server knows an owner of every slot, and every replica has caught up.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn healthy(&self) {
        eventually("the Redis Cluster is healthy", async || {
            for server in self.servers.iter().filter(|server| server.is_running()) {
                let info = server.command("CLUSTER INFO").await;
                let replication = server.command("INFO replication").await;
                let well = info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384");
                if !well || replication.contains("master_link_status:down") {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// The server that has `slot`, as the running ones see it.
    ///
    /// # Panics
    /// If none has.
    pub async fn owner(&self, slot: u16) -> usize {
        let members = self.members().await;
        let owner = members.iter().find(|member| member.primary && !member.failed && member.has(slot));
        let port = owner.unwrap_or_else(|| panic!("nobody has slot {slot}: {members:?}")).port;
        self.index(port)
    }

    /// Kills a server (SIGKILL); its data stays for [`RedisCluster::resume`].
    pub fn stop(&mut self, server: usize) {
        self.servers[server].stop();
    }

    /// Starts a stopped server again: as a replica, if it was replaced.
    ///
    /// # Panics
    /// If it does not come back.
    pub async fn resume(&mut self, server: usize) {
        self.servers[server].resume().await;
        tokio::time::sleep(SETTLE_PAUSE).await;
        self.healthy().await;
    }

    /// Moves a slot with its keys to another primary while everybody goes on, as `redis-cli --cluster reshard` does; says to
    /// which server.
    ///
    /// # Panics
    /// If a server refuses.
    pub async fn move_slot(&self, slot: u16) -> usize {
        let from = self.owner(slot).await;
        let members = self.members().await;
        let id_of = |server: usize| {
            let member = members.iter().find(|member| self.index(member.port) == server);
            member.expect("every server is a member").id.clone()
        };
        let other = members.iter().find(|member| member.primary && !member.failed && !member.has(slot));
        let to = self.index(other.expect("there are three primaries").port);
        self.tell(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {}", id_of(from))).await;
        self.tell(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {}", id_of(to))).await;
        loop {
            let command = format!("CLUSTER GETKEYSINSLOT {slot} {KEYS_AT_ONCE}");
            let answer = self.servers[from].command(&command).await;
            let keys: Vec<&str> = answer.lines().filter(|line| !line.starts_with(['*', '$', '+'])).collect();
            if keys.is_empty() {
                break;
            }
            let port = self.servers[to].port();
            let keys = keys.join(" ");
            self.tell(from, &format!("MIGRATE 127.0.0.1 {port} \"\" 0 {MOVE_TIMEOUT_MS} KEYS {keys}")).await;
        }
        for server in [to, from] {
            self.tell(server, &format!("CLUSTER SETSLOT {slot} NODE {}", id_of(to))).await;
        }
        to
    }

    async fn tell(&self, server: usize, command: &str) {
        let answer = self.servers[server].command(command).await;
        assert!(answer.starts_with('+'), "{command}: {answer}");
    }

    fn index(&self, port: u16) -> usize {
        let index = self.servers.iter().position(|server| server.port() == port);
        index.unwrap_or_else(|| panic!("nobody listens on {port}"))
    }

    async fn members(&self) -> Vec<Member> {
        let server = self.servers.iter().find(|server| server.is_running()).expect("a server runs");
        server.command("CLUSTER NODES").await.lines().filter_map(Member::parse).collect()
    }
}

impl Member {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (id, address, flags) = (fields.first()?, fields.get(1)?, fields.get(2)?);
        let port = address.split('@').next()?.rsplit(':').next()?.parse().ok()?;
        let ranges = fields.iter().skip(8).filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        let has = |wanted: &str| flags.split(',').any(|flag| flag == wanted);
        let (id, ranges) = ((*id).to_owned(), ranges.collect());
        Some(Self { id, port, primary: has("master"), failed: has("fail"), ranges })
    }

    fn has(&self, slot: u16) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}
