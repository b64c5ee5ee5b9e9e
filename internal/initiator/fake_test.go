package initiator_test

import (
	"net/netip"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/initiator/initiatortest"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

const (
	testNQN  = "nqn.2026-11.io.holdfast:test:a"
	otherNQN = "nqn.2026-11.io.holdfast:test:b"
	hostID   = "5b1d8c0e-43cb-4d28-8b31-6b1f9b1f0a01"
	hostNQN  = "nqn.2014-08.org.nvmexpress:uuid:" + hostID
)

var (
	portalA = netip.MustParseAddrPort("127.0.0.1:4421")
	portalB = netip.MustParseAddrPort("127.0.0.1:4422")
	portalC = netip.MustParseAddrPort("127.0.0.1:4423") // nobody listens
)

func targetAt(p netip.AddrPort, nqn string) nvme.Target {
	return nvme.Target{Transport: "tcp", NQN: nqn, TargetAddress: p.Addr().String(), TargetPort: int(p.Port()), HostNQN: hostNQN, HostID: hostID}
}

func testLab(rig initiatortest.Rig) initiatortest.Lab {
	return initiatortest.Lab{
		FS: rig.Options().FS, Target: targetAt(portalA, testNQN), Refused: targetAt(portalC, testNQN), Unknown: targetAt(portalA, otherNQN),
	}
}

func TestFakeConnector(t *testing.T) {
	f := initiatortest.New(t)
	f.AddSubsystem(testNQN, portalA)
	initiatortest.TestConnector(t, func(*testing.T) initiator.Connector { return f }, testLab(f))
}

func TestHostOnFake(t *testing.T) {
	initiatortest.TestHost(t, func(t *testing.T) initiatortest.Rig { return initiatortest.New(t) }, [2]netip.AddrPort{portalA, portalB})
}
