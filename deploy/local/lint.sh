# shellcheck shell=bash
# ./dev lint: everything that can be checked without running the system.

readonly CARGO_DENY_VERSION=0.20.2

lint_command() {
    (($# == 0)) || die "./dev lint takes no options"
    cargo_ensure
    on_exit true
    say "formatting"
    run cargo fmt --all --check || die "the formatting is off" "cargo fmt --all puts it right"
    # Images are built with what is locked.
    cargo metadata --locked --format-version 1 >/dev/null || die "Cargo.lock does not fit the manifests" "cargo metadata >/dev/null puts it right; commit it"
    say "clippy"
    run cargo clippy --workspace --all-targets -- -D warnings
    say "documentation"
    RUSTDOCFLAGS='-D warnings' run cargo doc --workspace --no-deps
    say "licences, banned crates and sources of dependencies"
    lint_install_cargo_deny
    run cargo deny check licenses bans sources
    if command -v shellcheck >/dev/null; then
        say "shell scripts"
        shellcheck dev .ci/run deploy/local/*.sh deploy/local/{check-interruptions,install-packages,run-test-binary} \
            deploy/compose/{make-env,redis,rabbitmq,postgres.sh} k8s/{make-secrets,copy-store-files} deploy/check/{changed,release}
    else
        warn "shellcheck is not installed: the shell scripts were not checked (apt-get install shellcheck)"
    fi
    say "rules and configuration of Prometheus"
    command -v promtool >/dev/null || packages_install prometheus
    lint_observe
    say "manifests, migrations, workflows"
    manifests_check
    say "nothing to complain about"
}

lint_observe() {
    local folder=$ROOT/deploy/observe
    promtool check rules "$folder"/rules/*.yml
    # The targets are files that only a running instance has.
    promtool check config --syntax-only "$folder/prometheus.yml"
    promtool test rules "$folder"/tests/*.yml
}

lint_install_cargo_deny() {
    if [[ $(cargo deny --version 2>/dev/null) != "cargo-deny $CARGO_DENY_VERSION" ]]; then
        say "installing cargo-deny $CARGO_DENY_VERSION into cargo's folder (takes some minutes, once)"
        run cargo install --locked --quiet cargo-deny --version "$CARGO_DENY_VERSION"
    fi
}
