# shellcheck shell=bash
# Starting, watching and stopping the parts of the instance by name.

# How long a part may take to stop: a service's drain time (15 s) and some.
STOP_WITHIN_S=20

part_start() {
    local name=$1
    local pid_file=$PIDS_DIR/$name log=$LOGS_DIR/$name.log
    case $name in
        postgres)
            # Durable, as in production: fsync and synchronous_commit are on by default. The log may grow between
            # checkpoints, as each page is written into it whole when it first changes after one. Few buffers, written
            # to the disk little by little: what stays in them is left to the kernel, which writes it all at once every
            # 30 s, and RabbitMQ's log waits meanwhile.
            postgres_start "$RUN_DIR/postgres" "${PORT[postgres]}" "$pid_file" "$log" \
                shared_buffers=64MB bgwriter_delay=50ms bgwriter_lru_maxpages=400 bgwriter_flush_after=256kB \
                max_connections=300 max_wal_size=2GB checkpoint_timeout=15min wal_compression=lz4
            ;;
        redis) redis_start "$RUN_DIR/redis" "${PORT[redis]}" "$pid_file" "$log" ;;
        rabbitmq)
            rabbitmq_start "$RUN_DIR/rabbitmq" "${PORT[rabbitmq-epmd]}" "${PORT[rabbitmq-distribution]}" "$pid_file" "$log"
            ;;
        prometheus) prometheus_start "$RUN_DIR/prometheus" "${PORT[prometheus]}" "$pid_file" "$log" ;;
        collector) collector_start "$RUN_DIR/collector" "${PORT[collector]}" "$pid_file" "$log" ;;
        *) service_start "$name" "$pid_file" "$log" ;;
    esac
}

# Prints the process id of part $1 if it is alive.
part_pid() {
    recorded "$PIDS_DIR/$1" "$(part_folder "$1")"
}

# Whether part $1 does its work now.
part_ready() {
    case $1 in
        postgres) postgres_ready "${PORT[postgres]}" ;;
        redis) redis_ready "${PORT[redis]}" "${SECRET[redis]}" ;;
        rabbitmq) rabbitmq_ready "${PORT[rabbitmq]}" ;;
        prometheus) prometheus_ready "${PORT[prometheus]}" ;;
        collector) collector_ready "${PORT[collector]}" ;;
        *) [[ $(service_readiness "$1") == 200* ]] ;;
    esac
}

# Waits until part $1 is ready, at most $2 seconds; ends the command if it dies before.
part_wait() {
    await "$1" "$PIDS_DIR/$1" "$(part_folder "$1")" "$LOGS_DIR/$1.log" "$2" part_ready "$1"
}

# The signal that makes part $1 stop in good order.
part_stop_signal() {
    # TERM would make PostgreSQL wait for its clients.
    [[ $1 == postgres ]] && echo INT || echo TERM
}

# Stops the given parts, all at the same time.
parts_stop() {
    local name pid
    for name; do
        if pid=$(part_pid "$name"); then
            kill "-$(part_stop_signal "$name")" "$pid" 2>/dev/null || true
        fi
    done
    for name; do
        # The signal is repeated for those who have not ended yet; all of them understand that.
        end "$PIDS_DIR/$name" "$(part_folder "$name")" "$(part_stop_signal "$name")" "$STOP_WITHIN_S"
        if [[ $name == rabbitmq ]]; then
            end "$RUN_DIR/rabbitmq/epmd.pid" "$(part_folder rabbitmq)" TERM 5
        fi
    done
}

# Stops everything that is recorded, services first, and what an interrupted start left unrecorded.
instance_stop() {
    local pid_file name
    local -a stores=() services=()
    for pid_file in "$PIDS_DIR"/*; do
        [[ -e $pid_file ]] || continue
        name=${pid_file##*/}
        if is_store "$name"; then stores+=("$name"); else services+=("$name"); fi
    done
    parts_stop "${services[@]}"
    parts_stop "${stores[@]}"
    sweep "$RUN_DIR"
    sweep "$(part_folder postgres)"
    rm -f -- "$ENV_FILE"
}
