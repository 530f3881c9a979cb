# shellcheck shell=bash
# Functions of the CI steps that make a Linux system of their own, for `source`.

# give_up REASON: say that the step's `subject` was not tested, and succeed.
give_up() {
    printf '\n%s\n' "************************************************************" \
        "NOT TESTED: ${subject:?}. $1" \
        "************************************************************" >&2
    exit 0
}

# debian SUITE FOLDER PACKAGES: put a small Debian with these packages into a folder.
debian() {
    if ! command -v debootstrap >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends debootstrap >/dev/null
    fi
    timeout 600 debootstrap --variant=minbase --include="$3" "$1" "$2" >"$2.log" 2>&1 || {
        tail -5 "$2.log" >&2
        return 1
    }
}

# pip_settings FOLDER PATH: write the machine's own package index to pip.conf in the folder, and its certificates to ca.
# PATH is where pip will find the certificates.
pip_settings() {
    local key value certificates
    certificates=${PIP_CERT:-$(python3 -m pip config get global.cert 2>/dev/null || true)}
    {
        echo '[global]'
        for key in index-url timeout; do
            value=$(python3 -m pip config get "global.$key" 2>/dev/null) && echo "$key = $value"
        done
        [ -z "$certificates" ] || echo "cert = $2"
    } >"$1/pip.conf"
    cp "${certificates:-/dev/null}" "$1/ca"
}
