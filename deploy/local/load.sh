# shellcheck shell=bash
# ./dev load: the program of the crate load against the running instance.

load_command() {
    local kind=run
    local -a arguments=()
    while (($# > 0)); do
        case $1 in
            --overload) kind=overload ;;
            --slowloris)
                kind=slowloris
                if [[ ${2:-} =~ ^[0-9]+$ ]]; then
                    arguments+=(--slow "$2")
                    shift
                fi
                ;;
            *) arguments+=("$1") ;;
        esac
        shift
    done
    if [[ " ${arguments[*]} " != *" --help "* ]]; then
        if [[ ! -r $ENV_FILE ]] || ! instance_load; then
            die "nothing is running" "./dev up --release --detach starts everything"
        fi
        if [[ $BUILD != release ]]; then
            warn "the services were built without optimisation: for figures that mean something, ./dev down; ./dev up --release"
        fi
    fi
    load_ensure
    # Thousands of connections.
    ulimit -n "$(ulimit -H -n)" || warn "no more than $(ulimit -n) files can be open"
    RUST_LIB_BACKTRACE=0 exec "$(target_folder)/load" "$kind" "${arguments[@]}" \
        --env-file "$ENV_FILE" --reports "$DEV_DIR/reports"
}

# Always with optimisation, or the tool would be what is measured. Built with everything else by `up --release`.
load_ensure() {
    if [[ $BUILD != release || ! -x $(target_folder)/load ]]; then
        BUILD=release
        cargo_ensure
        on_exit true
        run cargo build --release --workspace --bins || die "the build failed" "the compiler's messages are above"
    fi
}
