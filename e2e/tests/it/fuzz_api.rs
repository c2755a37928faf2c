//! What the API's document says is what is served: Schemathesis makes requests from it. A small number here;
//! `./dev fuzz-api` makes 20,000.

use std::path::Path;
use std::process::Command;

use crate::support::World;

/// Requests for each operation, besides those that cover its parameters.
const EXAMPLES: u32 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_to_a_made_up_request_is_a_documented_one() {
    let program = testkit::schemathesis().expect(
        "Schemathesis is not there, so that nothing was checked: ./dev test installs it with python3-venv and pip, \
         and says above why it could not",
    );
    let world = World::start().await;
    world.open_sale(1_000_000, 100, 600).await;
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/local/schemathesis.toml");
    let mut command = Command::new(program);
    command
        .current_dir(world.services.logs())
        .args(["--config-file".as_ref(), config.as_os_str()])
        .args(["run", &format!("{}/openapi.json", world.services.url("gateway"))])
        .args(["-H", &format!("Authorization: Bearer {}", world.admin)])
        .args(["--checks", "all"])
        .args(["--exclude-checks", "positive_data_acceptance,negative_data_rejection,ignored_auth"])
        .args(["--exclude-path", "/api/v1/events", "--phases", "examples,coverage,fuzzing"])
        .args(["--continue-on-failure", "--max-examples", &EXAMPLES.to_string(), "--workers", "1"])
        .args(["--request-timeout", "30", "--generation-database", "none", "--no-color"]);
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{told}\n{}", String::from_utf8_lossy(&ended.stderr));
    let cases = told.lines().find(|line| line.contains(" generated, ")).unwrap_or_default();
    println!("{}", cases.trim());
    let count = cases.split_whitespace().next().and_then(|count| count.parse::<u32>().ok());
    assert!(count.is_some_and(|count| count >= 800), "{told}");
}
