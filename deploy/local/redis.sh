# shellcheck shell=bash
# A private Redis server.

# The users of deploy/stores/redis.acl with the passwords of this instance.
redis_users() {
    sed -n -e "s/@REDIS_ADMIN@/${SECRET[redis]}/" -e "s/@REDIS_STOCK@/${SECRET[redis-stock]}/" \
        -e "s/@REDIS_GATEWAY@/${SECRET[redis-gateway]}/" -e '/^user /p' "$ROOT/deploy/stores/redis.acl"
}

# redis_start <folder> <port> <pid file> <log>
redis_start() {
    mkdir -p -- "$1"
    (
        umask 077
        cat >"$1/redis.conf" <<END
bind 127.0.0.1
port $2
$(redis_users)
dir $1
# The inventory must never be thrown out to make room, and survives a crash but for the last second (what that loses,
# RabbitMQ and PostgreSQL still have).
maxmemory-policy noeviction
appendonly yes
appendfsync everysec
# Rewriting the file forks, and every page that is written meanwhile is copied: not every twelve seconds of a rush.
auto-aof-rewrite-min-size 512mb
save ""
END
    )
    spawn "$3" "$1" "$4" redis-server "$1/redis.conf"
}

# Whether the server on port $1 (password $2) has loaded its data.
redis_ready() {
    [[ $(REDISCLI_AUTH=$2 timeout 2 redis-cli -h 127.0.0.1 -p "$1" ping 2>/dev/null) == PONG ]]
}
