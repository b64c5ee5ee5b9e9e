package nvmesysfs

import "testing"

func TestParseUevent(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Address{
		"MAJOR=239\nMINOR=0\nDEVNAME=nvme0\nNVME_TRTYPE=tcp\nNVME_TRADDR=10.77.0.10\nNVME_TRSVCID=4420\nNVME_HOST_TRADDR=none\nNVME_HOST_IFACE=none\n": {Traddr: "10.77.0.10", Trsvcid: "4420"},
		"NVME_TRADDR=fd00::1\nNVME_TRSVCID=4420\nNVME_HOST_TRADDR=fd00::2\nNVME_HOST_IFACE=lan0":                                                       {Traddr: "fd00::1", Trsvcid: "4420", HostTraddr: "fd00::2", HostIface: "lan0"},
		"": {}, "NVME_TRADDR": {}, "NVME_TRADDR=none\n": {}, "=\n\n==": {}, "DEVNAME=nvme0\nNVME_TRTYPE=pcie\n": {},
	} {
		if got := parseUevent(text); got != want {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
}
