//! One Redis server and the connections to it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, RedisResult, ServerErrorKind, Value,
};

use crate::{Address, Clock, Config};

/// The defaults of the connection manager let every command wait 9 s while Redis is away.
const RECONNECT_ATTEMPTS: usize = 1;
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(20);
const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(100);

/// A server.
pub struct Node {
    address: Address,
    lanes: Vec<ConnectionManager>,
    up: AtomicBool,
    clock: Clock,
}

impl Node {
    /// Connects when it is first asked for something. `template` is what all servers have in common.
    pub(crate) fn new(address: Address, template: &ConnectionInfo, config: &Config) -> RedisResult<Self> {
        let client = Client::open(template.clone().set_addr(moved_to(template.addr(), &address)))?;
        let lanes = config.response_timeouts.iter().map(|timeout| {
            let config = ConnectionManagerConfig::new()
                .set_number_of_retries(RECONNECT_ATTEMPTS)
                .set_min_delay(RECONNECT_DELAY_MIN)
                .set_max_delay(RECONNECT_DELAY_MAX)
                .set_connection_timeout(Some(config.connect_timeout))
                .set_response_timeout(Some(*timeout));
            ConnectionManager::new_lazy_with_config(client.clone(), config)
        });
        let lanes = lanes.collect::<RedisResult<_>>()?;
        Ok(Self { address, lanes, up: AtomicBool::new(false), clock: Clock::default() })
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether the last thing heard of it was an answer.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// It counts as there until it does not answer.
    pub fn set_up(&self) {
        self.up.store(true, Ordering::Relaxed);
    }

    /// It counts as away until it answers.
    pub fn set_down(&self) {
        self.up.store(false, Ordering::Relaxed);
    }

    /// Its clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Sends one command to this very server, whoever has its keys.
    ///
    /// # Errors
    /// The server's, or the connection's; then it may have run.
    pub async fn call(&self, lane: usize, command: &Cmd) -> RedisResult<Value> {
        self.send(lane, command, false).await
    }

    /// As [`Node::call`]; with `asking` for a slot that is on its way to this server.
    pub(crate) async fn send(&self, lane: usize, command: &Cmd, asking: bool) -> RedisResult<Value> {
        // Every index that a caller has is one of its own constants.
        let mut manager = self.lanes[lane.min(self.lanes.len() - 1)].clone();
        let answer = if asking {
            let mut pipeline = Pipeline::with_capacity(2);
            pipeline.cmd("ASKING").ignore();
            pipeline.add_command(command.clone());
            let answers = manager.send_packed_commands(&pipeline, 1, 1).await;
            answers.map(|mut answers| answers.pop().unwrap_or(Value::Nil))
        } else {
            manager.send_packed_command(command).await
        };
        // In RESP3 an error may be inside of an answer.
        let answer = answer.and_then(Value::extract_error);
        match &answer {
            Ok(_) => self.set_up(),
            Err(error) => {
                let loading = error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading);
                if error.is_io_error() || loading {
                    self.set_down();
                }
            }
        }
        answer
    }

    /// As [`Node::send`] for a script; when the server does not know it, gives it the text and sends the call again, since
    /// it cannot have run.
    pub(crate) async fn send_script(
        &self,
        lane: usize,
        (call, source): (&Cmd, &str),
        asking: bool,
    ) -> RedisResult<Value> {
        let answer = self.send(lane, call, asking).await;
        match answer {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.send(lane, redis::cmd("SCRIPT").arg("LOAD").arg(source), false)
                    .await
                    .map_err(not_run)?;
                self.send(lane, call, asking).await
            }
            answer => answer,
        }
    }
}

/// A lost answer to the text of a script says nothing about the script: it has not run.
fn not_run(error: redis::RedisError) -> redis::RedisError {
    if matches!(error.kind(), ErrorKind::Server(_)) {
        return error;
    }
    (ErrorKind::Client, "a script could not be loaded", error.to_string()).into()
}

fn moved_to(template: &ConnectionAddr, address: &Address) -> ConnectionAddr {
    let (host, port) = (address.host.clone(), address.port);
    if let ConnectionAddr::TcpTls { insecure, tls_params, .. } = template {
        ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}
