# shellcheck shell=bash
# shellcheck disable=SC2034 # read by other pieces
# The instance of `./dev up`: what it consists of, where its files are, its ports and secrets.

readonly RUN_DIR=$DEV_DIR/run       # working folders and data of the parts; fresh at each `up`, unless --keep
readonly PIDS_DIR=$DEV_DIR/pids     # one file per part: its process id
readonly LOGS_DIR=$DEV_DIR/logs     # one file per part: its output
readonly ENV_FILE=$DEV_DIR/env      # addresses and secrets of the running instance, for people and programs
readonly SETTINGS_FILE=$RUN_DIR/settings

readonly STORES=(postgres redis rabbitmq)
readonly SERVICES=(stock-service order-service notify-service gateway)

declare -A PORT=()      # by part, and gateway-ops, rabbitmq-epmd, rabbitmq-distribution
declare -A SECRET=()    # by purpose
declare -A OVERRIDES=() # settings of services that were given to `up` in the environment
REPLICAS=1
BUILD=debug # or release
OBSERVE=''  # or yes: with Prometheus and a collector

# All services of the instance, one a line: gateway, gateway-2, ...
service_names() {
    local service replica
    for service in "${SERVICES[@]}"; do
        echo "$service"
        for ((replica = 2; replica <= REPLICAS; replica++)); do
            echo "$service-$replica"
        done
    done
}

part_names() {
    printf '%s\n' "${STORES[@]}"
    service_names
    [[ -z $OBSERVE ]] || printf '%s\n' "${OBSERVERS[@]}"
}

# The service that part $1 is a replica of.
service_of() {
    [[ $1 =~ ^(.*)-[0-9]+$ ]] && echo "${BASH_REMATCH[1]}" || echo "$1"
}

is_store() {
    [[ $1 == postgres || $1 == redis || $1 == rabbitmq ]]
}

# The working folder of part $1, without symbolic links: what is_ours compares with.
part_folder() {
    readlink -f -- "$RUN_DIR/$1"
}

instance_save() {
    (umask 077 && declare -p PORT SECRET OVERRIDES REPLICAS BUILD OBSERVE >"$SETTINGS_FILE.new")
    mv -- "$SETTINGS_FILE.new" "$SETTINGS_FILE"
}

instance_load() {
    [[ -r $SETTINGS_FILE ]] || return 1
    # Inside a function, declare without -g would make them local.
    # shellcheck source=/dev/null
    source <(sed 's/^declare -/declare -g -/' "$SETTINGS_FILE")
}

# Whether any part that was recorded is alive.
instance_runs() {
    local pid_file
    for pid_file in "$PIDS_DIR"/*; do
        if recorded "$pid_file" "$(part_folder "${pid_file##*/}")" >/dev/null; then
            return 0
        fi
    done
    return 1
}

choose_secrets() {
    local purpose
    for purpose in postgres orders-owner orders-database notify-owner notify-database redis redis-stock redis-gateway \
        rabbitmq rabbitmq-stock-service rabbitmq-order-service rabbitmq-notify-service internal jwt sandbox; do
        SECRET[$purpose]=$(random_secret)
    done
}

choose_store_ports() {
    local part port
    for part in postgres redis rabbitmq rabbitmq-epmd rabbitmq-distribution "${OBSERVERS[@]}"; do
        choose_port port
        PORT[$part]=$port
    done
}

# The documented ports if they are free; replicas take any.
choose_service_ports() {
    local -A documented=([gateway]=8080 [gateway-ops]=9080 [stock-service]=8081 [order-service]=8082 [notify-service]=8083)
    local name port
    for name in $(service_names) gateway-ops; do
        if [[ -z ${documented[$name]:-} ]]; then
            choose_port port
        else
            prefer_port port "${documented[$name]}"
            if [[ $port != "${documented[$name]}" ]]; then
                warn "port ${documented[$name]} is in use: $name gets $port"
            fi
        fi
        PORT[$name]=$port
    done
    for name in $(service_names); do
        if [[ $name == gateway-* ]]; then
            choose_port port
            PORT[$name-ops]=$port
        fi
    done
}

# The addresses of all replicas of service $1, separated by commas.
service_urls() {
    local name urls=''
    for name in $(service_names); do
        if [[ $(service_of "$name") == "$1" ]]; then
            urls+=",http://127.0.0.1:${PORT[$name]}"
        fi
    done
    echo "${urls#,}"
}

gateway_ops_urls() {
    local name urls=''
    for name in $(service_names); do
        if [[ $(service_of "$name") == gateway ]]; then
            urls+=",http://127.0.0.1:${PORT[$name-ops]}"
        fi
    done
    echo "${urls#,}"
}

# The stores as an operator enters them, and each service with its own credentials (deploy/stores).
# The user is named because redis-cli takes a missing one for an empty one.
redis_url() { echo "redis://default:${SECRET[redis]}@127.0.0.1:${PORT[redis]}/"; }
redis_url_of() { echo "redis://$1:${SECRET[$2]}@127.0.0.1:${PORT[redis]}/"; }
amqp_url() { echo "amqp://stampede:${SECRET[rabbitmq]}@127.0.0.1:${PORT[rabbitmq]}/%2f"; }
amqp_url_of() { echo "amqp://$1:${SECRET[rabbitmq-$1]}@127.0.0.1:${PORT[rabbitmq]}/%2f"; }
# The database $1 (orders or notify) for its service, and for its migrations.
database_url() { echo "postgres://$1:${SECRET[$1-database]}@127.0.0.1:${PORT[postgres]}/$1"; }
database_owner_url() { echo "postgres://$1_owner:${SECRET[$1-owner]}@127.0.0.1:${PORT[postgres]}/$1"; }

# Writes .dev/env, all at once.
env_file_write() {
    (
        umask 077
        cat >"$ENV_FILE.new" <<END
GATEWAY_URL=http://127.0.0.1:${PORT[gateway]}
GATEWAY_OPS_URL=http://127.0.0.1:${PORT[gateway-ops]}
STOCK_URL=http://127.0.0.1:${PORT[stock-service]}
ORDER_URL=http://127.0.0.1:${PORT[order-service]}
NOTIFY_URL=http://127.0.0.1:${PORT[notify-service]}
GATEWAY_URLS=$(service_urls gateway)
GATEWAY_OPS_URLS=$(gateway_ops_urls)
STOCK_URLS=$(service_urls stock-service)
ORDER_URLS=$(service_urls order-service)
NOTIFY_URLS=$(service_urls notify-service)
REDIS_URL=$(redis_url)
AMQP_URL=$(amqp_url)
ORDERS_DATABASE_URL=$(database_url orders)
NOTIFY_DATABASE_URL=$(database_url notify)
ORDERS_OWNER_DATABASE_URL=$(database_owner_url orders)
NOTIFY_OWNER_DATABASE_URL=$(database_owner_url notify)
POSTGRES_ADMIN_URL=postgres://stampede:${SECRET[postgres]}@127.0.0.1:${PORT[postgres]}/postgres
INTERNAL_TOKEN=${SECRET[internal]}
JWT_SECRET=${SECRET[jwt]}
SANDBOX_SECRET=${SECRET[sandbox]}
END
        if [[ -n $OBSERVE ]]; then
            printf 'PROMETHEUS_URL=http://127.0.0.1:%s\nCOLLECTOR_URL=http://127.0.0.1:%s\n' \
                "${PORT[prometheus]}" "${PORT[collector]}" >>"$ENV_FILE.new"
        fi
    )
    mv -- "$ENV_FILE.new" "$ENV_FILE"
}
