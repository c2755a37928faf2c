# shellcheck shell=bash
# What ./dev says. Everything goes to standard error, except what a command was asked for.

if [[ -t 2 ]]; then
    BOLD=$'\e[1m' RED=$'\e[31m' YELLOW=$'\e[33m' PLAIN=$'\e[0m'
else
    BOLD='' RED='' YELLOW='' PLAIN=''
fi

# A step of the work: what is being done now.
say() {
    printf '%s==>%s %s\n' "$BOLD" "$PLAIN" "$*" >&2
}

# Something unexpected that does not stop the work.
warn() {
    printf '%swarning:%s %s\n' "$YELLOW" "$PLAIN" "$*" >&2
}

# Ends the command: what is wrong, then, line by line, what to do about it.
die() {
    printf '%serror:%s %s\n' "$RED" "$PLAIN" "$1" >&2
    shift
    if (($# > 0)); then
        printf '       %s\n' "$@" >&2
    fi
    exit 1
}

# The end of a log file, indented, for an error message; without the frames of a backtrace, which would be all of it.
show_log() {
    local log=$1
    [[ -s $log ]] || return 0
    printf '       last lines of %s:\n' "$log" >&2
    grep -vE '^ +([0-9]+: |at )' -- "$log" | tail -n 15 | sed 's/^/       | /' >&2
}
