# shellcheck shell=bash
# The little HTTP that ./dev speaks, so that it needs no curl.

# http_get <port> <path>: prints the status code and the body; nothing if there is no answer within 3 seconds.
http_get() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    timeout 3 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" &&
        printf "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" "$1" >&3 && cat <&3' "$1" "$2" 2>/dev/null |
        tr -d '\r' | awk 'NR == 1 { print $2 } head_ended { print } /^$/ { head_ended = 1 }' | paste -s -d ' '
}
