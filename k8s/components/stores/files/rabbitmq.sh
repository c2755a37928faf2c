# shellcheck shell=bash
# A private RabbitMQ node, with a private epmd (Erlang's port mapper, which otherwise stays behind on port 4369).
#
# The distribution's own wrapper is not used: it changes to user rabbitmq and to the machine's folders.

# The node's real start script.
rabbitmq_program() {
    local program
    program=$(printf '%s\n' /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server | sort -V | tail -n 1)
    [[ -x $program ]] && echo "$program"
}

# What rabbitmq.conf has no words for: settings of the application rabbit, as Erlang terms, for advanced.config.
#
# A queue that has written down its state needs no older entry of its log. By default it does so every 8,192 entries,
# seldom enough that a full log holds mostly what is handled long since.
RABBITMQ_ADVANCED='{quorum_snapshot_interval, 256}'

# rabbitmq_configure <folder> <AMQP port> <user> <password>: writes the node's configuration into an empty folder.
# Further lines for rabbitmq.conf come from standard input.
rabbitmq_configure() {
    local folder=$1
    mkdir -p -- "$folder"
    chmod 700 "$folder"
    : >"$folder/no-rabbitmq-env.conf"
    echo '[].' >"$folder/enabled_plugins"
    echo "[{rabbit, [$RABBITMQ_ADVANCED]}]." >"$folder/advanced.config"
    # Erlang would make its cookie from little randomness.
    if [[ ! -e $folder/.erlang.cookie ]]; then
        (umask 077 && random_secret >"$folder/.erlang.cookie")
        chmod 400 "$folder/.erlang.cookie"
    fi
    {
        printf 'listeners.tcp.1 = 127.0.0.1:%s\n' "$2"
        printf 'default_user = %s\ndefault_pass = %s\nloopback_users = none\n' "$3" "$4"
        printf 'vm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 50MB\nlog.file.level = info\n'
        # When the log is full, what the queues still need of it is written to their segments at once, which holds
        # everybody up: by little and little.
        printf 'raft.wal_max_size_bytes = 33554432\n'
        cat
    } >"$folder/rabbitmq.conf"
}

# A password as RabbitMQ keeps it: four bytes of salt and the SHA-256 of salt and password, in base64.
rabbitmq_password_hash() {
    local salt digest
    salt=$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')
    digest=$({ hex_bytes "$salt" && printf '%s' "$1"; } | sha256sum)
    hex_bytes "$salt${digest%% *}" | base64 -w 0
}

# The bytes of hexadecimal text $1.
hex_bytes() {
    # shellcheck disable=SC2001,SC2059 # no expansion can repeat what it matched; the format is made of escapes on purpose
    printf "$(sed 's/../\\x&/g' <<<"$1")"
}

# Users and permissions for load_definitions: the operator, and the services of deploy/stores/rabbitmq-permissions.
rabbitmq_definitions() {
    local user configure write read
    local users permissions
    users=$(rabbitmq_user stampede "${SECRET[rabbitmq]}" administrator)
    permissions=$(rabbitmq_permission stampede '.*' '.*' '.*')
    while read -r user configure write read; do
        users+=,$(rabbitmq_user "$user" "${SECRET[rabbitmq-$user]}" '')
        permissions+=,$(rabbitmq_permission "$user" "$configure" "$write" "$read")
    done < <(grep -v '^#' "$ROOT/deploy/stores/rabbitmq-permissions")
    printf '{"vhosts":[{"name":"/"}],"users":[%s],"permissions":[%s]}\n' "$users" "$permissions"
}

# rabbitmq_user <name> <password> <tags>
rabbitmq_user() {
    printf '{"name":"%s","password_hash":"%s","hashing_algorithm":"rabbit_password_hashing_sha256","tags":"%s"}' \
        "$1" "$(rabbitmq_password_hash "$2")" "$3"
}

# rabbitmq_permission <user> <configure> <write> <read>; backslashes are doubled for JSON.
rabbitmq_permission() {
    printf '{"user":"%s","vhost":"/","configure":"%s","write":"%s","read":"%s"}' "$1" "${2//\\/\\\\}" "${3//\\/\\\\}" "${4//\\/\\\\}"
}

# rabbitmq_start <folder> <epmd port> <distribution port> <pid file> <log> <Erlang VM arguments...>
rabbitmq_start() {
    local folder program
    folder=$(readlink -f "$1")
    program=$(rabbitmq_program)
    local epmd_port=$2 distribution_port=$3 pid_file=$4 log=$5
    shift 5
    if ! port_in_use "$epmd_port"; then
        spawn "$folder/epmd.pid" "$folder" "$log" epmd -port "$epmd_port" -address 127.0.0.1
    fi
    local -a environment=(
        HOME="$folder" # Where the cookie is: keeps rabbitmqctl of other nodes apart, too.
        ERL_EPMD_PORT="$epmd_port" ERL_EPMD_ADDRESS=127.0.0.1
        RABBITMQ_NODENAME=stampede@localhost RABBITMQ_DIST_PORT="$distribution_port"
        RABBITMQ_BASE="$folder" RABBITMQ_MNESIA_BASE="$folder/mnesia" RABBITMQ_LOG_BASE="$folder/log"
        RABBITMQ_PID_FILE="$folder/rabbitmq.pid" RABBITMQ_CONFIG_FILE="$folder/rabbitmq.conf"
        RABBITMQ_ADVANCED_CONFIG_FILE="$folder/advanced.config"
        RABBITMQ_CONF_ENV_FILE="$folder/no-rabbitmq-env.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$folder/enabled_plugins"
        # No busy waiting: the cores are shared with everything else.
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none
            -kernel inet_dist_use_interface {127,0,0,1} $*"
        # Makes the script become the Erlang VM instead of waiting for it: one process, the recorded one.
        RUNNING_UNDER_SYSTEMD=true
    )
    spawn "$pid_file" "$folder" "$log" env -u NOTIFY_SOCKET "${environment[@]}" "$program"
}

# Whether port $1 answers the AMQP handshake. (rabbitmqctl would take a second a call.)
rabbitmq_ready() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    timeout 1 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "AMQP\x00\x00\x09\x01" >&3 && head -c1 <&3 >/dev/null' \
        "$1" 2>/dev/null
}

# rabbitmq_end <folder> <pid file>
rabbitmq_end() {
    local folder
    folder=$(readlink -f "$1") || return 0
    end "$2" "$folder" TERM 20
    end "$folder/epmd.pid" "$folder" TERM 5
}
