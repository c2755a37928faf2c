# shellcheck shell=bash
# Choosing loopback ports.

declare -A PORTS_TAKEN=()

# Whether somebody listens on this loopback port.
port_in_use() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Sets the variable named $1 to a port that is free and was not handed out before.
# Below Linux' range for outgoing connections (from 32768), so that no client takes it while a server restarts.
# The name of a variable instead of an output, because a subshell could not remember what was handed out.
choose_port() {
    local -n chosen=$1
    local candidate
    while :; do
        candidate=$((20000 + RANDOM % 12000))
        if [[ -z ${PORTS_TAKEN[$candidate]:-} ]] && ! port_in_use "$candidate"; then
            PORTS_TAKEN[$candidate]=yes
            # shellcheck disable=SC2034 # a reference to the caller's variable
            chosen=$candidate
            return
        fi
    done
}

# Like choose_port, but takes port $2 if it is free.
prefer_port() {
    local -n preferred=$1
    if [[ -z ${PORTS_TAKEN[$2]:-} ]] && ! port_in_use "$2"; then
        PORTS_TAKEN[$2]=yes
        # shellcheck disable=SC2034 # a reference to the caller's variable
        preferred=$2
    else
        choose_port "$1"
    fi
}
