package sanity

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const volumeBytes = 16 << 20

// TestSanity runs the suite of the CSI project for file systems and for raw block
// volumes, each with both guards. No spec is left out; those that it skips by itself ask
// for a capability that is not advertised, and the list below pins which.
func TestSanity(t *testing.T) {
	gomega.RegisterFailHandler(ginkgo.Fail)
	for _, what := range []string{"mount, dm", "block, dm", "mount, kernel", "block, kernel"} {
		accessType, guard, _ := strings.Cut(what, ", ")
		r := newRig(t)
		config := sanity.NewTestConfig()
		config.Address = r.endpoint
		config.TargetPath, config.StagingPath = filepath.Join(r.root, "mount"), filepath.Join(r.root, "staging")
		config.TestVolumeSize = volumeBytes
		config.TestVolumeAccessType = accessType
		config.TestVolumeParameters = map[string]string{"guard": guard}
		config.IDGen = &ids{}
		ginkgo.Describe(what, func() {
			ginkgo.AfterEach(func() { checkClean(r) })
			t.Cleanup(sanity.GinkgoTest(&config).Finalize)
		})
	}
	ginkgo.ReportAfterSuite("skipped", func(report ginkgo.Report) { checkSkipped(t, report) })
	ginkgo.RunSpecs(t, "CSI sanity")
}

// checkClean: the suite takes away what it has made, and so must the driver.
func checkClean(r *rig) {
	w := r.look()
	gomega.Expect(w.Volumes).To(gomega.BeEmpty())
	gomega.Expect(w.Publications).To(gomega.BeEmpty())
	gomega.Expect(w.Records).To(gomega.BeEmpty())
	gomega.Expect(w.Mounts).To(gomega.BeEmpty())
	gomega.Expect(w.Sessions).To(gomega.BeEmpty())
	gomega.Expect(w.Tables).To(gomega.BeEmpty())
	gomega.Expect(r.machine.Lost()).To(gomega.BeEmpty())
}

// skips are what the suite may say when it skips a spec: capabilities that the
// driver does not advertise, and the attach limit that it does not have. A
// capability that gets lost would skip its specs with another word.
var skips = []string{
	"Snapshot not supported", "CreateSnapshot not supported", "DeleteSnapshot not supported", "GetSnapshot not supported",
	"ListSnapshots not supported", "GroupControllerService not supported", "VolumeGroupSnapshots not supported",
	"SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported",
	"Volume Cloning not supported", "Modify volume not supported", "Modify Volume not supported", "ControllerModifyVolume not supported",
	"ControllerExpandVolume not supported", "NodeExpandVolume not supported",
	"ControllerGetVolumeHealth not supported", "ControllerListVolumeHealth not supported", "NodeGetStorageHealth not supported",
	"ControllerPublishVolume.readonly field not supported",
	"node does not report accessible topology", "testnodevolumeattachlimit not enabled",
}

// minRun is how many specs run at least, over all four: less means that
// the suite was not really there.
const minRun = 200

func checkSkipped(t *testing.T, report ginkgo.Report) {
	specs := report.SpecReports.WithLeafNodeType(types.NodeTypeIt)
	for _, s := range specs.WithState(types.SpecStateSkipped) {
		if !slices.ContainsFunc(skips, func(why string) bool { return strings.Contains(s.FailureMessage(), why) }) {
			t.Errorf("skipped: %s: %s", s.FullText(), s.FailureMessage())
		}
	}
	if ran := specs.CountWithState(types.SpecStatePassed); ran < minRun {
		t.Errorf("%d specs passed, want at least %d", ran, minRun)
	}
}

// ids makes handles that could be ours. Node IDs stay those of the default,
// which are none of ours: the driver keeps no list of nodes, so every well-formed
// one is a node to it.
type ids struct{ sanity.DefaultIDGenerator }

func (ids) GenerateUniqueValidVolumeID() string {
	return volume.ID{Host: agenttest.HostName, UUID: uuid.New()}.String()
}
