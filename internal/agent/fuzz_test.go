package agent_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// No reference but the one that was given out is answered.
func FuzzPublicationRef(f *testing.F) {
	e := agenttest.New(f, "fast")
	a := e.StartServing(f)
	v, err := a.Service.Create(f.Context(), volume.CreateRequest{Name: "v", RequiredBytes: 1 << 20})
	if err != nil {
		f.Fatal(err)
	}
	p, err := a.Service.Publish(f.Context(), agenttest.Request(v.UUID, 1))
	if err != nil {
		f.Fatal(err)
	}
	good := agenttest.Ref(p)
	f.Add(good.Volume[:], good.Node, good.Generation, good.Token)
	f.Add(good.Volume[:], good.Node, good.Generation+1, good.Token)
	f.Add(good.Volume[:], good.Node+"|1", uint64(0), good.Token)
	f.Add([]byte{}, "", uint64(0), "")
	f.Fuzz(func(t *testing.T, id []byte, node string, generation uint64, token string) {
		ref := volume.PublicationRef{Node: node, Generation: generation, Token: token}
		copy(ref.Volume[:], id)
		_, err := a.Service.Status(t.Context(), ref)
		if ref == good && err != nil || ref != good && !errors.Is(err, volume.ErrDenied) {
			t.Errorf("%+v: %v", ref, err)
		}
	})
}

// What is accepted makes names that the kernel takes and that stay in their
// directories; what is refused leaves nothing behind.
func FuzzPublish(f *testing.F) {
	e := agenttest.New(f, "fast")
	a := e.StartServing(f)
	v, err := a.Service.Create(f.Context(), volume.CreateRequest{Name: "v", RequiredBytes: 1 << 20})
	if err != nil {
		f.Fatal(err)
	}
	good := agenttest.Request(v.UUID, 1)
	f.Add(good.Node, good.HostNQN, good.HostID, good.Profile)
	f.Add("../x-00000000", good.HostNQN, good.HostID, "")
	f.Add(good.Node, "nqn.2014-08.org.nvmexpress:uuid:..", uuid.Nil.String(), "\x00")
	f.Add(strings.Repeat("n", 183)+"-00000000", "nqn.2020-01.a:"+strings.Repeat("x", 200), good.HostID, "a=b,c")
	f.Fuzz(func(t *testing.T, node, hostNQN, hostID, profile string) {
		p, err := a.Service.Publish(t.Context(), volume.PublishRequest{Volume: v.UUID, Node: node, HostNQN: hostNQN, HostID: hostID, Profile: profile})
		if err != nil {
			if !errors.Is(err, volume.ErrInvalid) {
				t.Error(err)
			}
			return
		}
		if err := nvme.ValidateNQN(p.SubsystemNQN); err != nil {
			t.Error(err)
		}
		if !e.Kernel.Connectable(p.SubsystemNQN, hostNQN) {
			t.Errorf("host %q cannot connect", hostNQN)
		}
		if err := a.Service.Unpublish(t.Context(), v.UUID, node); err != nil {
			t.Error(err)
		}
	})
}
