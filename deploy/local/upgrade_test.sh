# shellcheck shell=bash
# ./dev upgrade-test: the last release (deploy/last-release) is replaced by this tree under load, in every order of the
# services, with two replicas of each (the drill `upgrades` of the crate chaos). Then its decoders read today's messages.

readonly UPGRADE_DIR=$DEV_DIR/upgrade-test

readonly UPGRADE_ORDERS=24 # of four services
readonly UPGRADE_LANES=2   # systems that are upgraded side by side, each of its own

upgrade_test_command() {
    local commit release=$UPGRADE_DIR/release count=$UPGRADE_ORDERS
    if [[ ${1:-} == --count && ${2:-} =~ ^[1-9][0-9]*$ ]]; then
        count=$2
        shift 2
    fi
    (($# == 0)) || die "./dev upgrade-test does not know $1" "./dev help lists the options"
    commit=$(<"$ROOT/deploy/last-release")
    git -C "$ROOT" cat-file -e "$commit^{commit}" 2>/dev/null || die "the last release, $commit, is not in this clone" "git fetch --unshallow"
    packages_ensure
    cargo_ensure
    test_sweep_old_runs
    TEST_DIR=$DEV_DIR/test-$$
    on_exit upgrade_test_finish
    mkdir -p "$TEST_DIR/logs" "$UPGRADE_DIR/old" "$UPGRADE_DIR/new"
    chmod 711 "$DEV_DIR" "$TEST_DIR"
    test_start_servers

    if [[ $(cat "$UPGRADE_DIR/old/commit" 2>/dev/null) != "$commit" ]]; then
        say "building the last release, ${commit:0:12}"
        upgrade_worktree "$commit" "$release"
        # In the same target folder: the dependencies are there.
        (
            cd "$release" || exit
            CARGO_TARGET_DIR=$(upgrade_target) run cargo build --workspace --bins &&
                STAMPEDE_GOLDEN=$ROOT upgrade_decoders
        ) || die "the last release cannot be built, or does not understand today's messages"
        upgrade_keep old
        echo "$commit" >"$UPGRADE_DIR/old/commit"
    fi
    services_build
    upgrade_keep new
    test_wait_for_servers

    upgrade_lanes "$count" || die "a promise was broken" "what was found is above"
}

# upgrade_lanes <orders>: shares them out.
upgrade_lanes() {
    local lane lanes=$UPGRADE_LANES from=0 share failed=''
    local -a pids=()
    for ((lane = 1; lane <= lanes; lane++)); do
        share=$((($1 * lane / lanes) - from))
        ((share > 0)) || continue
        upgrade_lane "$lane" "$from" "$share" &
        pids+=($!)
        from=$((from + share))
    done
    STARTERS=("${pids[@]}") # Ended with this command.
    for lane in "${pids[@]}"; do
        wait "$lane" || failed=yes
    done
    # shellcheck disable=SC2034 # read by lifecycle.sh
    STARTERS=()
    [[ -z $failed ]]
}

# upgrade_lane <number> <first order> <orders>
upgrade_lane() {
    local service live=$TEST_DIR/live-$1
    mkdir -p "$live"
    # Links; the drill turns them from the last release to this one.
    for service in "${SERVICES[@]}"; do
        ln -s -- "$UPGRADE_DIR/old/$service" "$live/$service"
    done
    export STAMPEDE_TEST_BINARIES=$live RUST_LIB_BACKTRACE=0
    # In place of this shell, so that ending it ends the drill.
    exec "$(target_folder)/chaos" --drill upgrades </dev/null 9>&- \
        --old-binaries "$UPGRADE_DIR/old" --new-binaries "$UPGRADE_DIR/new" --live-binaries "$live" \
        --from-order "$2" --count "$3" --git-hash "$(git rev-parse --short=12 HEAD 2>/dev/null)"
}

upgrade_test_finish() {
    test_stop "$1"
    if [[ -d $UPGRADE_DIR/release ]]; then
        git -C "$ROOT" worktree remove --force "$UPGRADE_DIR/release" >/dev/null 2>&1
    fi
}

# upgrade_worktree <commit> <folder>
upgrade_worktree() {
    git -C "$ROOT" worktree prune
    if [[ -d $2 ]]; then
        git -C "$ROOT" worktree remove --force "$2"
    fi
    git -C "$ROOT" worktree add --quiet --detach "$2" "$1"
}

# The other way round: the last release's own test of its messages, on the files of today.
upgrade_decoders() {
    local file
    for file in common/tests/golden/*.json; do
        cp -- "$STAMPEDE_GOLDEN/$file" "$file"
    done
    CARGO_TARGET_DIR=$(upgrade_target) run cargo test --workspace --test wire -- every_released_version fields_that_a_consumer
}

upgrade_target() {
    local folder
    folder=$(target_folder)
    echo "${folder%/*}"
}

# upgrade_keep <old|new>: what was built last.
upgrade_keep() {
    local service
    for service in "${SERVICES[@]}"; do
        cp -- "$(target_folder)/$service" "$UPGRADE_DIR/$1/$service.new"
        mv -- "$UPGRADE_DIR/$1/$service.new" "$UPGRADE_DIR/$1/$service"
    done
}
