package nvme_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

var target = nvme.Target{Transport: "tcp", NQN: "nqn.2026-11.io.holdfast:a", TargetAddress: "10.0.0.2", TargetPort: 4420}

func hosted(t nvme.Target) nvme.Target {
	t.HostNQN = "nqn.2014-08.org.nvmexpress:uuid:5b1d8c0e-43cb-4d28-8b31-6b1f9b1f0a01"
	t.HostID = "5b1d8c0e-43cb-4d28-8b31-6b1f9b1f0a01"
	return t
}

func TestDefaultConnectionConfig(t *testing.T) {
	if got, want := nvme.DefaultConnectionConfig(), (nvme.ConnectionConfig{CtrlLossTmo: -1, ReconnectDelay: 5}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Both writers of options, beside each other.
func TestOptions(t *testing.T) {
	const base, basek = "connect -t tcp -a 10.0.0.2 -s 4420 -n nqn.2026-11.io.holdfast:a", "transport=tcp,traddr=10.0.0.2,trsvcid=4420,nqn=nqn.2026-11.io.holdfast:a"
	everything := nvme.ConnectionConfig{
		CtrlLossTmo: 600, ReconnectDelay: 1, KeepAliveTmo: 7, FastIOFailTmo: 9, NrIOQueues: 4, NrWriteQueues: 2, NrPollQueues: 3,
		QueueSize: 64, TOS: 12, HdrDigest: true, DataDigest: true, DisableSQFlow: true, DuplicateConnect: true,
	}
	full := hosted(target)
	full.HostTraddr, full.HostIface = "10.0.0.1", "eth0"
	for _, c := range []struct {
		name, args, options string
		target              nvme.Target
		config              nvme.ConnectionConfig
	}{
		{"nothing set", base, basek, target, nvme.ConnectionConfig{}},
		{"default", base + " -l -1 -c 5", basek + ",ctrl_loss_tmo=-1,reconnect_delay=5", target, nvme.DefaultConnectionConfig()},
		{"negative means unset but for the loss", base, basek, target, nvme.ConnectionConfig{ReconnectDelay: -1, KeepAliveTmo: -1, NrIOQueues: -1, TOS: -1}},
		{
			"host after the times", base + " -l 600 -k 30 -q nqn.2014-08.org.nvmexpress:uuid:5b1d8c0e-43cb-4d28-8b31-6b1f9b1f0a01 -I 5b1d8c0e-43cb-4d28-8b31-6b1f9b1f0a01",
			basek + ",hostnqn=nqn.2014-08.org.nvmexpress:uuid:5b1d8c0e-43cb-4d28-8b31-6b1f9b1f0a01,hostid=5b1d8c0e-43cb-4d28-8b31-6b1f9b1f0a01,ctrl_loss_tmo=600,keep_alive_tmo=30",
			hosted(target), nvme.ConnectionConfig{CtrlLossTmo: 600, KeepAliveTmo: 30},
		},
		{
			"everything",
			base + " -l 600 -c 1 -k 7 -q " + full.HostNQN + " -I " + full.HostID + " -w 10.0.0.1 -f eth0 --fast_io_fail_tmo 9 -i 4 -W 2 -P 3 -Q 64 -T 12 -g -G --disable-sqflow -D",
			basek + ",hostnqn=" + full.HostNQN + ",hostid=" + full.HostID + ",host_traddr=10.0.0.1,host_iface=eth0,ctrl_loss_tmo=600,reconnect_delay=1,keep_alive_tmo=7," +
				"fast_io_fail_tmo=9,nr_io_queues=4,nr_write_queues=2,nr_poll_queues=3,queue_size=64,tos=12,hdr_digest,data_digest,disable_sqflow,duplicate_connect",
			full, everything,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := strings.Join(nvme.BuildConnectArgs(c.target, c.config), " "); got != c.args {
				t.Errorf("arguments\n got %s\nwant %s", got, c.args)
			}
			if got := nvme.FabricsOptions(c.target, c.config); got != c.options {
				t.Errorf("options\n got %s\nwant %s", got, c.options)
			}
		})
	}
}

// However odd the values, one value is one argument.
func TestBuildConnectArgsKeepsValuesApart(t *testing.T) {
	odd := target
	odd.NQN, odd.HostNQN = "a -l 0", "--help"
	args := nvme.BuildConnectArgs(odd, nvme.ConnectionConfig{})
	if !slices.Contains(args, "a -l 0") || len(args) != 11 {
		t.Errorf("arguments %q", args)
	}
}
