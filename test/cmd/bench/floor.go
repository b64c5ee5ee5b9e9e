package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// target makes n subsystems by hand on the storage host, on the same file
// system as the pool: what a person would configure.
const target = `
modprobe nvmet-tcp 2>/dev/null || true
N=/sys/kernel/config/nvmet
mkdir -p /data/bench $N/ports/4430
echo tcp > $N/ports/4430/addr_trtype; echo ipv4 > $N/ports/4430/addr_adrfam
echo %[1]s > $N/ports/4430/addr_traddr; echo 4430 > $N/ports/4430/addr_trsvcid
for i in $(seq 0 %[2]d); do
  S=$N/subsystems/nqn.2026-11.test:bench-$i; truncate -s 256M /data/bench/$i.img
  mkdir $S; echo 1 > $S/attr_allow_any_host; mkdir $S/namespaces/1
  echo -n /data/bench/$i.img > $S/namespaces/1/device_path; echo 1 > $S/namespaces/1/enable
  ln -s $S $N/ports/4430/subsystems/
done`

// sequence is what a person types in the node, with the time it takes: connect,
// wait for the device, look what is on it, make a file system, mount, bind.
const sequence = `
one() {
  local i=$1 d= b c s n
  nvme connect -t tcp -a %[1]s -s 4430 -n nqn.2026-11.test:bench-$i >/dev/null
  while [ -z "$d" ]; do
    for s in /sys/class/nvme-subsystem/nvme-subsys*; do
      read -r n < $s/subsysnqn
      if [ "$n" = nqn.2026-11.test:bench-$i ]; then for b in $s/nvme*n*; do if [ -e "$b" ] && [ -b "/dev/${b##*/}" ]; then d=/dev/${b##*/}; fi; done; fi
    done
    [ -n "$d" ] || sleep 0.01
  done
  blkid $d >/dev/null || mkfs.ext4 -q -F -E nodiscard $d
  mkdir -p /run/bench/$i/stage /run/bench/$i/target
  mount $d /run/bench/$i/stage; mount --bind /run/bench/$i/stage /run/bench/$i/target
}
undo() { umount /run/bench/$1/target /run/bench/$1/stage; nvme disconnect -n nqn.2026-11.test:bench-$1 >/dev/null; }
now() { echo ${EPOCHREALTIME/./}; }
timed() { local t=$(now); "$@"; echo "$1 $(( $(now) - t ))"; }
burst() { local i; for i in "$@"; do one $i & done; wait; }
mkdir -p /etc/nvme; [ -e /etc/nvme/hostnqn ] || { echo nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-555555555555 > /etc/nvme/hostnqn; echo 11111111-2222-4333-8444-555555555555 > /etc/nvme/hostid; }
`

const floorVolumes = rounds + 1 + atOnce

// floor measures the bare sequence.
func (b *bench) floor(ctx context.Context) error {
	address := b.c.Storages[0].Addr().String()
	if _, err := b.c.Storages[0].Shell(ctx, fmt.Sprintf(target, address, floorVolumes-1)); err != nil {
		return err
	}
	singles, bursts := list(0, rounds+1), list(rounds+1, floorVolumes)
	script := fmt.Sprintf(sequence, address) +
		"for i in " + singles + "; do timed one $i; undo $i; done; echo again; for i in " + singles + "; do timed one $i; timed undo $i; done; timed burst " + bursts +
		"; for i in " + bursts + "; do undo $i; done; timed burst " + bursts + "; for i in " + bursts + "; do undo $i; done"
	out, err := b.c.Nodes[0].Shell(ctx, script)
	if err != nil {
		return err
	}
	return b.result.readFloor(out)
}

func list(from, to int) string {
	var s []string
	for i := from; i < to; i++ {
		s = append(s, strconv.Itoa(i))
	}
	return strings.Join(s, " ")
}

// readFloor takes lines "WHAT MICROSECONDS"; the first volume of each part
// warms up and does not count.
func (r *result) readFloor(out string) error {
	var bursts []float64
	n, fresh := 0, true
	for line := range strings.Lines(out) {
		var what string
		var us float64
		if strings.TrimSpace(line) == "again" {
			n, fresh = 0, false
			continue
		}
		if c, _ := fmt.Sscanf(line, "%s %f", &what, &us); c != 2 {
			continue
		}
		switch s := us / 1e6; what {
		case "one":
			if n++; n == 1 {
				continue
			}
			if fresh {
				r.FloorFresh = append(r.FloorFresh, s)
			} else {
				r.FloorFormatted = append(r.FloorFormatted, s)
			}
		case "undo":
			r.FloorTeardown = append(r.FloorTeardown, s)
		case "burst":
			bursts = append(bursts, s)
		}
	}
	if len(r.FloorFresh) != rounds || len(r.FloorFormatted) != rounds || len(bursts) != 2 {
		return fmt.Errorf("the shell's sequence printed something else:\n%s", out)
	}
	r.FloorBurstFresh, r.FloorBurstFormatted = bursts[0], bursts[1]
	return nil
}
