# shellcheck shell=bash
# The programs that ./dev needs: installed by apt if they are missing.

# packages_ensure [more packages by the name of their program ...]
packages_ensure() {
    local -a missing=()
    local program
    command -v redis-server >/dev/null || missing+=(redis-server)
    rabbitmq_program >/dev/null || missing+=(rabbitmq-server)
    postgres_programs >/dev/null || missing+=(postgresql)
    if ! command -v setpriv >/dev/null || ! command -v flock >/dev/null; then
        missing+=(util-linux)
    fi
    # What building needs: a C compiler to link, and for ring; and the certificates that HTTP clients load even for
    # plain HTTP.
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    compgen -G '/etc/ssl/certs/*' >/dev/null || missing+=(ca-certificates)
    for program; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    ((${#missing[@]} > 0)) || return 0
    packages_install "${missing[@]}"
}

# packages_install <package...>
packages_install() {
    local list=$*
    command -v apt-get >/dev/null ||
        die "missing on this machine: $list" "install them with the system's package manager (names may differ), then try again"
    local -a as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "missing on this machine: $list" "as root: apt-get install $list"
        as_root=(sudo)
    fi
    say "installing by apt-get${as_root:+ (through sudo)}: $list"
    "${as_root[@]}" "$ROOT/deploy/local/install-packages" "$@" ||
        die "the installation failed" "apt's messages are above; as root, apt-get install $list may tell more"
}

# Rust is not installed by us: rustup belongs to the user. It fetches the version in rust-toolchain.toml by itself.
cargo_ensure() {
    command -v cargo >/dev/null || PATH=$PATH:${HOME:-/root}/.cargo/bin
    command -v cargo >/dev/null || die "cargo is missing" "install Rust: https://rustup.rs"
}
