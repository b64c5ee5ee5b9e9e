# Stand-ins for apt and systemctl on a storage host: apt installs a package by its files, and systemctl starts a unit's
# program with the unit's capabilities and no others, again whenever it ends.
mkdir -p /usr/local/bin
cat >/usr/local/bin/apt <<'EOF'
#!/bin/bash -e
[ "$1" = install ] || { echo "apt $1: not here" >&2; exit 1; }
busybox dpkg-deb -x "$2" /
EOF
cat >/usr/local/bin/systemctl <<'EOF'
#!/bin/bash -e
case "$*" in
"enable --now "*) name=$3; touch "/data/enabled-$name" ;;
"start "*) name=$2 ;;
*) echo "systemctl $*: not here" >&2; exit 1 ;;
esac
unit=/usr/lib/systemd/system/$name.service
capabilities=$(sed -n 's/^CapabilityBoundingSet=//p' "$unit" | tr 'A-Z ' 'a-z,' | sed 's/cap_/+/g')
program=$(sed -n 's/^ExecStart=//p' "$unit")
setsid bash -c "while :; do setpriv --bounding-set=-all,$capabilities --no-new-privs $program; sleep 1; done" \
  >>"/var/log/$name.log" 2>&1 </dev/null &
EOF
chmod 755 /usr/local/bin/apt /usr/local/bin/systemctl
