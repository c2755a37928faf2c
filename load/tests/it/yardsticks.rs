//! What the benchmark compares with answers what it should.

use common::problem::Code;
use load::children::Server;
use load::wire::{Connection, Outcome};

const REFUSAL: &str = "HTTP/1.1 409 Conflict\r\ncontent-type: application/problem+json\r\nx-outcome: none\r\n\
    content-length: 19\r\n\r\n{\"code\":\"sold_out\"}";

#[tokio::test(flavor = "multi_thread")]
async fn the_bare_handler_gives_the_bytes_of_the_refusal() {
    let file = std::env::temp_dir().join(format!("load-refusal-{}", std::process::id()));
    std::fs::write(&file, REFUSAL).unwrap();
    let program = env!("CARGO_BIN_EXE_load");
    let server = Server::of(program, &["serve-bare", "--answer", &file.to_string_lossy()]).unwrap();
    let mut connection = Connection::open(server.address).await.unwrap();
    let request = "POST /api/v1/items/x/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    for _ in 0..2 {
        let answer = connection.exchange(request.as_bytes()).await.unwrap();
        assert_eq!(answer.outcome, Outcome::Refused(Code::SoldOut));
        let text = String::from_utf8(connection.last_answer().to_vec()).unwrap();
        assert!(
            text.ends_with("{\"code\":\"sold_out\"}") && text.contains("application/problem+json"),
            "{text}"
        );
    }
    std::fs::remove_file(&file).unwrap();
}
