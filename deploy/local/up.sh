# shellcheck shell=bash
# ./dev up: the whole system, from nothing to an open demo sale.

up_command() {
    local detach='' keep=''
    while (($# > 0)); do
        case $1 in
            --detach | -d) detach=yes ;;
            --keep) keep=yes ;;
            --release) BUILD=release ;;
            --observe) OBSERVE=yes ;;
            --replicas)
                [[ ${2:-} =~ ^[1-9]$ ]] || die "--replicas needs a number from 1 to 9"
                REPLICAS=$2
                shift
                ;;
            *) die "./dev up does not know $1" "./dev help lists the options" ;;
        esac
        shift
    done

    packages_ensure ${OBSERVE:+prometheus}
    cargo_ensure
    up_claim
    on_exit up_finish
    up_prepare "$keep"
    up_stores
    say "building the services ($BUILD profile); the stores start meanwhile"
    services_build
    local built=$SECONDS
    up_wait_for_stores
    up_services
    say "opening the demo sale"
    local sale
    sale=$("$(target_folder)/drive" open-sale --env-file "$ENV_FILE") ||
        die "the demo sale could not be opened" "the logs are in ${LOGS_DIR#"$ROOT"/}"
    READY=yes
    say "ready, $((SECONDS - built)) s after the build"
    up_summary "$sale"
    if [[ -n $detach ]]; then
        LEAVE_RUNNING=yes
    else
        up_follow
    fi
}

LEAVE_RUNNING='' # The instance survives this command.
READY=''
KEPT='' # The data are those of the last time.

# One `up` at a time.
up_claim() {
    if ! mkdir -p -- "$DEV_DIR" || [[ ! -w $DEV_DIR ]]; then
        die "cannot write to $DEV_DIR" "it may belong to another user: remove it as that user, or run ./dev as that user"
    fi
    exec 9>"$DEV_DIR/lock"
    flock -n 9 || die "another ./dev up is at work here" \
        "./dev status shows what it is doing" "./dev down stops it, from any terminal"
    if instance_runs; then
        die "an instance is running already" "./dev status    shows it" \
            "./dev restart   starts parts again that have died" "./dev down      stops it"
    fi
    echo $$ >"$DEV_DIR/up.pid"
}

up_finish() {
    if [[ -z $LEAVE_RUNNING ]]; then
        say "stopping"
        if [[ -z $READY && -z $KEPT ]]; then
            # shellcheck disable=SC2034 # read by parts.sh
            STOP_WITHIN_S=2 # Nothing in there is worth waiting for, and a booting RabbitMQ hears no SIGTERM.
        fi
        instance_stop
    fi
    rm -f -- "$DEV_DIR/up.pid"
}

# Folders, secrets and ports; with --keep, the data and the secrets of the last time.
up_prepare() {
    local replicas=$REPLICAS build=$BUILD observe=$OBSERVE
    sweep "$RUN_DIR"
    rm -rf -- "$PIDS_DIR" "$LOGS_DIR"
    if [[ -n $1 ]] && instance_load && [[ -n ${SECRET[redis-stock]:-} ]]; then
        say "keeping the data of the last time"
        KEPT=yes
    else
        postgres_remove "$RUN_DIR/postgres"
        rm -rf -- "$RUN_DIR"
    fi
    REPLICAS=$replicas BUILD=$build OBSERVE=$observe
    mkdir -p -- "$RUN_DIR" "$PIDS_DIR" "$LOGS_DIR"
    chmod 711 "$DEV_DIR" "$RUN_DIR" # User postgres must get through.
    [[ -n $KEPT ]] || choose_secrets
    overrides_collect
    choose_store_ports
    instance_save
}

up_stores() {
    say "starting PostgreSQL (port ${PORT[postgres]}), Redis (port ${PORT[redis]}) and RabbitMQ (port ${PORT[rabbitmq]})"
    part_start redis
    rabbitmq_configure "$RUN_DIR/rabbitmq" "${PORT[rabbitmq]}" stampede "${SECRET[rabbitmq]}" <<END
load_definitions = $RUN_DIR/rabbitmq/definitions.json
END
    rabbitmq_definitions >"$RUN_DIR/rabbitmq/definitions.json"
    part_start rabbitmq
    (
        [[ -n $KEPT ]] || postgres_create "$RUN_DIR/postgres" "${SECRET[postgres]}"
        part_start postgres
    ) &
    STARTERS+=($!)
}

up_wait_for_stores() {
    local part
    if ! wait "${STARTERS[0]}"; then
        show_log "$RUN_DIR/postgres.log"
        die "PostgreSQL could not be set up"
    fi
    STARTERS=()
    for part in "${STORES[@]}"; do
        part_wait "$part" 90
    done
    [[ -n $KEPT ]] || up_databases
}

# Databases and roles; the passwords through standard input, not through the process list.
up_databases() {
    {
        printf '\\set orders_owner_password %s\n\\set orders_password %s\n' \
            "${SECRET[orders-owner]}" "${SECRET[orders-database]}"
        printf '\\set notify_owner_password %s\n\\set notify_password %s\n' \
            "${SECRET[notify-owner]}" "${SECRET[notify-database]}"
        cat "$ROOT/deploy/stores/postgres.sql"
    } | PGPASSWORD=${SECRET[postgres]} "$(postgres_programs)/psql" -X -q -v ON_ERROR_STOP=1 \
        -h 127.0.0.1 -p "${PORT[postgres]}" -U stampede postgres
}

up_services() {
    local name
    choose_service_ports
    instance_save
    say "starting the services"
    for name in $(service_names); do
        part_start "$name"
    done
    for name in $(service_names); do
        part_wait "$name" 60
    done
    [[ -z $OBSERVE ]] || up_observers
    env_file_write
}

up_observers() {
    local name
    for name in "${OBSERVERS[@]}"; do
        part_start "$name"
        part_wait "$name" 60
    done
}

up_summary() {
    local name
    printf '\n'
    for name in $(service_names); do
        printf '  %-18s http://127.0.0.1:%s\n' "$name" "${PORT[$name]}"
    done
    printf '  %-18s http://127.0.0.1:%s/docs\n' 'API documentation' "${PORT[gateway]}"
    printf '  %-18s http://127.0.0.1:%s/metrics\n' 'gateway metrics' "${PORT[gateway-ops]}"
    printf '  %-18s http://127.0.0.1:%s/api/v1/sales/%s\n' 'demo sale' "${PORT[gateway]}" "$1"
    [[ -z $OBSERVE ]] || printf '  %-18s http://127.0.0.1:%s/alerts\n' Prometheus "${PORT[prometheus]}"
    printf '  %-18s %s\n\n' 'addresses, secrets' "${ENV_FILE#"$ROOT"/}"
    printf '  ./dev demo plays a flash sale, ./dev status shows the parts, ./dev down stops everything\n\n'
}

# Shows the services' logs and tells when a part dies, until somebody ends this.
up_follow() {
    local name
    local -A dead=()
    local -a names
    mapfile -t names < <(service_names)
    say "following the logs; Ctrl-C stops everything"
    logs_follow "${names[@]}"
    while instance_runs; do
        for name in $(part_names); do
            if part_pid "$name" >/dev/null; then
                unset "dead[$name]"
            elif [[ -z ${dead[$name]:-} ]]; then
                dead[$name]=yes
                warn "$name has ended; ./dev restart $name starts it again"
            fi
        done
        sleep 1
    done
    warn "every part has ended"
}
