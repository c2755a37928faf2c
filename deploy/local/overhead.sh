# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153 # OVERRIDES is read by services.sh; PORT is a variable of instance.sh, not a misspelt port
# ./dev overhead: what telemetry costs, as processor time of the four services per accepted order. Rounds without and with
# it alternate, so that what else the machine does meets both alike.

readonly OVERHEAD_ROUNDS=5   # unless the command says another number
readonly OVERHEAD_SECONDS=10 # of orders in each round

# overhead_command [rounds]
overhead_command() {
    local rounds=${1:-$OVERHEAD_ROUNDS} round mode figure
    [[ $rounds =~ ^[1-9][0-9]?$ ]] || die "./dev overhead takes a number of rounds"
    if [[ ! -r $ENV_FILE ]] || ! instance_load || [[ -z $OBSERVE ]]; then
        die "nothing to measure" "./dev up --observe --release --detach starts it"
    fi
    [[ $BUILD == release ]] || warn "built without optimisation: the figures mean little"
    local -A figures=([off]='' [on]='')
    on_exit overhead_restore
    for ((round = 1; round <= rounds; round++)); do
        for mode in off on; do
            overhead_switch "$mode"
            figure=$(overhead_round) || exit 1
            figures[$mode]+="$figure "
        done
        say "round $round of $rounds: $(overhead_last "${figures[off]}") us per order without, $(overhead_last "${figures[on]}") with"
    done
    awk -v off="${figures[off]}" -v on="${figures[on]}" '
        function median(text, values, count, i, j, swap) {
            count = split(text, values, " ")
            for (i = 1; i <= count; i++) for (j = i + 1; j <= count; j++)
                if (values[j] < values[i]) { swap = values[i]; values[i] = values[j]; values[j] = swap }
            low = values[1]; high = values[count]
            return count % 2 ? values[(count + 1) / 2] : (values[count / 2] + values[count / 2 + 1]) / 2
        }
        BEGIN {
            without = median(off); printf "without telemetry  %.0f us per accepted order (%.0f to %.0f)\n", without, low, high
            with = median(on); printf "with telemetry     %.0f us per accepted order (%.0f to %.0f)\n", with, low, high
            printf "overhead           %.1f %%\n", (with / without - 1) * 100
        }' </dev/null
}

overhead_last() {
    local -a all
    read -r -a all <<<"$1"
    echo "${all[-1]}"
}

# Starts the services again, with telemetry as it is set by default, or without.
overhead_switch() {
    local name
    local -a names
    mapfile -t names < <(service_names)
    for name in GATEWAY STOCK_SERVICE ORDER_SERVICE NOTIFY_SERVICE; do
        if [[ $1 == off ]]; then
            OVERRIDES[${name}__TELEMETRY__OTLP_ENDPOINT]=''
        else
            unset "OVERRIDES[${name}__TELEMETRY__OTLP_ENDPOINT]"
        fi
    done
    parts_stop "${names[@]}"
    for name in "${names[@]}"; do
        part_start "$name"
    done
    for name in "${names[@]}"; do
        part_wait "$name" 60
    done
}

overhead_restore() {
    overhead_switch on
}

# One round of orders: microseconds of the services' processor time for each that was accepted.
overhead_round() {
    local before after accepted
    before=$(overhead_ticks)
    accepted=$("$(target_folder)/drive" rush --seconds "$OVERHEAD_SECONDS" --env-file "$ENV_FILE") || die "the orders failed"
    after=$(overhead_ticks)
    ((accepted > 0)) || die "no order was accepted"
    echo $(((after - before) * 1000000 / $(getconf CLK_TCK) / accepted))
}

# Processor time of all services until now, in ticks.
overhead_ticks() {
    local name pid sum=0 stat
    for name in $(service_names); do
        pid=$(part_pid "$name") || die "$name is not running"
        # Fields 14 and 15 of stat(5); the second, the program's name, may contain spaces.
        stat=$(sed 's/.*) //' "/proc/$pid/stat")
        sum=$((sum + $(cut -d ' ' -f 12 <<<"$stat") + $(cut -d ' ' -f 13 <<<"$stat")))
    done
    echo "$sum"
}
