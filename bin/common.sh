# What the commands in bin/ share: sourced by them from the project's root, and no command itself. Each list stands here once.

# What the tests start beside themselves, by the names that `has` and bin/setup know.
servers=(redis-server postgresql pgbouncer libfaketime)

# The clients that the tests of the HTTP layer call it by, and what they install others with.
clients=(curl nginx node npm python3-venv)

# The browser that the test of the checkout's page drives, and what drives it.
browser=(chromium chromium-driver)

# What the application in examples/nextjs-checkout is built with, stands on, and is tested in.
nextjs=(cc node npm redis-server postgresql chromium)

# The modules of the test program `core` that need no runtime, and so run under Miri.
miri_tests=(hand_over conflict results panics oracle)

# The test programs that ThreadSanitizer cannot run: they end a program by a signal, which it holds back.
signal_tests=(checkout_stop checkout_purge)

# The features of the package in a directory, as its manifest has them, but for TLS: of the crate, if none is named.
features() {
    sed -n '/^\[features\]$/,/^$/s/^\([a-z_]*\) = .*/\1/p' "${1:-.}/Cargo.toml" | grep -vxE 'default|tls' || true
}

# The sets of features with which the crate is checked, one a line: none, each alone, all pairs. Cargo says what each comes to: `http`,
# say, brings `durable` along, so the two together are what `http` is alone, and need no check of their own.
feature_sets() {
    local features i j
    mapfile -t features < <(echo; features)
    for ((i = 0; i < ${#features[@]}; i++)); do
        for ((j = 0; j <= i; j++)); do
            cargo tree --locked --package oneflight --edges normal --depth 0 --prefix none --format '{f}' \
                --no-default-features --features "${features[i]},${features[j]}"
        done
    done | sort -u
}

# The targets of fuzzing, as their corpora are named.
fuzz_targets() {
    ls fuzz/corpus
}

# The package that goes to npm. Its tests are bin/node.
node=crates/oneflight-node

# The example whose orders Restate carries out. Its test is bin/restate.
restate=examples/restate_checkout

# The directories of the packages that are published for Rust: the crate, and what comes apart from it.
published() {
    printf '%s\n' crates/* . | grep -vx "$node"
}

# The directories of the packages whose tests cargo runs. The others have commands of their own.
tested() {
    published
    printf '%s\n' examples tests/examples tests/faults
}

# The arguments by which cargo takes the packages in these directories.
packages() {
    local directory
    for directory in "$@"; do
        printf -- '--package\n%s\n' "$(sed -n '/^\[package\]$/,/^$/s/^name = "\(.*\)"$/\1/p' "$directory/Cargo.toml")"
    done
}

# The arguments by which bin/test has cargo build all that it tests, in Rust and in JavaScript. What is the same in two of them is then
# built once, which takes the same packages and features each time. These are all but TLS, of which nothing is tested here: without
# optimizations, the drivers' futures are then larger than the stack that a test is given.
all_that_is_tested() {
    local directory package feature
    for directory in $(tested); do
        package=$(packages "$directory" | tail -n 1)
        for feature in $(features "$directory"); do printf -- '--features\n%s/%s\n' "$package" "$feature"; done
    done
    packages $(tested) "$node" "$restate"
    echo --no-default-features
}

# What the tests in JavaScript call, for ONEFLIGHT_CARGO: built as above, in place of as it is released.
as_in_the_tests() {
    echo $(all_that_is_tested) --lib --bin oneflight --example stormer --example transactor --example decliner --example checkout
}

# The arguments by which cargo runs the tests of all that are tested, except the test programs that are named.
all_tests_but() {
    local directory test
    packages $(tested)
    printf '%s\n' --lib --test faults
    for directory in $(tested); do
        for test in "$directory"/tests/*.rs "$directory"/tests/*/main.rs; do
            test=${test#"$directory/tests/"} test=${test%.rs} test=${test%/main}
            [[ " $* " == *" $test "* || $test == *'*'* ]] || printf -- '--test\n%s\n' "$test"
        done
    done
}

# Installs what the package of npm's in this directory needs, and so the package `oneflight` as it was just built. Nothing that is
# installed runs a script.
install_packages() {
    npm ci --silent --no-audit --no-fund --ignore-scripts
}

# The version of the runner that the instruction counts take: exactly the one of their library.
gungraun_version() {
    sed -n 's/^gungraun = "=\(.*\)"$/\1/p' tests/cost/Cargo.toml
}

# Prints what a command says of itself: the comment at its top.
usage() {
    sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "bin/${0##*/}"
}

# Whether a tool is installed, and new enough.
has() {
    case $1 in
        node) [ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] ;;
        postgresql) compgen -G "/usr/lib/postgresql/*/bin/initdb" ;;
        pgbouncer) [ -x /usr/sbin/pgbouncer ] ;;
        nginx) [ -x /usr/sbin/nginx ] || command -v nginx ;;
        python3-venv) python3 -c 'import ensurepip, venv' ;;
        chromium-driver) command -v chromedriver ;;
        libfaketime) compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" ;;
        rustfmt) cargo fmt --version ;;
        clippy) cargo clippy --version ;;
        nightly) cargo +nightly --version ;;
        miri) cargo +nightly miri --version ;;
        cargo-*) cargo "${1#cargo-}" --version ;;
        gungraun-runner) [ "$(gungraun-runner --version)" = "gungraun-runner $(gungraun_version)" ] ;;
        *) command -v "$1" ;;
    esac >/dev/null 2>&1
}

# Fails unless all these tools are installed, and says how they are: bin/setup, or bin/setup with the option that stands first.
need() {
    local option= tool missing=()
    [[ $1 != --* ]] || { option=" $1"; shift; }
    for tool in "$@"; do
        has "$tool" || missing+=("$tool")
    done
    [ ${#missing[@]} -eq 0 ] || {
        echo "bin/${0##*/}: missing: ${missing[*]}; run bin/setup$option" >&2
        exit 1
    }
}
