# shellcheck shell=bash
# ./dev logs: what the parts wrote.

readonly LOG_LINES=200

logs_command() {
    local follow='' name
    local -a names=()
    for name; do
        case $name in
            -f | --follow) follow=yes ;;
            *)
                [[ -e $LOGS_DIR/$name.log ]] || die "there is no log of $name" \
                    "there are: $(cd "$LOGS_DIR" 2>/dev/null && printf '%s ' *.log | sed 's/\.log//g')"
                names+=("$name")
                ;;
        esac
    done
    if ((${#names[@]} == 0)); then
        instance_load || die "there are no logs" "./dev up starts everything"
        mapfile -t names < <(service_names)
    fi
    for name in "${names[@]}"; do
        tail -n "$LOG_LINES" -- "$LOGS_DIR/$name.log" | logs_prefix "$name"
    done
    if [[ -n $follow ]]; then
        on_exit true
        logs_follow "${names[@]}"
        wait "$RUNNING"
    fi
}

logs_prefix() {
    sed -u "s/^/$1 | /"
}

# Shows what is added to the logs of the given parts, in the background (RUNNING).
logs_follow() {
    export -f logs_prefix
    # shellcheck disable=SC2016 # expanded by the inner shell
    setsid -- bash -c 'cd "$0"; for name; do tail -n 0 -F "$name.log" 2>/dev/null | logs_prefix "$name" & done; wait' \
        "$LOGS_DIR" "$@" </dev/null 9>&- &
    RUNNING=$!
}
