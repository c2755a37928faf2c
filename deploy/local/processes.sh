# shellcheck shell=bash
# Starting and ending processes, without ever touching one that is not ours.
#
# Each process runs in a session of its own (Ctrl-C in the terminal does not reach it, and it survives this shell) and
# with a working folder below the instance's folder. That folder is the proof that a recorded process id is still ours.

# spawn <pid file> <folder> <log> <command...>: starts a process and records its id.
spawn() {
    local pid_file=$1 folder=$2 log=$3
    shift 3
    cd "$folder" || exit # Before the fork: the recorded process is recognisable from its first moment.
    setsid -- "$@" </dev/null >>"$log" 2>&1 9>&- &
    echo $! >"$pid_file"
    cd "$ROOT" || exit
    disown # Or this shell would comment on its end.
}

# Whether process $1 runs (a zombie does not) with a working folder in $2.
is_ours() {
    local folder
    folder=$(readlink "/proc/$1/cwd" 2>/dev/null) || return 1
    [[ $folder/ == "$2"/* ]]
}

# The recorded process id, if that process is alive and ours: recorded <pid file> <folder>.
recorded() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 1
    [[ $pid =~ ^[0-9]+$ ]] && is_ours "$pid" "$2" && echo "$pid"
}

# Waits until process $1 is no longer ours (folder $2), at most $3 seconds.
wait_gone() {
    local deadline=$((SECONDS + $3))
    while is_ours "$1" "$2"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# await <what> <pid file> <folder> <log> <seconds> <command...>: waits until the command succeeds. If the process ends
# or the time does, the end of the log is shown and this command ends.
await() {
    local what=$1 pid_file=$2 folder=$3 log=$4 seconds=$5
    shift 5
    local deadline=$((SECONDS + seconds))
    until "$@"; do
        if ! recorded "$pid_file" "$folder" >/dev/null; then
            show_log "$log"
            die "$what has ended instead of becoming ready" "its output is in $log"
        fi
        if ((SECONDS >= deadline)); then
            show_log "$log"
            die "$what is not ready after $seconds s" "its output is in $log"
        fi
        sleep 0.1
    done
}

# end <pid file> <folder> <signal> <seconds>: asks the process to end, and kills its whole session if it does not.
end() {
    local pid
    if pid=$(recorded "$1" "$2"); then
        kill "-$3" "$pid" 2>/dev/null || true
        if ! wait_gone "$pid" "$2" "$4"; then
            warn "process $pid did not end within $4 s of SIG$3: killing it"
            kill -KILL -- "-$pid" "$pid" 2>/dev/null || true
            wait_gone "$pid" "$2" 5 || true
        fi
    fi
    rm -f -- "$1"
}

# Kills whatever still has its working folder in $1: left by a start that was interrupted half-way.
sweep() {
    local process pid round
    for round in 1 2 3 4 5; do
        local -a left=()
        for process in /proc/[0-9]*; do
            pid=${process#/proc/}
            if [[ $pid != "$$" && $pid != "$BASHPID" ]] && is_ours "$pid" "$1" && ! is_shell "$pid"; then
                left+=("$pid")
            fi
        done
        ((${#left[@]} > 0)) || return 0
        kill -KILL "${left[@]}" 2>/dev/null || true
        sleep "0.$round"
    done
    warn "processes are left in $1: ${left[*]}"
}

# Whether process $1 is somebody's shell, editor or pager who just happens to look at our files: it has a terminal.
is_shell() {
    local terminal
    # The seventh field of stat(5); the second, the program's name, may contain spaces.
    terminal=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 5) || return 1
    [[ $terminal != 0 ]]
}
