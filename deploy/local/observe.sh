# shellcheck shell=bash
# shellcheck disable=SC2153 # PORT is a variable of instance.sh, not a misspelt port
# ./dev up --observe: Prometheus on the rules of deploy/observe, and a small collector that keeps traces for ./dev trace.

# shellcheck disable=SC2034 # read by other pieces
readonly OBSERVERS=(prometheus collector)

is_observer() {
    [[ $1 == prometheus || $1 == collector ]]
}

# Folder $1 with the rules, and the parts of the instance as targets.
prometheus_configure() {
    local name separator=''
    mkdir -p -- "$1/targets"
    rm -rf -- "$1/rules"
    cp -r -- "$ROOT/deploy/observe/prometheus.yml" "$ROOT/deploy/observe/rules" "$1"
    {
        echo '['
        for name in $(service_names); do
            printf '%s{"targets": ["127.0.0.1:%s"], "labels": {"service": "%s", "namespace": "stampede"}}\n' \
                "$separator" "${PORT[$name-ops]:-${PORT[$name]}}" "$(service_of "$name")"
            separator=','
        done
        echo ']'
    } >"$1/targets/instance.json"
}

# prometheus_start <folder> <port> <pid file> <log>
prometheus_start() {
    prometheus_configure "$1"
    spawn "$3" "$1" "$4" prometheus --config.file="$1/prometheus.yml" --storage.tsdb.path="$1/data" \
        --storage.tsdb.retention.time=1d --web.listen-address="127.0.0.1:$2" --log.level=warn
}

prometheus_ready() {
    [[ $(http_get "$1" /-/ready) == 200* ]]
}

# collector_start <folder> <port> <pid file> <log>
collector_start() {
    mkdir -p -- "$1"
    spawn "$3" "$1" "$4" "$(target_folder)/drive" collect --port "$2"
}

collector_ready() {
    [[ $(http_get "$1" /healthz) == 200* ]]
}

# Places one order in the running instance and prints its trace.
trace_command() {
    (($# == 0)) || die "./dev trace takes no options"
    if [[ ! -r $ENV_FILE ]] || ! instance_load; then
        die "nothing is running" "./dev up --observe --detach starts everything"
    fi
    [[ -n $OBSERVE ]] || die "nobody collects traces" "./dev down, then ./dev up --observe --detach"
    RUST_LIB_BACKTRACE=0 exec "$(target_folder)/drive" trace --collector "http://127.0.0.1:${PORT[collector]}" \
        --env-file "$ENV_FILE"
}
