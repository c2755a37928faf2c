# shellcheck shell=bash
# ./dev test: RabbitMQ and Postgres for one run of cargo test, on free ports, in a folder of the run.
# (Each test starts the Redis that it needs; crate testkit.)

# Well below the second that testkit waits before it trusts queue totals; see testkit/src/vhost.rs.
readonly TEST_STATISTICS_INTERVAL_MS=250

test_command() {
    local -a arguments=() packages=() build=()
    while (($# > 0)); do
        case $1 in
            --) break ;;
            -p | --package)
                (($# > 1)) || die "$1 needs the name of a package"
                packages+=("$2")
                shift
                ;;
            --package=*) packages+=("${1#*=}") ;;
            --release)
                build+=("$1")
                arguments+=("$1")
                ;;
            *) arguments+=("$1") ;;
        esac
        shift
    done
    arguments+=("$@") # From -- on: for the test binaries.
    test_choose "${packages[@]}"

    packages_ensure
    # Not on everybody's path.
    [[ -x /usr/sbin/pgbouncer ]] || packages_install pgbouncer
    cargo_ensure
    test_sweep_old_runs
    TEST_DIR=$DEV_DIR/test-$$
    on_exit test_stop
    mkdir -p "$TEST_DIR/logs"
    chmod 711 "$DEV_DIR" "$TEST_DIR"
    test_start_servers

    if ((${#packages[@]} == 0)) || [[ " ${packages[*]} " == *" e2e "* ]]; then
        if fuzz_api_install; then
            export STAMPEDE_TEST_SCHEMATHESIS=$DEV_DIR/fuzz-api/bin/schemathesis
        else
            warn "Schemathesis cannot be installed: the test fuzz_api will fail and say so"
        fi
    fi
    say "building the workspace"
    run cargo build --workspace --all-targets "${build[@]}"
    test_wait_for_servers
    say "running the tests (files of this run: ${TEST_DIR#"$ROOT"/})"
    run cargo test --workspace "${CHOICE[@]}" "${arguments[@]}"
}

# Choosing packages by cargo's own -p would compile half of the dependencies again, with other features: instead, a
# runner skips the other packages' test binaries.
test_choose() {
    CHOICE=()
    (($# > 0)) || return 0
    local package
    for package; do
        [[ -e $ROOT/$package/Cargo.toml || -e $ROOT/k8s/$package/Cargo.toml ]] || die "there is no package $package in this workspace"
    done
    CHOICE=(--tests --config "target.'cfg(all())'.runner = ['$ROOT/deploy/local/run-test-binary']")
    export STAMPEDE_TEST_PACKAGES=$*
}

test_start_servers() {
    local amqp_port api_port epmd_port distribution_port
    choose_port POSTGRES_PORT
    choose_port amqp_port
    choose_port api_port
    choose_port epmd_port
    choose_port distribution_port
    AMQP_PORT=$amqp_port API_PORT=$api_port
    local password
    password=$(random_secret)
    say "starting PostgreSQL (port $POSTGRES_PORT) and RabbitMQ (port $AMQP_PORT) for the tests"

    (
        postgres_create "$TEST_DIR/postgres" "$password"
        # Nothing here outlives the run: no fsync.
        postgres_start "$TEST_DIR/postgres" "$POSTGRES_PORT" "$TEST_DIR/postgres.pid" "$TEST_DIR/postgres.log" \
            fsync=off synchronous_commit=off full_page_writes=off shared_buffers=128MB max_connections=500
    ) &
    STARTERS+=($!)

    local folder=$TEST_DIR/rabbitmq
    printf 'management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %s\ncollect_statistics_interval = %s\n' \
        "$API_PORT" "$TEST_STATISTICS_INTERVAL_MS" | rabbitmq_configure "$folder" "$AMQP_PORT" stampede "$password"
    echo '[rabbitmq_management].' >"$folder/enabled_plugins"
    echo "[{rabbit, [$RABBITMQ_ADVANCED, {quorum_tick_interval, $TEST_STATISTICS_INTERVAL_MS}]}]." >"$folder/advanced.config"
    rabbitmq_start "$folder" "$epmd_port" "$distribution_port" "$TEST_DIR/rabbitmq.pid" "$TEST_DIR/rabbitmq.log" +S 2:2

    export STAMPEDE_TEST_DIR=$TEST_DIR
    export STAMPEDE_TEST_POSTGRES_URL=postgres://stampede:$password@127.0.0.1:$POSTGRES_PORT/postgres
    export STAMPEDE_TEST_RABBITMQ_URL=amqp://stampede:$password@127.0.0.1:$AMQP_PORT/%2f
    export STAMPEDE_TEST_RABBITMQ_API_URL=http://stampede:$password@127.0.0.1:$API_PORT/
}

test_wait_for_servers() {
    if ! wait "${STARTERS[0]}"; then
        show_log "$TEST_DIR/postgres.log"
        die "PostgreSQL could not be set up"
    fi
    STARTERS=()
    local postgres=$TEST_DIR/postgres rabbitmq=$TEST_DIR/rabbitmq
    await PostgreSQL "$postgres.pid" "$(readlink -f "$postgres")" "$postgres.log" 60 postgres_ready "$POSTGRES_PORT"
    await RabbitMQ "$rabbitmq.pid" "$rabbitmq" "$rabbitmq.log" 90 rabbitmq_ready "$AMQP_PORT"
    await "RabbitMQ's management API" "$rabbitmq.pid" "$rabbitmq" "$rabbitmq.log" 30 port_in_use "$API_PORT"
}

test_stop() {
    local status=$1
    end "$TEST_DIR/rabbitmq.pid" "$TEST_DIR" KILL 5
    end "$TEST_DIR/rabbitmq/epmd.pid" "$TEST_DIR" KILL 5
    end "$TEST_DIR/postgres.pid" "$(readlink -f "$TEST_DIR/postgres")" INT 10
    sweep "$TEST_DIR"
    sweep "$(readlink -f "$TEST_DIR/postgres")"
    if ((status != 0)) && [[ -n $(ls -A "$TEST_DIR/logs" 2>/dev/null) ]]; then
        rm -rf -- "$DEV_DIR/test-logs"
        mv -- "$TEST_DIR/logs" "$DEV_DIR/test-logs"
        say "logs of the services that the tests started: ${DEV_DIR#"$ROOT"/}/test-logs"
    fi
    postgres_remove "$TEST_DIR/postgres"
    rm -rf -- "$TEST_DIR"
}

# Ends and removes what a run left behind that was killed with SIGKILL.
test_sweep_old_runs() {
    local folder owner
    for folder in "$DEV_DIR"/test-[0-9]*; do
        owner=${folder##*-}
        [[ -d $folder ]] || continue
        if [[ $(readlink "/proc/$owner/cwd" 2>/dev/null) != "$ROOT" ]]; then
            say "cleaning up after an aborted test run (${folder#"$ROOT"/})"
            sweep "$folder"
            sweep "$(readlink -f "$folder/postgres")"
            postgres_remove "$folder/postgres"
            rm -rf -- "$folder"
        fi
    done
}
