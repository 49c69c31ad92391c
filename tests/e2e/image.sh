#!/usr/bin/env bash
# The image: Dockerfile, built as it stands on a Debian base made here (buildah, no hub), then the four roles and a
# whole job in it: as its own user, each in a process tree of its own, on a root that cannot be written.
#
# No container engine runs here: `pod` makes what one would make of the image's own configuration, with unshare
# and chroot. The pods share one network, in which each has an address of 127.0.0.0/8.
# All happens with mounts and processes of its own, so that none is left however this ends.
if [ "${SAFFRON_IMAGE_SPACE:-}" != own ]; then
    unshare --mount --net --pid --ipc --uts --fork true 2>/dev/null || {
        echo "no image: it takes namespaces and mounts, which are not allowed here (root?)"
        exit 77
    }
    SAFFRON_IMAGE_SPACE=own exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc "$0" "$@"
fi
trap 'exit 143' TERM # nothing is a default for the first process of a PID namespace
. "$(dirname "$0")/lib.sh"
for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || skip "no image: $tool is not installed"
done
[ "$slow" -eq 1 ] || skip "no image: it is built without sanitizers, whatever this build has"
[ "$(df --output=avail -k "$work" | tail -n 1)" -gt 2500000 ] || skip "no image: it takes 2.5 GB in ${work%/*}"
export TMPDIR=$work # buildah's own
base=$(sed -n 's/^ARG BASE=//p' Dockerfile)
tag=saffron:test
seconds_max=240 # to build in; a test has 300
declare -A pods=()

# not_made WHAT STATUS -- without a network or in too little time there is no image; any other reason is a failure.
not_made() {
    [ "$2" -ne 124 ] || skip "no image: this machine is too busy to make $1 in time"
    ! grep -qE "Failed getting release file|Couldn't download|Could not (resolve|connect)|Temporary failure" \
        "$work/out" || skip "no image: Debian's packages cannot be fetched here"
    fail "making $1: $(tail -n 15 "$work/out")"
}

# vfs works on any file system that the tests may find themselves on.
storage=(--root "$work/storage" --runroot "$work/runroot" --storage-driver vfs)
image() {
    buildah "${storage[@]}" "$@"
}

