//go:build linux && k8s

package kube_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

const zone = "topology.kubernetes.io/zone"

// severalHosts: a second storage host joins as docs/how-to/storage-host.md says, a
// class puts volumes on it, and then each host serves the nodes of its own zone alone:
// volumes are made where their pod is, and the scheduler knows how much room there is.
func severalHosts(t *testing.T) {
	b := newBenchFor(t, testTime+10*time.Minute)
	box1, box2 := cluster.Storages[0], cluster.Storages[1]
	_, err := box1.Shell(b.ctx, "holdfast target invite /root/join.yaml")
	b.must(err)
	invitation, err := box1.Get(b.ctx, "/root/join.yaml")
	b.must(err)
	b.must(box2.PutBytes(b.ctx, invitation, "/root/join.yaml", 0o600))
	_, err = box2.Shell(b.ctx, `cd /root
apt install ./holdfast_*_amd64.deb
holdfast target init --join join.yaml --host box2 --address 10.0.0.3 --pool fast=/srv/fast
systemctl enable --now holdfast-target`)
	b.must(err)
	values, err := box2.Get(b.ctx, "/etc/holdfast/kubernetes/values.yaml")
	b.must(err)
	b.must(cluster.UpgradeValues(b.ctx, string(values)))
	b.must(cluster.Apply(b.ctx, onBox2))
	pinned := claim{name: "pinned", class: "on-box2"}
	b.claim(pinned)
	w := b.write(pinned, "node1")
	b.onHost(pinned, "box2")
	w.neverFailed()
	w.stop()
	b.zones(string(values))
	_, err = cluster.Kubectl(b.ctx, "delete", "storageclass", "on-box2", "zoned")
	b.must(err)
	b.clean()
	// As it was, for whoever comes next.
	b.must(cluster.UpgradeValues(b.ctx, string(values)))
}

