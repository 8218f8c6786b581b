#!/usr/bin/env bash
# Put a Debian release's Ceph into a folder of its own: nothing is installed on this machine, and `rm -rf` undoes it.
#
#   tests/servers/build.sh ceph20|ceph16        fills .servers/NAME below the repository
#
# Packages come from the Debian mirror this machine's apt uses; their signatures are checked.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=${1:?ceph20 or ceph16}
case $name in
ceph20) suite=forky ;; # Debian testing: a suite that moves on, so .built tells which Ceph it was
ceph16) suite=bookworm ;;
*) echo "build.sh: expected ceph20 or ceph16, found $name" >&2 && exit 2 ;;
esac
root=$PWD/.servers/$name
keys=/usr/share/keyrings/debian-archive-keyring.gpg
export LC_ALL=C

fail() {
  echo "servers: $name was NOT built: $*" >&2
  echo "servers: the tests that need it will be skipped" >&2
  exit 1
}

for tool in apt-get dpkg-deb perl unshare; do
  command -v $tool >/dev/null || fail "no $tool on this machine (a Debian is needed)"
done
[ -r $keys ] || fail "no Debian keys ($keys)"
work=$(mktemp -d)
trap 'chmod -R u+rwx "$work" "$root.new" 2>/dev/null; rm -rf -- "$work" "$root.new"' EXIT

# apt with its lists and its cache aside: needs no rights, changes nothing
apt=(apt-get -qq -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "Debug::NoLocking=1" -o APT::Sandbox::User=)
mkdir -p "$work"/{lists,cache/archives}/partial
"${apt[@]}" update >"$work/log" 2>&1 || true # a mirror of something else may be down
mirror=$("${apt[@]}" indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
[ -n "$mirror" ] || fail "apt reaches no Debian mirror: $(tail -n 3 "$work/log")"

if ! command -v mmdebstrap >/dev/null; then
  (cd "$work" && "${apt[@]}" download mmdebstrap >"$work/log" 2>&1) || fail "no mmdebstrap: $(tail -n 3 "$work/log")"
  dpkg-deb -x "$work"/mmdebstrap_*.deb "$work/tools"
  PATH=$work/tools/usr/bin:$PATH
fi

# As a tar, so that the folder holds plain files of whoever runs this, and no devices.
eval "$(apt-config shell age Acquire::Check-Valid-Until)"
echo "servers: building $name from $suite, about a minute" >&2
mkdir -p "$root.new"
mmdebstrap --variant=essential --skip=check/qemu --format=tar --keyring=$keys \
  --aptopt='APT::Install-Recommends "false"' --aptopt="Acquire::Check-Valid-Until \"${age:-true}\"" \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/lib/jvm/*' \
  --include=ceph-mon,ceph-osd,radosgw,openssl $suite - "$mirror" 2>"$work/log" |
  tar -x --no-same-owner --exclude='./dev/*' -C "$root.new" || fail "$(tail -n 5 "$work/log")"
sed -n 's/^Version: //p;' <(grep -A9 '^Package: radosgw$' "$root.new/var/lib/dpkg/status") >"$root.new/.built"
[ -s "$root.new/.built" ] || fail "no radosgw in $suite"
rm -rf -- "$root"
mv "$root.new" "$root"
echo "servers: $name is there: radosgw $(cat "$root/.built"), $(du -sm "$root" | cut -f1) MB" >&2
