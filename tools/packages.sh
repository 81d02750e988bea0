#!/bin/bash
# Makes sure that the system packages are there which pip cannot bring: `packages.sh build` for
# the compiler and Python, `packages.sh test` also for the programs that tests and demo run,
# `packages.sh kernels` for the machines that other kernels are tried on.
#
# Only what is missing is installed, and nothing that starts a service: Debian keeps the binary
# of redis-server in redis-tools (as redis-check-rdb, it looks at the name it is called by); the
# package redis-server adds no more than a unit that would start one on port 6379. That of
# PostgreSQL would make a cluster and start it, unless it is told not to while it is installed.
set -euo pipefail

build=(ca-certificates gcc git libc6-dev libsystemd-dev make pkg-config python3 python3-dev
	python3-venv)
tested=(gdb man-db postgresql redis-tools sqlite3 strace systemd-container)
emulated=(busybox-static debian-archive-keyring e2fsprogs kmod qemu-system-x86)

case "${1:-}" in
build) wanted=("${build[@]}") ;;
test) wanted=("${build[@]}" "${tested[@]}") ;;
kernels) wanted=("${build[@]}" "${emulated[@]}") ;;
*)
	echo "usage: $0 build|test|kernels" >&2
	exit 2
	;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	# Not a Debian: the user installs; a tool that is missing then says so by its own name.
	for tool in gcc git make python3; do
		command -v "$tool" >/dev/null || {
			echo "error: $tool is missing; needed here, by Debian's names: ${wanted[*]}" >&2
			exit 1
		}
	done
	exit 0
fi

installed() { dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

missing=()
for package in "${wanted[@]}"; do
	installed "$package" || missing+=("$package")
done
((${#missing[@]})) || exit 0

if ((EUID != 0)); then
	echo "error: missing packages. As root: apt-get install ${missing[*]}" >&2
	exit 1
fi

echo "==> installing with apt: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# A machine that has just booted may still be running its own upgrade: wait for its lock.
apt=(apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
log=$(mktemp)
clusters=/etc/postgresql-common/createcluster.d
no_cluster=
cleanup() {
	rm -f "$log" ${no_cluster:+"$no_cluster"}
	[[ -z $no_cluster ]] || rmdir --ignore-fail-on-non-empty "$clusters"
}
trap cleanup EXIT
if [[ " ${missing[*]} " == *" postgresql "* ]]; then
	no_cluster=$clusters/uffdtrackd.conf
	mkdir -p "$clusters"
	echo 'create_main_cluster = false' >"$no_cluster"
fi
install() { "${apt[@]}" install --no-install-recommends "${missing[@]}" </dev/null >"$log" 2>&1; }
# The lists of packages may be absent (a new image) or old: fetch them only when it matters.
if ! install; then
	"${apt[@]}" update </dev/null >/dev/null 2>&1 || echo "warning: apt-get update failed" >&2
	install || {
		cat "$log" >&2
		echo "error: apt-get install ${missing[*]} failed" >&2
		exit 1
	}
fi
