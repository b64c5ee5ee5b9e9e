package nvme_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

func TestValidateNQN(t *testing.T) {
	for nqn, valid := range map[string]bool{
		"nqn.2026-11.io.holdfast:node-a.pool1":                                     true,
		"nqn.2014-08.org.nvmexpress:uuid:5b1d8c0e-43cb-4d28-8b31-6b1f9b1f0a01":     true,
		"nqn.2014-08.org.nvmexpress:uuid:5B1D8C0E-43CB-4D28-8B31-6B1F9B1F0A01":     true,
		"nqn.2014-08.org.nvmexpress.discovery":                                     true,
		"nqn.1992-08.com.netapp:sn.48391d66c0a611ecaaa5d039ea165514:subsystem.a_b": true,
		"nqn.2010-06.com.purestorage:flasharray.5ab274df5b161455":                  true,
		"nqn.2016-06.io.spdk:cnode1":                                               true,
		"nqn.2000-02.com.mikrotik:pvc-1":                                           true,
		"nqn.2019-10.io.x:" + strings.Repeat("a", 223-len("nqn.2019-10.io.x:")):    true,
		"nqn.2019-10.io.x:" + strings.Repeat("a", 224-len("nqn.2019-10.io.x:")):    false,
		"nqn.2014-08.org.nvmexpress:uuid:5b1d8c0e":                                 false,
		"nqn.2014-08.org.nvmexpress:uuid:5b1d8c0e-43cb-4d28-8b31-6b1f9b1f0a01:x":   false,
		"nqn.2014-08.org.nvmexpress:uuid:":                                         false,
		"":                                                                         false,
		"nqn.":                                                                     false,
		"nqn.a":                                                                    false,
		"iqn.2026-11.io.holdfast:a":                                                false,
		"nqn.2026-13.io.holdfast:a":                                                false,
		"nqn.2026-00.io.holdfast:a":                                                false,
		"nqn.26-11.io.holdfast:a":                                                  false,
		"nqn.2026-11.:a":                                                           false,
		"nqn.2026-11.io.holdfast:":                                                 false,
		"nqn.2026-11.io.holdfast:a,duplicate_connect":                              false,
		"nqn.2026-11.io.holdfast:a\nduplicate_connect":                             false,
		"nqn.2026-11.io.holdfast:a\n":                                              false,
		"nqn.2026-11.io.holdfast:a b":                                              false,
		"nqn.2026-11.io.holdfast:a/../b":                                           false,
		"nqn.2026-11.io.holdfast:\x00":                                             false,
		"nqn.2026-11.io.holdfast:\x7f":                                             false,
		"nqn.2026-11.io.holdfast:ü":                                                false,
		" nqn.2026-11.io.holdfast:a":                                               false,
		"NQN.2026-11.io.holdfast:a":                                                false,
	} {
		if err := nvme.ValidateNQN(nqn); (err == nil) != valid || err != nil && !errors.Is(err, nvme.ErrTarget) {
			t.Errorf("%q: %v", nqn, err)
		}
	}
}

