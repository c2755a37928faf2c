# shellcheck shell=bash
# ./dev released: writes down what this tree promises as a release (CONTRIBUTING, "Releasing a service").

released_command() {
    (($# == 0)) || die "./dev released takes no options"
    cargo_ensure
    on_exit true
    [[ -z $(git status --porcelain) ]] || die "there are changes that are not committed" "a release is a commit"
    run cargo build --workspace --bins || die "the build failed" "the compiler's messages are above"
    local file
    git rev-parse HEAD >"$ROOT/deploy/last-release"
    "$(target_folder)/gateway" openapi >"$ROOT/deploy/released/openapi.json"
    rm -f -- "$ROOT"/deploy/released/golden/*.json
    cp -- "$ROOT"/common/tests/golden/*.json "$ROOT/deploy/released/golden/"
    for file in {order,notify}-service/migrations/*/*.sql; do
        sha256sum -- "$file"
    done >"$ROOT/deploy/released/migrations.sha256"
    say "deploy/last-release and deploy/released are those of $(git rev-parse --short HEAD); commit them"
}
