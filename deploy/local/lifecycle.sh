# shellcheck shell=bash
# What happens when the command itself ends, by itself or by a signal.

# Background shells that start servers: ended first, so that nothing new appears while we clean up.
STARTERS=()
# The command that `run` is waiting for.
RUNNING=''

# on_exit <function>: calls it with the exit status, once, however this command ends (except by SIGKILL).
on_exit() {
    # shellcheck disable=SC2064 # the name of the function is known now
    trap "finish $1" EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
}

finish() {
    local status=$?
    trap '' INT TERM HUP
    set +e
    if [[ -n $RUNNING ]]; then
        kill -TERM -- "-$RUNNING" 2>/dev/null
        wait "$RUNNING" 2>/dev/null
    fi
    if ((${#STARTERS[@]} > 0)); then
        kill -TERM "${STARTERS[@]}" 2>/dev/null
        wait "${STARTERS[@]}" 2>/dev/null
    fi
    "$1" "$status"
    exit "$status"
}

# Runs a long command so that a signal to this shell alone ends it (and all that it started) at once.
run() {
    setsid -- "$@" </dev/null 9>&- &
    RUNNING=$!
    local status=0
    wait "$RUNNING" || status=$?
    RUNNING=''
    return "$status"
}

