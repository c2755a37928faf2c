# shellcheck shell=bash
# ./dev restart: starts parts again, on the same data, ports and secrets.

# How long a restarted part may take; a service whose store is away may stay unready.
readonly READY_WITHIN_S=60

restart_command() {
    if ! instance_load || [[ -z $(ls -A "$PIDS_DIR" 2>/dev/null) ]]; then
        die "nothing is running" "./dev up starts everything"
    fi
    local name
    local -a names=("$@")
    if (($# == 0)); then
        for name in $(part_names); do
            part_pid "$name" >/dev/null || names+=("$name")
        done
        if ((${#names[@]} == 0)); then
            say "every part is running; ./dev restart <name> restarts one of them"
            return
        fi
    fi
    # Not by a pipe into grep -q: it ends at the first match, and the writer's broken pipe would count as a failure.
    local parts
    parts=$(part_names | paste -s -d ' ')
    for name in "${names[@]}"; do
        [[ " $parts " == *" $name "* ]] || die "there is no part $name" "there are: $parts"
    done
    for name in "${names[@]}"; do
        if part_pid "$name" >/dev/null; then
            say "stopping $name"
            parts_stop "$name"
        fi
        say "starting $name"
        sweep "$(part_folder "$name")" # Children of a killed PostgreSQL may take a moment to notice.
        part_start "$name"
        if is_store "$name" || is_observer "$name"; then
            part_wait "$name" "$READY_WITHIN_S"
        fi
    done
    for name in "${names[@]}"; do
        is_store "$name" || is_observer "$name" || restart_wait "$name"
        say "$name is running"
    done
}

# A service must come up; it is ready only if its stores are.
restart_wait() {
    local deadline=$((SECONDS + READY_WITHIN_S))
    until part_ready "$1"; do
        if ! part_pid "$1" >/dev/null || ((SECONDS >= deadline)) || ! restart_stores_run; then
            break
        fi
        sleep 0.1
    done
    if ! part_pid "$1" >/dev/null; then
        show_log "$LOGS_DIR/$1.log"
        die "$1 has ended again" "its output is in ${LOGS_DIR#"$ROOT"/}/$1.log"
    fi
    part_ready "$1" || warn "$1 is running but not ready: $(service_readiness "$1")"
}

restart_stores_run() {
    local name
    for name in "${STORES[@]}"; do
        part_pid "$name" >/dev/null || return 1
    done
}
