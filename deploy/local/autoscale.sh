# shellcheck shell=bash
# ./dev autoscale: the metric path of the autoscalers, from a service's /metrics by Prometheus and the adapter's rule to the
# number of replicas, on real backlogs: Postgres stands still, and then orders come faster than they may leave a gateway.

readonly AUTOSCALE_DIR=$DEV_DIR/autoscale # an instance of its own
readonly AUTOSCALE_REPLICAS=5             # minReplicas of both autoscalers: what they begin with
readonly AUTOSCALE_PER_SECOND_MAX=200     # so slowly that the orders of one machine have to wait
readonly AUTOSCALE_CONNECTIONS=1000       # nearly as many as a gateway has under way
readonly AUTOSCALE_ORDERS_WITHIN_S=60
AUTOSCALE_RUSH='' # the process that orders
AUTOSCALE_STOPPED=()

autoscale_command() {
    (($# == 0)) || die "./dev autoscale takes no options"
    packages_ensure prometheus
    cargo_ensure
    manifests_ensure
    on_exit autoscale_finish

    autoscale_up GATEWAY__ADMISSION__PER_SECOND_MAX=0
    say "a backlog of order-service: Postgres stands still while orders come in"
    autoscale_rush 25 256
    autoscale_await_orders # It opens a sale first, which needs Postgres.
    autoscale_freeze_postgres
    autoscale_value order-service --above 150 --within 60 --exporter "$(autoscale_env ORDER_URL)/metrics"
    autoscale_thaw_postgres
    autoscale_calm order-service

    autoscale_up GATEWAY__ADMISSION__PER_SECOND_MAX=$AUTOSCALE_PER_SECOND_MAX
    say "a backlog of the gateway: orders come faster than they may leave it"
    autoscale_rush 40 $AUTOSCALE_CONNECTIONS
    autoscale_value gateway --above 440 --within 60 --exporter "$(autoscale_env GATEWAY_OPS_URL)/metrics"
    autoscale_calm gateway
    say "both backlogs were seen, and were gone afterwards"
}

autoscale_finish() {
    autoscale_thaw_postgres
    [[ -z $AUTOSCALE_RUSH ]] || kill "$AUTOSCALE_RUSH" 2>/dev/null
    autoscale_dev down >/dev/null 2>&1
}

# The command $@ for our own instance.
autoscale_dev() {
    STAMPEDE_DIR=$AUTOSCALE_DIR "$ROOT/dev" "$@" 9>&-
}

# autoscale_up <setting=value>
autoscale_up() {
    mkdir -p -- "$AUTOSCALE_DIR"
    say "starting an instance with Prometheus and $1"
    if ! env "$1" GATEWAY__HTTP__CONNECTIONS_PER_IP_MAX=10000 STAMPEDE_DIR="$AUTOSCALE_DIR" "$ROOT/dev" \
        up --observe --detach >"$AUTOSCALE_DIR/up.log" 2>&1; then
        show_log "$AUTOSCALE_DIR/up.log"
        die "the instance does not start"
    fi
}

# autoscale_env <name>: an address of our instance.
autoscale_env() {
    sed -n "s/^$1=//p" "$AUTOSCALE_DIR/env"
}

# autoscale_rush <seconds> <connections>
autoscale_rush() {
    (
        ulimit -n "$(ulimit -H -n)"
        exec "$(target_folder)/drive" rush --seconds "$1" --connections "$2" --env-file "$AUTOSCALE_DIR/env"
    ) >"$AUTOSCALE_DIR/rush" 2>&1 &
    AUTOSCALE_RUSH=$!
}

# Waits until the rush is under way.
autoscale_await_orders() {
    local deadline=$((SECONDS + AUTOSCALE_ORDERS_WITHIN_S)) ops
    ops=$(autoscale_env GATEWAY_OPS_URL)
    until http_get "${ops##*:}" /metrics | grep -q 'gateway_orders_accepted_total [1-9]'; do
        ((SECONDS < deadline)) || die "no order is accepted" "${AUTOSCALE_DIR#"$ROOT"/}/rush says why"
        sleep 0.5
    done
}

# autoscale_value <service> <condition...>: the value by the adapter's query, when it is so, and the replicas.
autoscale_value() {
    local service=$1
    shift
    PATH=$DEV_DIR/k8s-check/bin:$PATH PYTHONDONTWRITEBYTECODE=1 "$DEV_DIR/k8s-check/bin/python" "$ROOT/k8s/check/backlog.py" \
        "$(autoscale_env PROMETHEUS_URL)" "$service" $AUTOSCALE_REPLICAS "$@" || die "Prometheus does not show it"
}

# autoscale_calm <service>: all orders are placed, nothing waits any more, and the books are right.
autoscale_calm() {
    wait "$AUTOSCALE_RUSH" || die "not all orders were placed" "${AUTOSCALE_DIR#"$ROOT"/}/rush says why"
    AUTOSCALE_RUSH=''
    say "$(<"$AUTOSCALE_DIR/rush") orders were accepted"
    autoscale_value "$1" --at-most 0 --within 90
    autoscale_dev audit >"$AUTOSCALE_DIR/audit" || die "the books differ" "${AUTOSCALE_DIR#"$ROOT"/}/audit"
    autoscale_dev down
}

# The server and its backends: connections stay open, and nothing is answered.
autoscale_freeze_postgres() {
    local server
    local -a backends
    server=$(<"$AUTOSCALE_DIR/pids/postgres")
    kill -STOP "$server"
    # That file has no end of line, which `read` takes for a failure.
    read -r -a backends <"/proc/$server/task/$server/children" || true
    AUTOSCALE_STOPPED=("$server" "${backends[@]}")
    kill -STOP "${AUTOSCALE_STOPPED[@]}" 2>/dev/null || true
}

autoscale_thaw_postgres() {
    ((${#AUTOSCALE_STOPPED[@]} == 0)) || kill -CONT "${AUTOSCALE_STOPPED[@]}" 2>/dev/null || true
    AUTOSCALE_STOPPED=()
}
