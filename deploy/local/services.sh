# shellcheck shell=bash
# shellcheck disable=SC2153 # PORT is a variable of instance.sh, not a misspelt port
# The four services, as the binaries that cargo built.

# Where cargo puts what it builds.
target_folder() {
    local folder=${CARGO_TARGET_DIR:-$ROOT/target}
    [[ $folder == /* ]] || folder=$ROOT/$folder
    echo "$folder/$BUILD"
}

# Builds every binary. Always the whole workspace: choosing packages would compile dependencies again.
services_build() {
    local -a arguments=(build --workspace --bins)
    if [[ $BUILD == release ]]; then
        arguments+=(--release)
    fi
    run cargo "${arguments[@]}" || die "the build failed" "the compiler's messages are above"
}

# service_start <part> <pid file> <log>
service_start() {
    local name=$1 pid_file=$2 log=$3
    local service program
    service=$(service_of "$name")
    program=$(target_folder)/$service
    [[ -x $program ]] || die "$program is missing" "build it with: cargo build --workspace --bins"
    mkdir -p -- "$RUN_DIR/$name"
    local -a environment
    mapfile -t environment < <(service_environment "$name")
    spawn "$pid_file" "$RUN_DIR/$name" "$log" env "${environment[@]}" "$program"
}

# The settings of part $1, one KEY=value a line; later lines win.
service_environment() {
    local name=$1 service prefix key
    service=$(service_of "$name")
    prefix=${service^^}
    prefix=${prefix//-/_}
    echo NO_COLOR=1 # The output goes to a file.
    echo "${prefix}__TELEMETRY__LOG=info"
    echo "${prefix}__TELEMETRY__FORMAT=text"
    if [[ -n $OBSERVE ]]; then
        echo "${prefix}__TELEMETRY__OTLP_ENDPOINT=http://127.0.0.1:${PORT[collector]}"
    fi
    for key in "${!OVERRIDES[@]}"; do
        [[ $key == "${prefix}__"* ]] && echo "$key=${OVERRIDES[$key]}"
    done
    echo "${prefix}__PROFILE=dev"
    echo "${prefix}__HTTP__HOST=127.0.0.1"
    echo "${prefix}__HTTP__PORT=${PORT[$name]}"
    echo "${prefix}__INTERNAL__TOKEN=${SECRET[internal]}"
    echo "${prefix}__DRAIN__READY_DELAY_MS=0"
    case $service in
        gateway)
            echo "GATEWAY__OPS__PORT=${PORT[$name-ops]}"
            echo "GATEWAY__STOCK__URLS=$(service_urls stock-service)"
            echo "GATEWAY__ORDERS__URLS=$(service_urls order-service)"
            echo "GATEWAY__NOTIFY__URLS=$(service_urls notify-service)"
            echo "GATEWAY__REDIS__URL=$(redis_url_of gateway redis-gateway)"
            echo "GATEWAY__LIMITS__REPLICAS=$REPLICAS"
            echo "GATEWAY__AUTH__JWT_SECRET=${SECRET[jwt]}"
            echo "GATEWAY__HTTP__PUBLIC_URL=http://127.0.0.1:${PORT[gateway]}"
            ;;
        stock-service)
            echo "STOCK_SERVICE__REDIS__URL=$(redis_url_of stock-service redis-stock)"
            echo "STOCK_SERVICE__AMQP__URL=$(amqp_url_of stock-service)"
            echo "STOCK_SERVICE__ORDERS__URLS=$(service_urls order-service)"
            ;;
        order-service)
            echo "ORDER_SERVICE__DATABASE__URL=$(database_url orders)"
            echo "ORDER_SERVICE__DATABASE__MIGRATION_URL=$(database_owner_url orders)"
            echo "ORDER_SERVICE__AMQP__URL=$(amqp_url_of order-service)"
            echo "ORDER_SERVICE__STOCK__URLS=$(service_urls stock-service)"
            echo "ORDER_SERVICE__PAYMENTS__SANDBOX_SECRET=${SECRET[sandbox]}"
            echo "ORDER_SERVICE__PAYMENTS__PUBLIC_URL=http://127.0.0.1:${PORT[gateway]}"
            ;;
        notify-service)
            echo "NOTIFY_SERVICE__DATABASE__URL=$(database_url notify)"
            echo "NOTIFY_SERVICE__DATABASE__MIGRATION_URL=$(database_owner_url notify)"
            echo "NOTIFY_SERVICE__AMQP__URL=$(amqp_url_of notify-service)"
            echo "NOTIFY_SERVICE__WEBHOOKS__ALLOW_PRIVATE=true"
            ;;
    esac
}

# Settings of services in this shell's environment, such as ORDER_SERVICE__TELEMETRY__LOG=debug, are handed on.
overrides_collect() {
    local key
    OVERRIDES=()
    for key in $(compgen -e); do
        if [[ $key =~ ^(GATEWAY|STOCK_SERVICE|ORDER_SERVICE|NOTIFY_SERVICE)__ ]]; then
            OVERRIDES["$key"]=${!key}
        fi
    done
}

# What part $1 answers to /readyz: status and body, or nothing.
service_readiness() {
    local port=${PORT[$1]}
    if [[ $(service_of "$1") == gateway ]]; then
        port=${PORT[$1-ops]}
    fi
    http_get "$port" /readyz
}
