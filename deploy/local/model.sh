# shellcheck shell=bash
# ./dev model: the crate model. It needs no servers.

model_command() {
    local size=--large argument
    local -a arguments=()
    for argument; do
        case $argument in
            --small) size='' ;;
            --large) ;;
            --without | --without=*) size='' && arguments+=("$argument") ;;
            *) arguments+=("$argument") ;;
        esac
    done
    cargo_ensure
    RUST_LIB_BACKTRACE=0 exec cargo run --release -p model -- ${size:+"$size"} "${arguments[@]}"
}

# What follows from docs/capacity.toml.
capacity_command() {
    cargo_ensure
    exec cargo run --release -p model --bin capacity
}