# The base, trimmed as Debian's slim images are; its packages come from where this machine has its own from.
make_base() {
    local container mirror
    # shellcheck disable=SC2016 # apt's own variable
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 2>/dev/null | head -n 1)
    container=$(image from scratch) || fail "buildah makes no container"
    root=$(image mount "$container")
    timeout "$seconds_max" debootstrap --variant=minbase bookworm "$root" ${mirror:+"$mirror"} >"$work/out" 2>&1 ||
        not_made "the base" $?
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/*
    printf 'path-exclude /usr/share/%s/*\n' doc man locale info >"$root/etc/dpkg/dpkg.cfg.d/slim"
    base_mb=$(size_mb "$root")
    image commit -q --rm "$container" "docker.io/library/$base" >"$work/out" 2>&1 || not_made "the base" $?
}

size_mb() {
    echo $(($(du -sk --one-file-system "$1" | cut -f1) * 1024 / 1000000))
}

# configured KEY -- of the image: one value a line.
configured() {
    "$python" -c 'import json, sys
value = json.load(open(sys.argv[1]))["OCIv1"]["config"][sys.argv[2]]
lines = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else [value] if isinstance(value, str) else value
print(*lines, sep="\n")' "$work/image.json" "$1"
}

# pod NAME COMMAND... -- NAME is the host name; `environment` comes on top of the image's. Of all folders only
# /run/saffron can be written; it is the pod's own and empty.
pod() {
    # shellcheck disable=SC2016 # variables of the inner shell
    root=$root folder=$folder user=$user job=$work/job name=$1 nsenter --net="/proc/$network/ns/net" \
        unshare --mount --pid --ipc --uts --fork --kill-child bash -euc '
        hostname "$name"
        mount --bind "$root" "$root"
        mount -o remount,bind,ro "$root"
        mount -t proc proc "$root/proc"
        mount --bind /dev "$root/dev"
        mount --bind "$job" "$root/etc/saffron/job"
        mount -o remount,bind,ro "$root/etc/saffron/job"
        mount -t tmpfs -o "uid=${user%:*},gid=${user#*:},mode=0700" scratch "$root$folder"
        exec chroot --userspec="$user" "$root" env -i -C "$folder" "$@"' \
        pod "${image_environment[@]}" "${environment[@]}" "${@:2}"
}

# start NAME COMMAND... -- a pod in the background, its output in $work/NAME.log.
start() {
    pod "$@" >"$work/$1.log" 2>&1 &
    pods[$1]=$!
}

# says NAME PATTERN -- within 20 s.
says() {
    local tries=400
    until grep -qE -e "$2" "$work/$1.log"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$1: expected '$2', got: $(tail -n 5 "$work/$1.log")"
        kill -0 "${pods[$1]}" 2>/dev/null || fail "$1 ended: $(tail -n 5 "$work/$1.log")"
        sleep 0.05
    done
}

child_of() {
    local children
    children=$(cat "/proc/$1/task/$1/children")
    echo "${children%% *}"
}

# ends NAME -- with status 0 and soon, once its first process is told to: the child of unshare, a child of ours.
ends() {
    local first
    first=$(child_of "$(child_of "${pods[$1]}")")
    kill -TERM "$first" || fail "$1 is not there"
    wait_end 10 "${pods[$1]}" "$1 was told to end"
    [ "$status" -eq 0 ] || fail "$1 was told to end: exit status $status; $(tail -n 5 "$work/$1.log")"
}

# prints WANT SHELL-COMMAND -- in a pod.
prints() {
    local got
    got=$(pod check-0 sh -c "$2" 2>&1)
    [ "$got" = "$1" ] || fail "in the image, $2: expected '$1', got '$got'"
}

# ---- built ---------------------------------------------------------------------------------------
make_base
base_s=$SECONDS
[ "$base_s" -lt "$seconds_max" ] || not_made "the image" 124
timeout $((seconds_max - base_s)) buildah "${storage[@]}" bud --isolation chroot --network host --pull-never -t "$tag" . \
    >"$work/out" 2>&1 || not_made "the image" $?
image inspect --type image "$tag" >"$work/image.json" || fail "no image $tag"
container=$(image from --pull-never "$tag") || fail "no container of $tag"
root=$(image mount "$container")
echo "image: $(size_mb "$root") MB, of which the base $base_mb MB; base made in $base_s s, image in $((SECONDS - base_s)) s"
[ "$(size_mb "$root")" -lt $((base_mb + 100)) ] || fail "the image has grown: $(size_mb "$root") MB on a base of $base_mb MB"
user=$(configured User) folder=$(configured WorkingDir)
mapfile -t image_environment < <(configured Env)
environment=()
mkdir -p "$work/job"
cp configs/synthetic/*.yml "$work/job"
unshare --net sleep infinity &
network=$!
until [ "$(readlink "/proc/$network/ns/net")" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.02; done
nsenter --net="/proc/$network/ns/net" "$python" -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 1))' || fail "no loopback"

# ---- what is in it -------------------------------------------------------------------------------
[ "$user $folder $(configured Entrypoint)" = "65532:65532 /run/saffron /opt/saffron/launch.sh" ] ||
    fail "not as promised: $user $folder $(configured Entrypoint)"
version=$(configured Labels | sed -n 's/^org.opencontainers.image.version=//p')
for program in "$root"/opt/saffron/bin/*; do
    prints "${program##*/} $version" "${program##*/} --version"
done
# shellcheck disable=SC2016 # variables of the pod's shell
prints "65532 65532 check-0 /run/saffron" 'echo $(id -u) $(id -G) $(hostname) $PWD'
# shellcheck disable=SC2016 # as above
prints "" 'for tool in cc gcc g++ clang ld as make pkg-config protoc-c git; do command -v $tool; done
    ls -d /usr/include/* /src /var/lib/apt/lists/* 2>/dev/null'
# The root cannot be written, and where an engine leaves it writable, this user still may not.
prints "touch: cannot touch '/opt/saffron/x': Read-only file system" "touch /opt/saffron/x"
chroot --userspec="$user" "$root" find / -xdev -writable ! -type l \
    ! -path '/tmp*' ! -path '/var/tmp*' ! -path '/run/*' ! -path '/dev/*' ! -path '/proc/*' >"$work/writable" 2>/dev/null
[ "$(cat "$work/writable")" = /checkpoints ] || fail "writable in the image: $(cat "$work/writable")"

# ---- the four roles, as pods; then a whole job in one --------------------------------------------
start nats-0 nats-server -a 127.0.0.1
says nats-0 'Server is ready'
environment=(REPLICA_SIZE=1 SAFFRON_JOB=image SAFFRON_RUN_DIR=/run/saffron SAFFRON_NATS_URL=nats://127.0.0.1:4222)
for file in global data embedding model; do
    environment+=("SAFFRON_${file^^}_CONFIG=/etc/saffron/job/$file.yml")
done
address=1
for role in embserver middleware datacompose trainer; do
    address=$((address + 1))
    environment+=("SAFFRON_BIND=127.0.0.$address") # of two the last one counts
    start "$role-0" /opt/saffron/launch.sh "$role" --set data.synthetic.rows=40000 --set data.synthetic.test_rows=10000
done
says trainer-0 'evaluated .* auc=0\.[67]'
says trainer-0 'state now=done'
for pod in trainer-0 datacompose-0 middleware-0 embserver-0; do
    ends "$pod"
done
environment=()
pod local-0 "$(configured Entrypoint)" local --quiet --set data.synthetic.rows=40000 --set data.synthetic.test_rows=10000 \
    >"$work/out" 2>&1 || fail "launch.sh local in the image: $(cat "$work/out")"
grep -q 'AUC 0\.' "$work/out" || fail "launch.sh local prints no AUC: $(cat "$work/out")"
echo "image: smoke job done after $SECONDS s"
