# shellcheck shell=bash
# A private PostgreSQL server.
#
# PostgreSQL refuses to run as root: as root, it runs as the package's user postgres, as anybody else directly.
# setpriv and not su, because it replaces itself: the recorded process id is the server's own.

# The folder of the newest installed PostgreSQL's programs.
postgres_programs() {
    local folder
    folder=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    if [[ ! -x $folder/postgres ]]; then
        folder=$(pg_config --bindir 2>/dev/null) || return 1
    fi
    [[ -x $folder/postgres && -x $folder/initdb ]] && echo "$folder"
}

# Runs a command as the user that PostgreSQL accepts.
as_postgres() {
    if ((EUID == 0)); then
        setpriv --reuid=postgres --regid=postgres --clear-groups env -u PGHOST HOME=/ "$@"
    else
        env -u PGHOST "$@"
    fi
}

# Makes <folder> usable for the server. If user postgres cannot get there (a checkout below /root), the data goes
# below /var/tmp and <folder> becomes a link to it.
postgres_folder() {
    local folder=$1
    mkdir -p -- "$folder"
    ((EUID == 0)) || return 0
    if ! as_postgres test -x "$(dirname "$folder")"; then
        rmdir -- "$folder"
        ln -s -- "$(mktemp -d /var/tmp/stampede-postgres-XXXXXX)" "$folder"
        say "user postgres cannot enter $(dirname "$folder"): PostgreSQL's data goes to $(readlink "$folder")"
    fi
    chown postgres:postgres "$folder/"
    chmod 700 "$folder/"
}

# Removes what postgres_folder made.
postgres_remove() {
    if [[ -L $1 ]]; then
        rm -rf -- "$(readlink "$1")"
    fi
    rm -rf -- "$1"
}

# postgres_create <folder> <superuser's password>: makes an empty cluster; user stampede is the superuser.
postgres_create() {
    local folder programs
    postgres_folder "$1"
    folder=$(readlink -f "$1")
    programs=$(postgres_programs)
    (
        cd "$folder" || exit
        # The password goes through a file (in a folder that only the server may enter), not through the process list.
        as_postgres tee "$folder/password" <<<"$2" >/dev/null
        as_postgres "$programs/initdb" -D "$folder/data" -U stampede --auth=scram-sha-256 \
            --pwfile="$folder/password" --no-locale -E UTF8 --no-sync --no-instructions
        as_postgres rm "$folder/password"
    ) >"$1.log" 2>&1
}

# postgres_start <folder> <port> <pid file> <log> <setting=value...>; nothing may be running in <folder>.
postgres_start() {
    local folder programs setting
    folder=$(readlink -f "$1")
    programs=$(postgres_programs)
    local port=$2 pid_file=$3 log=$4
    shift 4
    local -a command=("$programs/postgres" -D "$folder/data" -p "$port" -c listen_addresses=127.0.0.1
        -c unix_socket_directories= -c logging_collector=off)
    for setting; do
        command+=(-c "$setting")
    done
    # Left by a server that was killed. PostgreSQL would recognise that, but not while its corpse is still a zombie.
    rm -f -- "$folder/data/postmaster.pid"
    if ((EUID == 0)); then
        command=(setpriv --reuid=postgres --regid=postgres --clear-groups env -u PGHOST HOME=/ "${command[@]}")
    fi
    spawn "$pid_file" "$folder" "$log" "${command[@]}"
}

# Whether the server on port $1 lets connections in.
postgres_ready() {
    "$(postgres_programs)/pg_isready" -q -h 127.0.0.1 -p "$1" -t 1
}
