# shellcheck shell=bash
# The programs that ./dev needs.

packages_ensure() {
    rabbitmq_program >/dev/null || die "rabbitmq-server is missing"
    postgres_programs >/dev/null || die "postgresql is missing"
}
