# shellcheck shell=bash
# ./dev down: stops the instance, whatever state it is in. The data stays for `./dev up --keep`.

down_command() {
    (($# == 0)) || die "./dev down takes no options"
    local up_pid
    # An `up` in another terminal, perhaps in the middle of its start, stops what it has started.
    if up_pid=$(cat "$DEV_DIR/up.pid" 2>/dev/null) && is_up "$up_pid"; then
        say "ending the ./dev up of process $up_pid"
        kill -TERM "$up_pid" 2>/dev/null || true
        local deadline=$((SECONDS + 60))
        while is_up "$up_pid" && ((SECONDS < deadline)); do
            sleep 0.1
        done
    fi
    if instance_runs; then
        say "stopping"
    fi
    instance_stop
    rm -f -- "$DEV_DIR/up.pid"
    say "nothing is running"
}

# Whether process $1 is a `./dev up` of this checkout.
is_up() {
    [[ $(readlink "/proc/$1/cwd" 2>/dev/null) == "$ROOT" ]] &&
        tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -q '/\?dev up '
}
