#!/bin/bash
# Process 1 of a process name space, within a folder that build.sh made: starts a Ceph in /mnt, then waits until its
# standard input ends. When this process ends, for whatever reason, the kernel ends all that it started.
set -euo pipefail
cd / # Ceph 20 looks for its classes below the folder it is started in
export PATH=/usr/sbin:/usr/bin:/sbin:/bin CEPH_CONF=/mnt/ceph.conf LC_ALL=C
mkdir /mnt/mon /mnt/osd /mnt/rgw

openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout /mnt/tls.key -out /mnt/tls.crt 2>/dev/null

ceph-osd --mkfs -i 0 --osd-uuid "$OSD_UUID" --no-mon-config </dev/null >/mnt/osd.out 2>&1 &
laid_out=$!
ceph-mon --mkfs -i a --keyring /dev/null --public-addr "v2:127.0.0.1:$MON_PORT" </dev/null
ceph-mon -f -i a --public-addr "v2:127.0.0.1:$MON_PORT" </dev/null >/mnt/mon.out 2>&1 &
until (: <"/dev/tcp/127.0.0.1/$MON_PORT") 2>/dev/null; do sleep 0.05; done
until ceph --connect-timeout 5 osd new "$OSD_UUID"; do sleep 0.1; done </dev/null
wait $laid_out
ceph-osd -f -i 0 </dev/null >/mnt/osd.out 2>&1 &
radosgw-admin -n client.rgw user create --uid tester --display-name tester \
  --access-key "$ACCESS_KEY" --secret-key "$SECRET_KEY" </dev/null >/dev/null # waits for the store
radosgw -f -n client.rgw </dev/null >/mnt/rgw.out 2>&1 &
read -r || true
