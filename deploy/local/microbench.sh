# shellcheck shell=bash
# ./dev microbench: what the hot pieces cost, each by itself, on servers of its own. The pipeline's PostgreSQL and RabbitMQ
# flush to the disk.

readonly MICROBENCHES=(batcher envelope trace scripts pipeline)

# microbench_command [name...] [-- arguments for criterion]
microbench_command() {
    local -a chosen=() benches=()
    local name
    while (($# > 0)) && [[ $1 != -- ]]; do
        [[ " ${MICROBENCHES[*]} " == *" $1 "* ]] || die "there is no measurement $1" "there are: ${MICROBENCHES[*]}"
        chosen+=("$1")
        shift
    done
    ((${#chosen[@]} > 0)) || chosen=("${MICROBENCHES[@]}")
    for name in "${chosen[@]}"; do
        benches+=(--bench "$name")
    done

    packages_ensure
    cargo_ensure
    test_sweep_old_runs
    TEST_DIR=$DEV_DIR/test-$$
    on_exit test_stop
    mkdir -p "$TEST_DIR/logs"
    chmod 711 "$DEV_DIR" "$TEST_DIR"
    test_start_servers

    say "building, with optimisation"
    run cargo bench --workspace --no-run "${benches[@]}"
    test_wait_for_servers
    run cargo bench --workspace "${benches[@]}" "$@"
}
