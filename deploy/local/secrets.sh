# shellcheck shell=bash
# Random secrets.

# 32 random bytes, as 64 hexadecimal digits: safe in URLs, shell and configuration files.
random_secret() {
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}
