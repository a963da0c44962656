# What contrib/install and contrib/test share: Debian packages and a Python to build on. Sourced, not run.

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

readonly POLICY=/usr/sbin/policy-rc.d POLICY_MARK='# of rbdfs, while it installs packages'

# forbid_services: nothing that comes along (ceph-mon, ceph-osd) may start as a service of this machine; up to
# allow_services, or the end of the script, whatever ends it.
forbid_services() {
  [[ ! -e $POLICY ]] || grep -qxF "$POLICY_MARK" "$POLICY" || return 0  # somebody else forbids it already
  trap 'rm -f "$POLICY"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" > "$POLICY"
  chmod 755 "$POLICY"
}

allow_services() {
  if [[ -e $POLICY ]] && grep -qxF "$POLICY_MARK" "$POLICY"; then
    rm -f "$POLICY"
    trap - EXIT INT TERM HUP
  fi
}

# apt_packages NAME...: see that these are installed; silent and offline where they are.
apt_packages() {
  local missing=() name attempt
  for name in "$@"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$name")
  done
  [[ ${#missing[@]} -eq 0 ]] && return
  [[ $EUID -eq 0 ]] || die "missing packages; install them first: sudo apt-get install ${missing[*]}"
  say "installing packages: ${missing[*]}"
  forbid_services
  for attempt in 1 2 3 4 5; do
    # A third party's list that cannot be had is no reason to stop: what counts is whether the install works.
    apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 update >&2 || say "apt-get update failed"
    if DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 \
      install --no-install-recommends "${missing[@]}" >&2 </dev/null; then
      attempt=done
      break
    fi
    say "apt-get install failed (attempt $attempt of 5)"
    sleep $((attempt * 5))
  done
  allow_services
  [[ $attempt == done ]] || die "cannot install: ${missing[*]}"
}

# find_python: print the path of a Python that is new enough and can build extensions in a venv: the one that PYTHON
# names, or Debian's own before others.
find_python() {
  local candidate candidates=(/usr/bin/python3 python3.14 python3.13 python3.12 python3.11 python3)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    candidate=$(command -v "$candidate") || continue
    if "$candidate" - 2>/dev/null <<'PY'; then
import ensurepip, os, sys, sysconfig, venv
sys.exit(sys.version_info < (3, 11) or not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
PY
      printf '%s\n' "$candidate"
      return
    fi
  done
  die "${PYTHON:+PYTHON=$PYTHON: }no Python 3.11 or newer with its headers and venv (packages python3-dev and python3-venv)"
}

# retry COMMAND...: up to three times, for what goes over a network.
retry() {
  local attempt
  for attempt in 1 2 3; do
    "$@" && return
    say "failed (attempt $attempt of 3): $*"
    sleep $((attempt * 5))
  done
  return 1
}

# make_venv DIR: a virtual environment there; kept where its Python still runs.
make_venv() {
  local python
  "$1/bin/python" -c 'import pip' 2>/dev/null && return
  python=$(find_python)
  rm -rf "$1"
  "$python" -m venv "$1"
}

# fuse_device: see that users can open /dev/fuse; udev does, but containers and minimal machines have none.
fuse_device() {
  [[ $EUID -eq 0 ]] || return 0
  [[ -c /dev/fuse ]] || modprobe fuse 2>/dev/null || true
  [[ ! -c /dev/fuse || -e /run/udev/control ]] || chmod 666 /dev/fuse || true
}

# What building and running rbdfs needs. util-linux: mount, losetup.
RUN_PACKAGES=(fuse3 libfuse3-dev pkg-config gcc libc6-dev python3-dev python3-venv ca-certificates util-linux)
