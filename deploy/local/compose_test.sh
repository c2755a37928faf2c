# shellcheck shell=bash
# ./dev compose-test: the images are built, docker-compose.yml is brought up, and the storm is played against it.

readonly COMPOSE_DIR=$DEV_DIR/compose-test # env files of this run, and Docker's own data where we have to start it
readonly COMPOSE_PROJECT=stampede-test
readonly COMPOSE_IMAGES=(rust:1.95-slim-bookworm debian:bookworm-slim redis:7 postgres:15 rabbitmq:3-management prom/prometheus)
readonly COMPOSE_LAYERS_MAX_MB=40
readonly COMPOSE_READY_WITHIN_S=240

compose_test_command() {
    local stand_ins=$ROOT/../shared/images/build build=yes
    while (($# > 0)); do
        case $1 in
            --base-images)
                stand_ins=${2:?--base-images needs a program that makes them}
                shift
                ;;
            --no-build) build='' ;;
            *) die "./dev compose-test does not know $1" "./dev help lists the options" ;;
        esac
        shift
    done
    cargo_ensure
    if ! command -v docker-compose >/dev/null || ! command -v dockerd >/dev/null; then
        packages_install docker.io docker-compose
    fi
    mkdir -p -- "$COMPOSE_DIR"
    on_exit compose_test_finish
    compose_docker_ensure
    [[ -z $build ]] || compose_build "$stand_ins"
    compose_sizes
    run cargo build --workspace --bins || die "the build failed" "the compiler's messages are above"

    compose_settings
    say "bringing the system up"
    compose_run up --detach --no-build
    compose_await gateway
    say "the storm, through one gateway"
    compose_drive storm
    compose_exits_well
    say "the storm with two of each service, through both gateways"
    compose_run --profile scale up --detach --no-build
    compose_await gateway gateway-2
    compose_drive storm
    compose_run run --rm --no-deps -T order-service reconcile || die "the books differ"
    compose_backlog
    say "taking it down"
    compose_run --profile scale --profile observe down --volumes --remove-orphans --timeout 60
    compose_nothing_left
    say "the system ran from its images, and nothing is left of it"
}

compose_test_finish() {
    if [[ -e $COMPOSE_DIR/env ]] && docker info >/dev/null 2>&1; then
        if (($1 != 0)); then
            compose_run --profile scale --profile observe logs --no-color --tail 200 >"$COMPOSE_DIR/logs" 2>&1
            say "the containers' last words: ${COMPOSE_DIR#"$ROOT"/}/logs"
        fi
        compose_run --profile scale --profile observe down --volumes --remove-orphans --timeout 20 >/dev/null 2>&1
    fi
    rm -f -- "$COMPOSE_DIR/env" "$COMPOSE_DIR/drive.env" "$ROOT"/deploy/certificates/machine-*.crt
    end "$COMPOSE_DIR/dockerd.pid" "$COMPOSE_DIR" TERM 30
}

compose_run() {
    docker-compose --project-name "$COMPOSE_PROJECT" --project-directory "$ROOT" --file "$ROOT/docker-compose.yml" \
        --env-file "$COMPOSE_DIR/env" "$@"
}

# Docker, started by hand if nobody else has: in a container of CI there is no systemd.
compose_docker_ensure() {
    docker info >/dev/null 2>&1 && return
    ((EUID == 0)) || die "no Docker daemon answers" "start one, or run this as root"
    say "starting a Docker daemon; its log is ${COMPOSE_DIR#"$ROOT"/}/dockerd.log"
    spawn "$COMPOSE_DIR/dockerd.pid" "$COMPOSE_DIR" "$COMPOSE_DIR/dockerd.log" dockerd --data-root "$COMPOSE_DIR/docker"
    local deadline=$((SECONDS + 60))
    until docker info >/dev/null 2>&1; do
        if ((SECONDS > deadline)); then
            show_log "$COMPOSE_DIR/dockerd.log"
            die "the Docker daemon does not start"
        fi
        sleep 0.5
    done
}

# compose_build <program that makes base images>
compose_build() {
    local image service certificate
    for image in "${COMPOSE_IMAGES[@]}"; do
        docker image inspect "$image" >/dev/null 2>&1 && continue
        if ! timeout 60 docker pull -q "$image"; then
            [[ -x $1 ]] || die "$image cannot be pulled" "--base-images names a program that makes stand-ins"
            say "the public base images cannot be pulled: making stand-ins by $1"
            "$1" || die "the stand-ins could not be made"
            break
        fi
    done
    # The build trusts whom this machine trusts.
    for certificate in /usr/local/share/ca-certificates/*.crt; do
        if [[ -e $certificate ]]; then
            cp -- "$certificate" "$ROOT/deploy/certificates/machine-${certificate##*/}"
        fi
    done
    for service in "${SERVICES[@]}" prescale; do
        say "building the image of $service"
        docker build --network host --cpu-shares 512 --file "$ROOT/deploy/Dockerfile" --build-arg SERVICE="$service" \
            --build-arg CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-$(nproc)}" \
            --build-arg VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' "$(compose_manifest "$service")")" \
            --build-arg REVISION="$(git -C "$ROOT" rev-parse HEAD)" \
            --tag "stampede/$service:test" "$ROOT" >"$COMPOSE_DIR/build-$service.log" 2>&1 ||
            { show_log "$COMPOSE_DIR/build-$service.log" && die "the image of $service could not be built"; }
    done
}

compose_manifest() {
    [[ $1 == prescale ]] && echo "$ROOT/k8s/prescale/Cargo.toml" || echo "$ROOT/$1/Cargo.toml"
}

