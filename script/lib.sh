# Shared by the scripts: what they need on a fresh Debian 12, installed once.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export PATH="$HOME/.cargo/bin:$PATH"

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

as_root() {
    if [ "$(id -u)" != 0 ]; then
        echo "error: must run as root" >&2
        exit 1
    fi
}

# install PROGRAM PACKAGE ...: pairs; installs the packages whose program is missing.
install_missing() {
    local missing=()
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null 2>&1 || missing+=("$2")
        shift 2
    done
    [ ${#missing[@]} = 0 ] && return
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Debian 12's own cargo is too old for this project.
install_rust() {
    local wanted=90 found
    # Without cargo, or with a rustup that has no toolchain yet, the question itself fails.
    found=$(cargo --version 2>/dev/null | sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p') || found=0
    [ "${found:-0}" -ge "$wanted" ] && return
    say "installing Rust"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal
}

install_build_tools() {
    as_root
    install_missing cc build-essential curl curl git git ip iproute2 nft nftables
    [ -e /etc/ssl/certs/ca-certificates.crt ] || install_missing no-such-program ca-certificates
    install_rust
}

# `kubectl` from here on: the one of the path, else the one that is built into the given binary.
use_kubectl() {
    command -v kubectl >/dev/null 2>&1 && return
    built_in=$1
    kubectl() { "$built_in" kubectl "$@"; }
}

# The tests want the original: the newest one here, or Debian's package.
install_kubectl() {
    command -v kubectl >/dev/null 2>&1 || install_missing kubectl kubernetes-client
}

# Cargo's home outside its own cache would rebuild everything; fetched once, built with what is locked.
fetch() { cargo fetch --locked --quiet; }

# The clients of other languages, beside what cargo builds; tests skip those that could not be installed.
install_clients() {
    local home=target/clients
    if [ ! -e $home/python/bin/python ]; then
        say "installing the Python client"
        python3 -m venv $home/python 2>/dev/null || { install_missing no-such-program python3-venv; python3 -m venv $home/python; }
        $home/python/bin/pip install -q -r testbed/clients/python/requirements.txt || rm -rf $home/python
    fi
    if [ ! -e $home/javascript/node_modules ]; then
        command -v npm >/dev/null 2>&1 || install_missing node nodejs npm npm
        say "installing the JavaScript client"
        mkdir -p $home/javascript
        cp testbed/clients/javascript/package.json $home/javascript/
        npm install --prefix $home/javascript --no-fund --no-audit --silent || rm -rf $home/javascript/node_modules
    fi
}
