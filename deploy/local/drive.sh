# shellcheck shell=bash
# ./dev demo, ./dev load, ./dev audit: the program `drive` of the crate e2e against the running instance.

# drive_command <drive's subcommand> <its arguments...>
drive_command() {
    if [[ ! -r $ENV_FILE ]] || ! instance_load; then
        die "nothing is running" "./dev up --detach starts everything"
    fi
    if [[ $1 == load && $BUILD != release ]]; then
        warn "the services were built without optimisation: for figures that mean something, ./dev down; ./dev up --release"
        BUILD=release
        on_exit true
        cargo_ensure
        run cargo build --release -p e2e --bin drive || die "the build failed" "the compiler's messages are above"
    fi
    # It was built together with the services.
    RUST_LIB_BACKTRACE=0 exec "$(target_folder)/drive" "$@" --env-file "$ENV_FILE"
}