# What each image adds to its base image.
compose_sizes() {
    local service base all own
    base=$(docker image inspect --format '{{.Size}}' debian:bookworm-slim)
    for service in "${SERVICES[@]}" prescale; do
        all=$(docker image inspect --format '{{.Size}}' "stampede/$service:test") || die "there is no image of $service"
        own=$(((all - base) / 1000000))
        say "image stampede/$service: own layers $own MB, with the base image $((all / 1000000)) MB"
        ((own <= COMPOSE_LAYERS_MAX_MB)) || die "more than $COMPOSE_LAYERS_MAX_MB MB of our own"
    done
}

# Secrets of this run, free ports, and where `drive` finds the gateways.
compose_settings() {
    local name
    rm -f -- "$COMPOSE_DIR/env"
    "$ROOT/deploy/compose/make-env" --dev "$COMPOSE_DIR/env"
    for name in STAMPEDE_PORT STAMPEDE_PORT_2 PROMETHEUS_PORT; do
        choose_port "COMPOSE_$name"
    done
    {
        printf 'STAMPEDE_TAG=test\nSTAMPEDE_PORT=%s\nSTAMPEDE_PORT_2=%s\nPROMETHEUS_PORT=%s\n' \
            "$COMPOSE_STAMPEDE_PORT" "$COMPOSE_STAMPEDE_PORT_2" "$COMPOSE_PROMETHEUS_PORT"
    } >>"$COMPOSE_DIR/env"
    echo "GATEWAY_URLS=http://127.0.0.1:$COMPOSE_STAMPEDE_PORT" >"$COMPOSE_DIR/drive.env"
}

# Waits until the containers of services $@ say that they are healthy.
compose_await() {
    local service health deadline=$((SECONDS + COMPOSE_READY_WITHIN_S))
    for service; do
        until health=$(docker inspect --format '{{.State.Health.Status}}' "$(compose_run ps --quiet "$service")" 2>/dev/null) &&
            [[ $health == healthy ]]; do
            ((SECONDS < deadline)) || die "$service does not become ready (${health:-no container})"
            sleep 1
        done
    done
    if [[ " $* " == *" gateway-2 "* ]]; then
        echo "GATEWAY_URLS=http://127.0.0.1:$COMPOSE_STAMPEDE_PORT,http://127.0.0.1:$COMPOSE_STAMPEDE_PORT_2" \
            >"$COMPOSE_DIR/drive.env"
    fi
}

compose_drive() {
    "$(target_folder)/drive" "$@" --env-file "$COMPOSE_DIR/drive.env" || die "the storm did not pass"
}

# SIGTERM reaches the service as process 1, which drains and ends by itself.
compose_exits_well() {
    local service container began status
    for service in gateway notify-service stock-service order-service; do
        container=$(compose_run ps --quiet "$service")
        began=$SECONDS
        docker stop --time 30 "$container" >/dev/null
        status=$(docker inspect --format '{{.State.ExitCode}}' "$container")
        [[ $status == 0 ]] || die "$service ended with $status after SIGTERM"
        say "$service drained and ended $((SECONDS - began)) s after SIGTERM"
    done
}

# The metric path of the autoscaler: a real backlog, seen by Prometheus through the rule of the adapter, and what the
# autoscaler would make of it.
compose_backlog() {
    say "a backlog: Postgres stands still while orders come in"
    compose_run --profile observe up --detach --no-build prometheus
    compose_await_metric 'count(up == 1) >= 8' 90
    local postgres rush
    postgres=$(compose_run ps --quiet postgres)
    manifests_ensure
    "$(target_folder)/drive" rush --seconds 25 --connections 64 --env-file "$COMPOSE_DIR/drive.env" >"$COMPOSE_DIR/rush" 2>&1 &
    rush=$!
    sleep 10 # It opens a sale first, which needs Postgres.
    docker pause "$postgres" >/dev/null
    if ! compose_backlog_value --above 150 --within 60; then
        docker unpause "$postgres" >/dev/null
        die "Prometheus shows no backlog"
    fi
    docker unpause "$postgres" >/dev/null
    wait "$rush" || die "not all orders were placed" "${COMPOSE_DIR#"$ROOT"/}/rush says why"
    compose_backlog_value --at-most 0 --within 90 || die "the backlog stays"
}

# compose_backlog_value <condition...>
compose_backlog_value() {
    PATH=$DEV_DIR/k8s-check/bin:$PATH PYTHONDONTWRITEBYTECODE=1 "$DEV_DIR/k8s-check/bin/python" "$ROOT/k8s/check/backlog.py" \
        "http://127.0.0.1:$COMPOSE_PROMETHEUS_PORT" order-service 5 "$@"
}

# compose_metric <query>: its value, or nothing.
compose_metric() {
    python3 - "$COMPOSE_PROMETHEUS_PORT" "$1" <<'END'
import json, sys, urllib.parse, urllib.request
url = f"http://127.0.0.1:{sys.argv[1]}/api/v1/query?" + urllib.parse.urlencode({"query": sys.argv[2]})
try:
    result = json.load(urllib.request.urlopen(url, timeout=5))["data"]["result"]
except OSError:
    result = []
if result:
    print(result[0]["value"][1])
END
}

# compose_await_metric <query that is empty until it holds> <seconds>
compose_await_metric() {
    local deadline=$((SECONDS + $2))
    until [[ -n $(compose_metric "$1") ]]; do
        ((SECONDS < deadline)) || return 1
        sleep 1
    done
}

compose_nothing_left() {
    local left
    left=$(docker ps --all --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT")
    left+=$(docker volume ls --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT")
    left+=$(docker network ls --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT")
    [[ -z $left ]] || die "left behind: $left"
}
