#!/usr/bin/env bash
# launch.sh -- a whole job on one machine (local), or one role as a container runs it.
#
# `local` installs what is missing (as root), builds what is out of date, and hands over to `saffron local`.
# The roles neither install nor build: their programs must lie in SAFFRON_BIN_DIR, in bin/ beside this file (as in
# the image), or in build/release. Nor does `local` where one of the first two is there.
set -euo pipefail
trap 'exit 0' TERM # as the first process of a container it is sent no signal that it has no handler for
top=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ ! -d "$top/bin" ] || SAFFRON_BIN_DIR=${SAFFRON_BIN_DIR:-$top/bin}
bin=${SAFFRON_BIN_DIR:-$top/build/release}
export SAFFRON_MODELS_DIR=${SAFFRON_MODELS_DIR:-$top/configs/models}
# Threads of a matrix product that wait for the next one sleep: spinning, they take the other roles' cores.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

usage() {
    cat <<'TEXT'
Usage: ./launch.sh local [OPTION...]     train one job here, all roles as processes of this machine
       ./launch.sh ROLE [OPTION...]      run one role: trainer datacompose middleware embserver

./launch.sh local --help, ./launch.sh ROLE --help: the options of each.
Without options `local` trains the job configs/synthetic, a click log that it generates itself.

A role takes its place from the environment (an option given on the command line wins):
  REPLICA_INDEX             which of its kind it is (default: the number at the end of the host name)
  REPLICA_SIZE              how many there are of its kind (default 1)
  NPROC_PER_NODE            trainer: processes of this host, one for each GPU (default 1). Then REPLICA_INDEX and
                            REPLICA_SIZE count hosts, process l of host i is rank i * NPROC_PER_NODE + l, and its
                            ports lie l above those of global.yml. It sees the l-th of CUDA_VISIBLE_DEVICES.
  SAFFRON_JOB               name of the job, the same for all its roles
  SAFFRON_NATS_URL          where NATS listens (default nats://127.0.0.1:4222)
  SAFFRON_GLOBAL_CONFIG SAFFRON_DATA_CONFIG SAFFRON_EMBEDDING_CONFIG SAFFRON_MODEL_CONFIG
                            the job's four files
  SAFFRON_DATA_DIR          folder that the data globs are relative to
  SAFFRON_MODELS_DIR        folder of the models that `use: NAME` means (default: configs/models)
  SAFFRON_RUN_DIR           folder for what a run leaves, as rows that could not be read (default: nothing is kept)
  SAFFRON_CHECKPOINT_DIR    folder that trainers and embedding servers share for checkpoints; it must be there and
                            writable (default: none are made; local: checkpoints/ of the run directory)
  SAFFRON_BIND              address to listen on (default 127.0.0.1)
  SAFFRON_ADVERTISE         address that peers connect to (default: SAFFRON_BIND, or that of the default route)
  SAFFRON_METRICS_GATEWAY_ADDR
                            Prometheus push gateway that gets the metrics too, HOST:PORT (default: none)
  SAFFRON_TRACE             N: what each N-th batch went through, into trace/ of SAFFRON_RUN_DIR (default 0: nothing)
  LOG_LEVEL                 error, warn, info or debug (default info)
All others, as NCCL's own (NCCL_SOCKET_IFNAME ...), reach the programs as they are.

A role runs until SIGTERM, which it obeys with exit status 0; when the job is done it stays, in state `done`.
TEXT
}

die() {
    echo "launch.sh: $1" >&2
    exit 2
}

# Build only says something when it takes a while or fails.
build() {
    local log=$top/build/build.log
    if make -q -C "$top" programs >/dev/null 2>&1; then
        return
    fi
    mkdir -p "$top/build" 2>/dev/null || true
    [ -w "$top/build" ] || die "cannot write to $top/build: build in a clone of your own"
    echo "building (a minute the first time) ..." >&2
    make -s -j"$(nproc)" -C "$top" programs >"$log" 2>&1 || {
        tail -n 30 "$log" >&2
        echo "launch.sh: the build failed; all of its output: $log" >&2
        exit 1
    }
}

run_local() {
    if [ -z "${SAFFRON_BIN_DIR:-}" ]; then
        "$top/scripts/deps.sh" build
        build
    fi
    [ -x "$bin/saffron" ] || die "$bin/saffron is not there: SAFFRON_BIN_DIR names a folder without programs"
    exec "$bin/saffron" local --config "$top/configs/synthetic" "$@"
}

# The ports of global.yml: the other replicas, policies and probes know them.
run_role() {
    local program=$bin/saffron-$1
    shift
    [ -x "$program" ] || die "$program is not there: a role is not built here; run make first"
    case " $* " in # a trainer of several processes tells these once
    *" --describe "* | *" --describe=dot "* | *" --help "* | *" --version "*) exec "$program" --fixed-ports "$@" ;;
    esac
    ulimit -Sn hard # many runtimes lend 1,024 files, and a middleware alone may have ten times as many connections
    # Blocked, a signal to the first process waits until the program can obey and unblocks it.
    [ "${NPROC_PER_NODE:-1}" = 1 ] && exec env --block-signal=TERM "$program" --fixed-ports "$@"
    "$program" --fixed-ports --describe "$@" >/dev/null # what is wrong is said by one, not by each
    exec env --block-signal=TERM "$bin/saffron" ranks "$program" --fixed-ports "$@"
}

case ${1:-} in
local) shift && run_local "$@" ;;
trainer) shift && run_role trainer "$@" ;;
datacompose) shift && run_role data-compose "$@" ;;
middleware) shift && run_role middleware "$@" ;;
embserver) shift && run_role embedding-server "$@" ;;
-h | --help | help) usage ;;
'') usage >&2 && exit 2 ;;
*) die "unknown command '$1': expected local, trainer, datacompose, middleware or embserver (--help tells more)" ;;
esac
