//go:build kernel

package initiator_test

import (
	"net/netip"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/initiator/initiatortest"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

func TestFabricsOnKernel(t *testing.T) {
	n := initiatortest.NewNvmet(t)
	n.AddSubsystem(testNQN, portalA)
	initiatortest.TestConnector(t, func(*testing.T) initiator.Connector { return initiator.NewFabrics(nvmesysfs.Default()) }, testLab(n))
}

func TestCLIOnKernel(t *testing.T) {
	n := initiatortest.NewNvmet(t)
	n.AddSubsystem(testNQN, portalA)
	initiatortest.TestConnector(t, func(*testing.T) initiator.Connector { return initiator.NewCLI(command.Exec{}) }, testLab(n))
}

func TestHostOnKernel(t *testing.T) {
	initiatortest.TestHost(t, func(t *testing.T) initiatortest.Rig { return initiatortest.NewNvmet(t) }, [2]netip.AddrPort{portalA, portalB})
}