func TestTargetValidate(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*nvme.Target)
		valid  bool
	}{
		{"as it is", func(*nvme.Target) {}, true},
		{"no host", func(t *nvme.Target) { t.HostNQN, t.HostID = "", "" }, true},
		{"IPv6", func(t *nvme.Target) { t.TargetAddress = "fd00::1" }, true},
		{"IPv6 with a zone", func(t *nvme.Target) { t.TargetAddress = "fe80::1%eth0" }, true},
		{"highest port", func(t *nvme.Target) { t.TargetPort = 65535 }, true},
		{"source", func(t *nvme.Target) { t.HostTraddr, t.HostIface = "10.0.0.1", "enp3s0.7" }, true},
		{"no transport", func(t *nvme.Target) { t.Transport = "" }, false},
		{"other transport", func(t *nvme.Target) { t.Transport = "rdma" }, false},
		{"transport with options", func(t *nvme.Target) { t.Transport = "tcp,tls" }, false},
		{"no NQN", func(t *nvme.Target) { t.NQN = "" }, false},
		{"no address", func(t *nvme.Target) { t.TargetAddress = "" }, false},
		{"name", func(t *nvme.Target) { t.TargetAddress = "storage.example.org" }, false},
		{"localhost", func(t *nvme.Target) { t.TargetAddress = "localhost" }, false},
		{"octal", func(t *nvme.Target) { t.TargetAddress = "010.0.0.1" }, false},
		{"short IPv4", func(t *nvme.Target) { t.TargetAddress = "10.1" }, false},
		{"with port", func(t *nvme.Target) { t.TargetAddress = "10.0.0.2:4420" }, false},
		{"in brackets", func(t *nvme.Target) { t.TargetAddress = "[fd00::1]" }, false},
		{"IPv4 in IPv6", func(t *nvme.Target) { t.TargetAddress = "::ffff:10.0.0.2" }, false},
		{"unspecified", func(t *nvme.Target) { t.TargetAddress = "0.0.0.0" }, false},
		{"multicast", func(t *nvme.Target) { t.TargetAddress = "ff02::1" }, false},
		{"options in the zone", func(t *nvme.Target) { t.TargetAddress = "fe80::1%a,tls" }, false},
		{"newline in the zone", func(t *nvme.Target) { t.TargetAddress = "fe80::1%a\ntls" }, false},
		{"blank behind", func(t *nvme.Target) { t.TargetAddress = "10.0.0.2 " }, false},
		{"port 0", func(t *nvme.Target) { t.TargetPort = 0 }, false},
		{"port -1", func(t *nvme.Target) { t.TargetPort = -1 }, false},
		{"port too high", func(t *nvme.Target) { t.TargetPort = 65536 }, false},
		{"host NQN alone", func(t *nvme.Target) { t.HostID = "" }, false},
		{"host ID alone", func(t *nvme.Target) { t.HostNQN = "" }, false},
		{"bad host NQN", func(t *nvme.Target) { t.HostNQN = "node-a" }, false},
		{"bad host ID", func(t *nvme.Target) { t.HostID = "x," }, false},
		{"bad source address", func(t *nvme.Target) { t.HostTraddr = "eth0" }, false},
		{"long interface", func(t *nvme.Target) { t.HostIface = "abcdefghijklmnop" }, false},
		{"interface with options", func(t *nvme.Target) { t.HostIface = "a,tls" }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := hosted(target)
			c.change(&x)
			if err := x.Validate(); (err == nil) != c.valid || err != nil && !errors.Is(err, nvme.ErrTarget) {
				t.Errorf("%+v: %v", x, err)
			}
		})
	}
}

// FuzzTarget: what is valid cannot smuggle anything into the kernel's option
// text: there are as many options as were meant, each with the value meant.
func FuzzTarget(f *testing.F) {
	f.Add("nqn.2026-11.io.holdfast:a", "10.0.0.2", "10.0.0.1", "eth0")
	f.Add("nqn.2026-11.io.holdfast:a,tls", "fe80::1%eth0", "", "")
	f.Add("nqn.2026-11.io.holdfast:a\n", "fe80::1%a,b", "::1", "a,b")
	f.Fuzz(func(t *testing.T, nqn, address, source, iface string) {
		x := hosted(target)
		x.NQN, x.TargetAddress, x.HostTraddr, x.HostIface = nqn, address, source, iface
		if x.Validate() != nil {
			return
		}
		want := map[string]string{
			"transport": "tcp", "traddr": address, "trsvcid": "4420", "nqn": nqn, "hostnqn": x.HostNQN, "hostid": x.HostID,
			"host_traddr": source, "host_iface": iface,
		}
		text := nvme.FabricsOptions(x, nvme.ConnectionConfig{})
		for o := range strings.SplitSeq(text, ",") {
			k, v, _ := strings.Cut(o, "=")
			if want[k] != v || v == "" {
				t.Fatalf("%q: option %q", text, o)
			}
			delete(want, k)
		}
		for k, v := range want {
			if v != "" {
				t.Fatalf("%q: no %s", text, k)
			}
		}
		if strings.ContainsAny(text, "\n\x00 ") || len(text) >= 4096 {
			t.Fatalf("%q", text)
		}
	})
}
