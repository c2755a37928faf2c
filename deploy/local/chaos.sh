# shellcheck shell=bash
# ./dev chaos: fault campaigns of the crate chaos, on RabbitMQ and Postgres of the run, as ./dev test has them.

readonly CHAOS_DIR=$DEV_DIR/chaos # the binaries with failpoints, and a folder for each schedule that found something

chaos_command() {
    local folder=$CHAOS_DIR/bin argument drill=''
    local -a arguments=()
    for argument; do
        case $argument in
            --release) BUILD=release ;;
            --drill | --drill=*) drill=yes && arguments+=("$argument") ;;
            *) arguments+=("$argument") ;;
        esac
        if [[ $argument == -h || $argument == --help ]]; then
            chaos_build "$folder"
            exec "$folder/chaos" --help
        fi
    done
    packages_ensure
    cargo_ensure
    test_sweep_old_runs
    TEST_DIR=$DEV_DIR/test-$$
    on_exit test_stop
    mkdir -p "$TEST_DIR/logs"
    chmod 711 "$DEV_DIR" "$TEST_DIR"
    test_start_servers
    if [[ $drill ]]; then
        # What is measured is what is shipped: no failpoints.
        services_build
        folder=$(target_folder)
    else
        chaos_build "$folder"
        # Of this run's own: another run may build newer ones meanwhile.
        cp -rl -- "$folder" "$TEST_DIR/bin"
        folder=$TEST_DIR/bin
    fi
    test_wait_for_servers

    say "files of what is found: ${CHAOS_DIR#"$ROOT"/}; stop by Ctrl-C"
    STAMPEDE_TEST_BINARIES=$folder RUST_LIB_BACKTRACE=0 run "$folder/chaos" \
        --git-hash "$(git rev-parse --short=12 HEAD 2>/dev/null)" "${arguments[@]}"
}

# Builds everything with failpoints and copies it away: the ordinary build's binaries are put back where they were.
chaos_build() {
    local folder=$1 built name
    built=$(target_folder)
    local -a services=(gateway stock-service order-service notify-service)
    say "building the services with failpoints"
    mkdir -p "$CHAOS_DIR/ordinary" "$folder"
    for name in "${services[@]}"; do
        if [[ -e $built/$name ]]; then
            ln -f -- "$built/$name" "$CHAOS_DIR/ordinary/$name"
        fi
    done
    local features
    local -a profile=()
    if [[ $BUILD == release ]]; then
        profile=(--release)
    fi
    features=$(printf ',%s/failpoints' "${services[@]}")
    run cargo build --workspace --bins "${profile[@]}" --features "${features#,}" || die "the build failed" "the compiler's messages are above"
    for name in "${services[@]}" chaos; do
        # A new file each time: what runs from the old one is not disturbed.
        cp -- "$built/$name" "$folder/$name.new"
        mv -- "$folder/$name.new" "$folder/$name"
    done
    for name in "${services[@]}"; do
        if [[ -e $CHAOS_DIR/ordinary/$name && ! $CHAOS_DIR/ordinary/$name -ef $built/$name ]]; then
            mv -- "$CHAOS_DIR/ordinary/$name" "$built/$name"
        fi
    done
}
