# shellcheck shell=bash
# ./dev demo, ./dev line, ./dev audit: the program `drive` of the crate e2e against the running instance.

# drive_command <drive's subcommand> <its arguments...>
drive_command() {
    if [[ ! -r $ENV_FILE ]] || ! instance_load; then
        die "nothing is running" "./dev up --detach starts everything"
    fi
    # It was built together with the services.
    RUST_LIB_BACKTRACE=0 exec "$(target_folder)/drive" "$@" --env-file "$ENV_FILE"
}
