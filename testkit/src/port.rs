//! Choosing loopback ports.

use std::fs::File;
use std::net::TcpListener;

/// Below Linux' usual range for outgoing connections (32768 and up): a port from that range could be taken by any
/// client while a server restarts, and a client that reconnects to it could even end up connected to itself.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
const ATTEMPTS: usize = 1_000;

/// A port that nobody else gets as long as this lives. Drop it right before a server binds the port.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) port: u16,
    pub(crate) claim: Claim,
    _listener: TcpListener,
}

/// Keeps other test kits of this machine from taking a port whose server happens not to run at the time, because it is
/// being restarted. Nobody else is kept from it.
#[derive(Debug)]
pub(crate) struct Claim {
    _locked: Option<File>,
}

impl Claim {
    /// `None`: somebody else has it.
    fn of(port: u16) -> Option<Self> {
        let folder = std::env::temp_dir().join("stampede-test-ports");
        let file =
            std::fs::create_dir_all(&folder).and_then(|()| File::create(folder.join(port.to_string())));
        match file {
            Ok(file) => file.try_lock().is_ok().then_some(Self { _locked: Some(file) }),
            // Somebody else's folder: then ports are as safe as without claims.
            Err(_) => Some(Self { _locked: None }),
        }
    }
}

/// Takes a random free port.
///
/// # Panics
/// If a thousand random ports are all in use.
pub(crate) fn reserve() -> Reserved {
    let span = u128::from(RANGE.end - RANGE.start);
    for _ in 0..ATTEMPTS {
        let offset = u16::try_from(uuid::Uuid::new_v4().as_u128() % span).expect("smaller than the range");
        let port = RANGE.start + offset;
        let Some(claim) = Claim::of(port) else { continue };
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Reserved { port, claim, _listener: listener };
        }
    }
    panic!("no free port between {} and {}", RANGE.start, RANGE.end);
}

/// A port that nobody listens on at this moment. It may be taken before it is used: be ready to try another.
pub(crate) fn free() -> u16 {
    reserve().port
}
