# shellcheck shell=bash
# ./dev status: each part with its process, address and readiness. Succeeds if every part runs and is ready.

status_command() {
    (($# == 0)) || die "./dev status takes no options"
    local up_pid
    if up_pid=$(cat "$DEV_DIR/up.pid" 2>/dev/null) && is_up "$up_pid"; then
        say "a ./dev up (process $up_pid) is at work"
    fi
    if ! instance_load || [[ -z $(ls -A "$PIDS_DIR" 2>/dev/null) ]]; then
        say "nothing is running; ./dev up starts everything"
        exit 3
    fi
    local name pid state address readiness failed=0
    printf '%-18s %8s  %-8s %-23s %s\n' PART PROCESS STATE ADDRESS READINESS
    for name in $(part_names); do
        address=${PORT[$name]:+127.0.0.1:${PORT[$name]}}
        if ! pid=$(part_pid "$name"); then
            pid=- state=dead readiness="./dev restart $name"
            [[ -e $PIDS_DIR/$name ]] || state=absent readiness="not started yet"
            failed=1
        else
            state=running readiness=ready
            if ! part_ready "$name"; then
                readiness="not ready"
                is_store "$name" || is_observer "$name" || readiness+=": $(service_readiness "$name")"
                failed=1
            fi
        fi
        printf '%-18s %8s  %-8s %-23s %s\n' "$name" "$pid" "$state" "${address:--}" "$readiness"
    done
    return "$failed"
}