// zones gives each node and each host a zone of its own.
func (b *bench) zones(values string) {
	b.Helper()
	for i, z := range []string{"a", "b"} {
		_, err := cluster.Kubectl(b.ctx, "label", "node", cluster.Nodes[i].Name(), zone+"="+z, "--overwrite")
		b.must(err)
		values = strings.Replace(values, fmt.Sprintf("name: box%d\n", i+1), fmt.Sprintf("name: box%d\n  topology: {%s: %s}\n", i+1, zone, z), 1)
	}
	b.must(cluster.UpgradeValues(b.ctx, values))
	b.must(cluster.Apply(b.ctx, `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: zoned}
provisioner: csi.holdfast.io
volumeBindingMode: WaitForFirstConsumer
`))
	b.must(kube.WaitFor(b.ctx, 3*time.Minute, "room of both zones is known", func(ctx context.Context) (bool, error) {
		out, err := cluster.Kubectl(ctx, "get", "csistoragecapacities", "-A", "-o", `jsonpath={range .items[?(@.storageClassName=="zoned")]}{.nodeTopology.matchLabels} {.capacity}{"\n"}{end}`)
		return strings.Contains(out, `"a"`) && strings.Contains(out, `"b"`), errOr(err, "known:\n%s", out)
	}))
	for i, n := range cluster.Nodes {
		c := claim{name: "zoned-" + n.Name(), class: "zoned"}
		b.claim(c)
		b.pod(c.name, c, n.Name(), "echo here >/data/file; sync; exec sleep 3600")
		b.ready(c.name)
		b.onHost(c, fmt.Sprintf("box%d", i+1))
	}
	// More than any zone has: nothing is made, and the scheduler says why.
	big := claim{name: "big", class: "zoned", size: "1Ti"}
	b.claim(big)
	b.pod("big", big, "", "true")
	b.must(kube.WaitFor(b.ctx, 2*time.Minute, "the scheduler says that there is no room", func(ctx context.Context) (bool, error) {
		out, err := cluster.Kubectl(ctx, "-n", b.ns, "get", "events", "--field-selector", "involvedObject.name=big", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(out, "did not have enough free storage"), errOr(err, "it says %s", out)
	}))
	b.drop("zoned-node1", "zoned-node2", "big")
	b.must(cluster.PrepareSuite(b.ctx))
	runPiece(b.ctx, b.T, filepath.Join(b.TempDir(), "zones.xml"), kube.Suite{Focus: external(`\] (topology|capacity) `), Zones: true})
	for _, n := range cluster.Nodes {
		_, err := cluster.Kubectl(b.ctx, "label", "node", n.Name(), zone+"-")
		b.must(err)
	}
}

// onHost checks on which storage host a claim's volume is.
func (b *bench) onHost(c claim, host string) {
	b.Helper()
	if handle := b.handleOf(c); !strings.HasPrefix(handle, host+":") {
		b.Errorf("%s is %s, want it on %s", c.name, handle, host)
	}
}

// handleOf is the volume handle of a claim.
func (b *bench) handleOf(c claim) string {
	b.Helper()
	pv := b.kubectl("get", "pvc", c.name, "-o", "jsonpath={.spec.volumeName}")
	handle, err := cluster.Kubectl(b.ctx, "get", "pv", pv, "-o", "jsonpath={.spec.csi.volumeHandle}")
	b.must(err)
	return handle
}

func errOr(err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	return fmt.Errorf(format, args...)
}

// static volumes of somebody else's target, and claims that are mounted read-only.
func byHand(t *testing.T) {
	b := newBench(t)
	c := b.static("Filesystem")
	b.pod("writer", c, "node1", "echo precious >/data/file; sync; exec sleep 3600")
	b.ready("writer")
	b.drop("writer")
	b.must(cluster.Apply(b.ctx, fmt.Sprintf(readOnlyPod, b.ns, kube.TestImage)))
	b.ready("reader")
	if out := b.kubectl("exec", "reader", "--", "sh", "-c", "cat /data/file; (echo x >/data/other) 2>&1; true"); !strings.Contains(out, "precious") || !strings.Contains(out, "Read-only") {
		t.Errorf("the reader sees %q", out)
	}
	b.drop("reader")
	b.staticGone(c)
}

// static is a volume of a target that somebody set up by hand.
func (b *bench) static(mode string) claim {
	b.Helper()
	_, err := cluster.Storages[0].Shell(b.ctx, foreignTarget)
	b.must(err)
	b.must(cluster.Apply(b.ctx, fmt.Sprintf(staticVolume, b.ns, mode, b.ns, mode)))
	return claim{name: "static", block: mode == "Block"}
}

func (b *bench) staticGone(c claim) {
	b.Helper()
	b.kubectl("delete", "pvc", c.name, "--timeout=60s")
	_, err := cluster.Kubectl(b.ctx, "delete", "pv", "static-pv", "--timeout=60s")
	b.must(err)
	b.clean()
	_, err = cluster.Storages[0].Shell(b.ctx, foreignTargetGone)
	b.must(err)
}

// foreignTarget is set up by hand, as people do without Holdfast.
const (
	foreignTarget = `truncate -s 128M /data/foreign.img; mkfs.ext4 -q -F /data/foreign.img; loop=$(losetup -f --show /data/foreign.img)
cd /sys/kernel/config/nvmet; s=subsystems/nqn.2020-01.com.example:foreign; mkdir $s $s/namespaces/1 ports/99
echo 1 >$s/attr_allow_any_host; echo -n $loop >$s/namespaces/1/device_path
echo 2b0f5b1e-6f0b-4b6e-9f3e-0a4a7b1f5c11 >$s/namespaces/1/device_uuid; echo 1 >$s/namespaces/1/enable
echo tcp >ports/99/addr_trtype; echo ipv4 >ports/99/addr_adrfam; echo 10.0.0.2 >ports/99/addr_traddr; echo 4499 >ports/99/addr_trsvcid
ln -s $PWD/$s ports/99/subsystems/`
	foreignTargetGone = `cd /sys/kernel/config/nvmet; s=nqn.2020-01.com.example:foreign
rm ports/99/subsystems/$s; rmdir ports/99; echo 0 >subsystems/$s/namespaces/1/enable; rmdir subsystems/$s/namespaces/1 subsystems/$s; losetup -D`
)

const staticVolume = `apiVersion: v1
kind: PersistentVolume
metadata: {name: static-pv}
spec:
  capacity: {storage: 128Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef: {namespace: %s, name: static}
  volumeMode: %s
  csi:
    driver: csi.holdfast.io
    volumeHandle: example-foreign-1
    fsType: ext4
    volumeAttributes:
      nqn: nqn.2020-01.com.example:foreign
      addresses: 10.0.0.2:4499
      uuid: 2b0f5b1e-6f0b-4b6e-9f3e-0a4a7b1f5c11
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: static, namespace: %s}
spec:
  storageClassName: ""
  volumeName: static-pv
  volumeMode: %s
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 128Mi}}
`

const readOnlyPod = `apiVersion: v1
kind: Pod
metadata: {name: reader, namespace: %s}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {kubernetes.io/hostname: node2}
  containers:
    - name: main
      image: %s
      imagePullPolicy: Never
      command: [sleep, "3600"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: static, readOnly: true}}]
`
