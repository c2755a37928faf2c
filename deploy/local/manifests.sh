# shellcheck shell=bash
# Parts of ./dev lint: the manifests in k8s/, rendered, validated and held against policies (k8s/check); and what a
# release must keep: migrations, workflows (deploy/check).

manifests_check() {
    local folder
    manifests_ensure
    for folder in "$ROOT/k8s/check" "$ROOT/deploy/check"; do
        # No bytecode in the tree.
        PATH=$DEV_DIR/k8s-check/bin:$PATH PYTHONDONTWRITEBYTECODE=1 run "$DEV_DIR/k8s-check/bin/python" -m unittest discover \
            -s "$folder" -t "$folder" || die "not as it should be" "each test in ${folder#"$ROOT"/} says what it wants"
    done
    if docker-compose version >/dev/null 2>&1; then
        compose_check
    fi
}

# kubectl and the schemas, pinned, in a folder of their own; needs the internet the first time.
manifests_ensure() {
    local wanted=$ROOT/k8s/check/requirements.txt folder=$DEV_DIR/k8s-check
    if cmp -s "$wanted" "$folder/installed"; then
        return
    fi
    say "installing kubectl and the schemas of Kubernetes (once)"
    mkdir -p -- "$DEV_DIR"
    rm -rf -- "$folder"
    if ! python3 -m venv "$folder" 2>/dev/null; then
        # Debian has venv in a package of its own.
        rm -rf -- "$folder"
        packages_install python3-venv
        python3 -m venv "$folder" || die "python3 with venv is needed" "on Debian: apt install python3-venv"
    fi
    run "$folder/bin/pip" install -q -r "$wanted" || die "the tools of k8s/check cannot be installed"
    cp -- "$wanted" "$folder/installed"
}

# Whether docker-compose can read docker-compose.yml, with secrets of a moment.
compose_check() {
    local env=$DEV_DIR/compose-check.env
    mkdir -p -- "$DEV_DIR"
    sed -n 's/.*\${\([A-Z_0-9]*\)[:}].*/\1=1/p' "$ROOT/docker-compose.yml" | sort -u >"$env"
    docker-compose --env-file "$env" -f "$ROOT/docker-compose.yml" --profile observe --profile scale config --quiet ||
        die "docker-compose.yml cannot be read"
}
