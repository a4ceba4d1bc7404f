#!/bin/bash
# setup.sh [test|all]: puts what the demo runs, with test what the fast tests run, with all what every test
# runs, into .cache/tools.
#
# Nothing is installed on the machine but, for the race detector of the tests, a
# C compiler where there is none. runc, the CNI plugins and the static
# busybox are taken from where the machine has them, otherwise unpacked from
# their Debian or Ubuntu packages (apt checks the archive's signatures).
# containerd, for the tests the cosign command, and for all tests Kubernetes and etcd, are built through Go
# modules at the versions and checksums that the go.mod and go.sum beside this script pin.
# What is there already is left as it is, so a second run takes no time.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=$(readlink -f "$here/../../.cache") # a link that leads elsewhere must not be found in what is linked below
tools=$cache/tools
export PATH=$PATH:/usr/sbin:/sbin

say() { echo "tools: $*" >&2; }
die() { say "$*"; exit 1; }

[ "$(uname -s)" = Linux ] || die "a Linux machine is needed: containers are started for real"
[ "$(id -u)" = 0 ] || die "root is needed (containers are started for real): run make as root"
command -v go >/dev/null || die "go is not on PATH: Go 1.26 is needed, see https://go.dev/dl"
mkdir -p "$tools" "$cache/debs"

# unpack PACKAGE: the package's files under .cache/debian
unpack() {
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    die "$1 is missing and there is no apt to get it with: install it and run again"
  say "getting $1"
  (
    cd "$cache/debs"
    export DEBIAN_FRONTEND=noninteractive
    apt-get download -qq "$1" >apt.log 2>&1 || {
      apt-get update -qq >>apt.log 2>&1 || true
      apt-get download -qq "$1" >>apt.log 2>&1
    } || { cat apt.log >&2; exit 1; }
    dpkg-deb -x "$1"_*.deb "$cache/debian"
    rm -f "$1"_*.deb apt.log
  ) || die "could not get $1 (above is what apt said)"
}

is_static() { [ -x "$1" ] && ! grep -aq '/ld-linux\|/ld64\|/ld-musl' "$1"; }

# link NAME FILE: NAME in the tools folder is FILE
link() { [ "$(readlink "$tools/$1" || true)" = "$2" ] || ln -sfn "$2" "$tools/$1"; }

if runc=$(command -v runc); then link runc "$runc"; else
  [ -x "$cache/debian/usr/sbin/runc" ] || unpack runc
  link runc "$cache/debian/usr/sbin/runc"
fi
"$tools/runc" --version >/dev/null || die "$tools/runc does not start: is libseccomp2 installed?"

cni=
for dir in /usr/lib/cni /opt/cni/bin "$cache/debian/usr/lib/cni"; do
  [ -x "$dir/bridge" ] && [ -x "$dir/host-local" ] && [ -x "$dir/loopback" ] && { cni=$dir; break; }
done
[ -n "$cni" ] || { unpack containernetworking-plugins; cni=$cache/debian/usr/lib/cni; }
link cni "$cni"

busybox=
for file in /bin/busybox "$cache/debian/bin/busybox" "$cache/debian/usr/bin/busybox"; do
  is_static "$file" && { busybox=$file; break; }
done
if [ -z "$busybox" ]; then
  unpack busybox-static
  busybox=$(find "$cache/debian" -name busybox -type f -perm -u+x | head -1)
  is_static "$busybox" || die "the busybox in busybox-static is not static"
fi
link busybox "$busybox"

# build MODULE COMMAND...: the commands, unless they were built from the same go.sum with the same Go
build() {
  local module=$1 stamp name; shift
  stamp=$({ go env GOVERSION; printf %s "${ldflags:-}"; cat "$here/$module/go.mod" "$here/$module/go.sum"; } | sha256sum)
  [ "$(cat "$tools/$module.stamp" 2>/dev/null)" = "$stamp" ] && return
  say "building $module: minutes the first time, seconds afterwards"
  for name; do
    (cd "$here/$module" && CGO_ENABLED=${cgo:-1} go build -trimpath -ldflags "${ldflags:-}" -o "$tools/${into:-}${name##*/}" "$name") ||
      die "$module did not build"
  done
  echo "$stamp" >"$tools/$module.stamp"
}

build containerd \
  github.com/containerd/containerd/v2/cmd/containerd \
  github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
if [ "${1:-}" = test ] || [ "${1:-}" = all ]; then
  build cosign github.com/sigstore/cosign/v2/cmd/cosign
  if ! command -v "${CC:-gcc}" >/dev/null; then
    command -v apt-get >/dev/null || die "go test -race needs a C compiler and there is no apt to get gcc with"
    say "installing gcc, which go test -race needs"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends gcc libc6-dev; } >&2 ||
      die "could not install gcc"
  fi
fi

# kubernetes MODULE COMMAND...: like build, with the version that go.mod names told to the commands: they compare theirs
kubernetes() {
  local module=$1 version number ldflags package=k8s.io/component-base/version cgo=0
  version=$(sed -n 's/^.*k8s.io\/kubernetes \(v[0-9.]*\).*$/\1/p' "$here/$module/go.mod")
  number=${version#v1.}
  ldflags="-s -w -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${number%%.*} -X $package.gitTreeState=clean"
  build "$@"
}

if [ "${1:-}" = all ]; then
  mkdir -p "$tools/kubelet-1.34"
  kubernetes kubernetes k8s.io/kubernetes/cmd/{kubelet,kube-apiserver,kube-controller-manager,kube-scheduler,kubectl}
  into=kubelet-1.34/ kubernetes kubelet-1.34 k8s.io/kubernetes/cmd/kubelet
  cgo=0 ldflags='-s -w' build etcd go.etcd.io/etcd/server/v3
  mv -f "$tools/v3" "$tools/etcd" 2>/dev/null || [ -x "$tools/etcd" ] || die "etcd did not build"
  if [ ! -x /lib/systemd/systemd ] || ! command -v systemd-analyze >/dev/null; then
    command -v apt-get >/dev/null || die "the node tests start a systemd of their own, and there is neither one nor apt to get it with"
    say "installing systemd, which the node tests start in a namespace of their own"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends systemd; } >&2 ||
      die "could not install systemd"
  fi
fi

# The sandbox's process, in Go because a C compiler may be missing.
(cd "$here/.." && CGO_ENABLED=0 go build -trimpath -ldflags=-s -o "$tools/pause" ./pause) || die "pause did not build"
