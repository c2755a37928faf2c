# shellcheck shell=bash
# ./dev fuzz-api: requests made from /openapi.json against the running instance; every answer must be a documented one.

# Pinned: a newer one finds other things, on its own day.
readonly SCHEMATHESIS=schemathesis==4.32.5

fuzz_api_command() {
    local cases=20000
    while (($# > 0)); do
        case $1 in
            --cases)
                [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "--cases needs a number"
                cases=$2
                shift
                ;;
            *) die "./dev fuzz-api does not know $1" "./dev help lists the options" ;;
        esac
        shift
    done
    [[ -r $ENV_FILE ]] || die "nothing is running" "./dev up --detach starts everything"
    fuzz_api_ensure
    local url token operations
    url=$(sed -n 's/^GATEWAY_URL=//p' "$ENV_FILE")
    token=$(curl -fsS "$url/api/v1/auth/dev-token" -H 'Content-Type: application/json' \
        -d '{"user_id":"fuzz","role":"admin"}' | sed 's/.*"token":"\([^"]*\)".*/\1/')
    operations=$(curl -fsS "$url/openapi.json" | grep -o '"operationId"' | wc -l)
    say "at least $cases cases over $operations operations; the report is in .dev/reports/fuzz-api.xml"
    mkdir -p -- "$DEV_DIR/reports"
    # Left out: the stream, which does not end; and two checks of how exact the document is about values that only the
    # server can know, such as cursors (positive data) and rules between fields. Tokens that are not needed are found by
    # the gateway's matrix of access (ignored_auth).
    # Every fault is an error: a 5xx that is not the documented 503, a status, header, media type or body that the
    # document does not have, a method that is let through.
    # Not every operation has as many different requests as are asked for, so that more are.
    (
        cd "$DEV_DIR/reports" || exit
        nice "$DEV_DIR/fuzz-api/bin/schemathesis" --config-file "$ROOT/deploy/local/schemathesis.toml" run \
            "$url/openapi.json" -H "Authorization: Bearer $token" \
            --checks all --exclude-checks positive_data_acceptance,negative_data_rejection,ignored_auth,max_response_time \
            --exclude-path /api/v1/events --phases examples,coverage,fuzzing --continue-on-failure \
            --max-examples $((cases * 3 / 2 / operations + 1)) --workers 1 --request-timeout 30 --generation-database none \
            --no-color --report junit --report-junit-path fuzz-api.xml
    ) || die "an answer was not as documented" "the cases are above, with a curl command for each"
}

# The tool, in a folder of its own; needs the internet the first time.
fuzz_api_ensure() {
    [[ -e $DEV_DIR/fuzz-api/complete ]] && return
    fuzz_api_install || die "Schemathesis cannot be installed" "it needs python3 with venv, and a package index for pip"
}

# May fail: ./dev test goes on without it, and the test that needs it says so.
fuzz_api_install() {
    [[ -e $DEV_DIR/fuzz-api/complete ]] && return
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        (packages_install python3-venv) || return # In a shell of its own: it ends the command that it is in.
    fi
    say "installing $SCHEMATHESIS"
    rm -rf -- "$DEV_DIR/fuzz-api"
    mkdir -p -- "$DEV_DIR"
    python3 -m venv "$DEV_DIR/fuzz-api" || return
    "$DEV_DIR/fuzz-api/bin/pip" install -q --disable-pip-version-check "$SCHEMATHESIS" || return
    touch "$DEV_DIR/fuzz-api/complete"
}
