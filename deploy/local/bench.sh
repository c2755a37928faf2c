# shellcheck shell=bash
# ./dev bench: ratios on an instance of its own, in .dev/bench, held to two cores with the load tool.

bench_command() {
    local cores=''
    local -a arguments=()
    while (($# > 0)); do
        case $1 in
            --cores)
                [[ ${2:-} =~ ^[0-9,-]+$ ]] || die "--cores needs a list such as 0,1"
                cores=$2
                shift
                ;;
            --cores=*) cores=${1#*=} ;;
            *) arguments+=("$1") ;;
        esac
        shift
    done
    packages_ensure
    load_ensure
    if [[ " ${arguments[*]} " == *" --help "* ]]; then
        exec "$(target_folder)/load" bench --help
    fi
    [[ $cores ]] || cores=$(bench_two_cores)
    say "everything on the cores $cores: an instance in .dev/bench, the servers to compare with, the load tool"
    on_exit bench_stop
    # Pinned from the start, so that each process sizes its threads for these cores.
    STAMPEDE_DIR=$DEV_DIR/bench taskset -c "$cores" "$ROOT/dev" up --release --detach ||
        die "the instance did not start" "its logs are in .dev/bench/logs"
    ulimit -n "$(ulimit -H -n)" || warn "no more than $(ulimit -n) files can be open"
    RUST_LIB_BACKTRACE=0 run taskset -c "$cores" chrt --batch 0 "$(target_folder)/load" bench "${arguments[@]}" \
        --env-file "$DEV_DIR/bench/env" --reports "$DEV_DIR/reports"
}

bench_stop() {
    STAMPEDE_DIR=$DEV_DIR/bench "$ROOT/dev" down
}

# The first two cores that this shell may use.
bench_two_cores() {
    local list part first last core
    local -a all=()
    list=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)
    for part in ${list//,/ }; do
        first=${part%-*} last=${part#*-}
        for ((core = first; core <= last; core++)); do
            all+=("$core")
        done
    done
    local IFS=,
    echo "${all[*]:0:2}"
}
