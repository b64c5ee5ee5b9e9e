package driver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func TestCreateVolume(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	v := c.create("pvc-1", map[string]string{"host": "beta", "pool": "slow", "ctrlLossTmo": "600"})
	id, err := volume.ParseID(v.GetVolumeId())
	if err != nil || id.Host != "beta" || v.GetCapacityBytes() != 8*mib || v.GetVolumeContext()["ctrlLossTmo"] != "600" {
		t.Errorf("created %v, %v", v, err)
	}
	if got, err := c.beta.Get(t.Context(), id.UUID); err != nil || got.Pool != "slow" || got.Name != "pvc-1" {
		t.Errorf("the host has %+v, %v", got, err)
	}
	for range 3 {
		if again := c.create("pvc-1", map[string]string{"host": "beta", "pool": "slow", "ctrlLossTmo": "600"}); !slices.Equal([]string{again.GetVolumeId()}, []string{v.GetVolumeId()}) {
			t.Errorf("again: %v", again)
		}
	}
	larger := createRequest("pvc-1", on("beta"))
	larger.CapacityRange.RequiredBytes = 9 * mib
	_, err = c.CreateVolume(t.Context(), larger)
	c.wantCode("larger", err, "AlreadyExists")
	larger.Name, larger.CapacityRange.RequiredBytes = "pvc-2", 1<<49
	for _, params := range []map[string]string{nil, on("beta"), {"pool": "slow"}} {
		larger.Parameters = params
		_, err = c.CreateVolume(t.Context(), larger)
		c.wantCode(fmt.Sprintf("huge, %v", params), err, "ResourceExhausted")
	}
	if got := c.handles(); len(got) != 1 {
		t.Errorf("volumes %v", got)
	}
}

// TestCreateSizes: a volume is as large as its file system needs, and what cannot be
// is refused.
func TestCreateSizes(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for i, k := range []struct {
		fsType                string // "block" for a block volume
		required, limit, want int64  // 0: refused
	}{
		{"ext4", mib, 0, 8 * mib},
		{"", mib, 0, 8 * mib},
		{"ext4", 8*mib + 1, 0, 9 * mib},
		{"ext4", mib, 8 * mib, 8 * mib},
		{"ext4", mib, 7 * mib, 0},
		{"ext4", 0, 8 * mib, 8 * mib},
		{"ext4", 0, 7 * mib, 0},
		{"xfs", mib, 0, 300 * mib},
		{"xfs", 299 * mib, 299 * mib, 0},
		{"xfs", 400 * mib, 0, 400 * mib},
		{"block", mib, mib, mib},
	} {
		req := createRequest(fmt.Sprint("v", i), on("alpha"))
		req.CapacityRange = &csi.CapacityRange{RequiredBytes: k.required, LimitBytes: k.limit}
		if k.fsType == "block" {
			req.VolumeCapabilities[0].AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		} else {
			req.VolumeCapabilities[0].GetMount().FsType = k.fsType
		}
		for range 2 { // asked again it is the same volume
			resp, err := c.CreateVolume(t.Context(), req)
			if k.want == 0 {
				c.wantCode(fmt.Sprint(k), err, "OutOfRange")
			} else if err != nil || resp.GetVolume().GetCapacityBytes() != k.want {
				t.Errorf("%v: %d, %v", k, resp.GetVolume().GetCapacityBytes(), err)
			}
		}
	}
}

// TestCreateFindsName: a volume of that name is found wherever it is, also when
// the class has lost its pin since.
func TestCreateFindsName(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for _, host := range []string{"alpha", "beta"} {
		v := c.create("on-"+host, on(host))
		for range 5 {
			if again := c.create("on-"+host, nil); again.GetVolumeId() != v.GetVolumeId() {
				t.Errorf("made %s, then %s", v.GetVolumeId(), again.GetVolumeId())
			}
		}
	}
	// Made twice by two classes that pin, the answer must still be one.
	first := c.create("both", on("alpha"))
	c.create("both", on("beta"))
	for range 20 {
		if v := c.create("both", nil); v.GetVolumeId() != first.GetVolumeId() {
			t.Fatalf("made %s, then %s", first.GetVolumeId(), v.GetVolumeId())
		}
	}
}

// TestCreateOneHostSilent: the silent host may hold the name.
func TestCreateOneHostSilent(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	known := c.create("known", on("alpha"))
	hidden := c.create("hidden", on("beta"))
	c.beta.silent.Store(true)
	for _, name := range []string{"new", "hidden"} {
		_, err := c.CreateVolume(t.Context(), createRequest(name, nil))
		c.wantCode(name, err, "Unavailable")
		if !strings.Contains(err.Error(), "beta") || !strings.Contains(err.Error(), `"host"`) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v does not say which host, and what to do", name, err)
		}
	}
	if v := c.create("known", nil); v.GetVolumeId() != known.GetVolumeId() {
		t.Errorf("found %s, want %s", v.GetVolumeId(), known.GetVolumeId())
	}
	c.create("pinned", on("alpha"))
	_, err := c.CreateVolume(t.Context(), createRequest("pinned too", on("beta")))
	c.wantCode("pinned to the silent host", err, "Unavailable")
	c.beta.silent.Store(false)
	if v := c.create("hidden", nil); v.GetVolumeId() != hidden.GetVolumeId() {
		t.Errorf("found %s, want %s", v.GetVolumeId(), hidden.GetVolumeId())
	}
}

func TestDeleteVolume(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	v := c.create("pvc", on("alpha"))
	for what, id := range map[string]string{
		"a foreign handle":    "vol-0123456789",
		"a path":              "../../etc/passwd",
		"another spelling":    strings.ToUpper(v.GetVolumeId()),
		"a UUID without host": strings.TrimPrefix(v.GetVolumeId(), "alpha:"),
		"never there":         "alpha:" + uuid.NewString(),
		"on the other host":   strings.Replace(v.GetVolumeId(), "alpha", "beta", 1),
	} {
		c.wantCode(what, c.remove(id), "OK")
	}
	if got := c.handles(); !slices.Equal(got, []string{v.GetVolumeId()}) {
		t.Fatalf("volumes %v", got)
	}
	c.wantCode("unknown host", c.remove("gamma:"+uuid.NewString()), "Unavailable")
	c.alpha.silent.Store(true)
	c.wantCode("silent host", c.remove(v.GetVolumeId()), "Unavailable")
	c.alpha.silent.Store(false)
	if _, err := c.publish(v, nodeID); err != nil {
		t.Fatal(err)
	}
	err := c.remove(v.GetVolumeId())
	c.wantCode("published", err, "FailedPrecondition")
	if !strings.Contains(err.Error(), nodeID) {
		t.Errorf("%v does not say to whom", err)
	}
	c.wantCode("unpublish", c.unpublish(v.GetVolumeId(), nodeID), "OK")
	c.wantCode("delete", c.remove(v.GetVolumeId()), "OK")
	c.wantCode("delete again", c.remove(v.GetVolumeId()), "OK")
	if got := c.handles(); len(got) != 0 {
		t.Errorf("volumes %v", got)
	}
}

func TestControllerPublish(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	v := c.create("pvc", on("alpha"))
	first, err := c.publish(v, nodeID)
	if err != nil || first["host"] != "alpha" || first["node"] != nodeID || first["generation"] != "1" || "alpha:"+first["uuid"] != v.GetVolumeId() {
		t.Fatalf("published %v, %v", first, err)
	}
	if again, err := c.publish(v, nodeID); err != nil || cmp.Diff(first, again) != "" {
		t.Errorf("again: %v %s", err, cmp.Diff(first, again))
	}
	nqn, hostID := volume.HostIdentity("cluster", nodeID)
	if p, err := c.alpha.Publications(t.Context()); err != nil || len(p) != 1 || p[0].SubsystemNQN != first["nqn"] {
		t.Errorf("the host has %v, %v; this node is %s %s", p, err, nqn, hostID)
	}
	_, err = c.publish(v, other)
	c.wantCode("to another node", err, "FailedPrecondition")
	if !strings.Contains(err.Error(), nodeID) {
		t.Errorf("%v does not say to whom it is published", err)
	}
	changed := &csi.Volume{VolumeId: v.GetVolumeId(), VolumeContext: map[string]string{"ctrlLossTmo": "7"}}
	_, err = c.publish(changed, nodeID)
	c.wantCode("with other options", err, "AlreadyExists")

	c.wantCode("the wrong node's", c.unpublish(v.GetVolumeId(), other), "OK")
	if _, err := c.publish(v, other); err == nil {
		t.Error("an unpublish of another node took the publication away")
	}
	for range 2 {
		c.wantCode("unpublish", c.unpublish(v.GetVolumeId(), nodeID), "OK")
	}
	second, err := c.publish(v, other)
	if err != nil || second["generation"] != "2" || second["nqn"] == first["nqn"] || second["token"] == first["token"] {
		t.Errorf("then %v, %v", second, err)
	}
	c.wantCode("every node", c.unpublish(v.GetVolumeId(), ""), "OK")
	if p, err := c.alpha.Publications(t.Context()); err != nil || len(p) != 0 {
		t.Errorf("left %v, %v", p, err)
	}
}

func TestControllerPublishRefuses(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	v := c.create("pvc", on("alpha"))
	static := map[string]string{"nqn": "nqn.2020-01.org.example:x", "addresses": "10.0.0.2", "nsid": "1"}
	for what, x := range map[string]struct {
		id, node string
		context  map[string]string
		code     string
		says     string
	}{
		"foreign handle":           {"vol-1", nodeID, nil, "NotFound", `"vol-1"`},
		"volume not there":         {"alpha:" + uuid.NewString(), nodeID, nil, "NotFound", ""},
		"host not there":           {"gamma:" + uuid.NewString(), nodeID, nil, "Unavailable", `"gamma"`},
		"node that cannot be":      {v.GetVolumeId(), "node1", nil, "NotFound", `"node1"`},
		"node with a path":         {v.GetVolumeId(), "../x-00000001", nil, "NotFound", `"../x-00000001"`},
		"options":                  {v.GetVolumeId(), nodeID, map[string]string{"tos": "x"}, "InvalidArgument", `volume context: parameter tos: value "x"`},
		"static with our handle":   {v.GetVolumeId(), nodeID, static, "InvalidArgument", "another handle"},
		"static, attribute broken": {"mine", nodeID, map[string]string{"nqn": "nqn.2020-01.org.example:x"}, "InvalidArgument", "key addresses"},
	} {
		_, err := c.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{VolumeId: x.id, NodeId: x.node, VolumeCapability: capability(), VolumeContext: x.context})
		c.wantCode(what, err, x.code)
		if err != nil && !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v does not say %q", what, err, x.says)
		}
	}
	resp, err := c.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{VolumeId: "mine", NodeId: nodeID, VolumeCapability: capability(), VolumeContext: static})
	if err != nil || len(resp.GetPublishContext()) != 0 {
		t.Errorf("static: %v, %v", resp, err)
	}
	c.alpha.silent.Store(true)
	_, err = c.publish(v, nodeID)
	c.wantCode("silent host", err, "Unavailable")
	c.wantCode("silent host, unpublish", c.unpublish(v.GetVolumeId(), nodeID), "Unavailable")
	c.wantCode("unknown host, unpublish", c.unpublish("gamma:"+uuid.NewString(), nodeID), "Unavailable")
	c.wantCode("foreign, unpublish", c.unpublish("vol-1", nodeID), "OK")
	c.alpha.silent.Store(false)
	for _, h := range []*host{c.alpha, c.beta} {
		if p, err := h.Publications(t.Context()); err != nil || len(p) != 0 {
			t.Errorf("published %v, %v", p, err)
		}
	}
}

func TestListVolumes(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var want []string
	for i := range 5 {
		want = append(want, c.create(fmt.Sprint(i), on([]string{"alpha", "beta"}[i%2])).GetVolumeId())
	}
	slices.Sort(want)
	if got := c.handles(); !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	for _, page := range []int32{1, 2, 3, 5, 6} {
		var got []string
		token := ""
		for range 10 {
			resp, err := c.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: page, StartingToken: token})
			if err != nil || len(resp.GetEntries()) > int(page) {
				t.Fatalf("pages of %d: %v, %v", page, resp, err)
			}
			for _, e := range resp.GetEntries() {
				got = append(got, e.GetVolume().GetVolumeId())
			}
			if token = resp.GetNextToken(); token == "" {
				break
			}
		}
		if !slices.Equal(got, want) || token != "" {
			t.Errorf("pages of %d: %v, want %v", page, got, want)
		}
	}
	// A token outlives its volume.
	if err := c.remove(want[1]); err != nil {
		t.Fatal(err)
	}
	resp, err := c.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: want[1]})
	if err != nil || len(resp.GetEntries()) != 3 {
		t.Errorf("after a deleted token: %v, %v", resp, err)
	}
	_, err = c.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: "7"})
	c.wantCode("token", err, "Aborted")
	_, err = c.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: -1})
	c.wantCode("negative", err, "InvalidArgument")
	for _, h := range []*host{c.alpha, c.beta} {
		h.silent.Store(true)
		_, err = c.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
		c.wantCode("one host silent", err, "Unavailable")
		h.silent.Store(false)
	}
}

func TestGetCapacity(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	capacity := func(params map[string]string, caps ...*csi.VolumeCapability) (int64, error) {
		resp, err := c.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: params, VolumeCapabilities: caps})
		return resp.GetAvailableCapacity(), err
	}
	for _, params := range []map[string]string{nil, on("alpha"), {"pool": "slow"}, {"host": "beta", "pool": "slow"}} {
		if n, err := capacity(params, capability()); n <= 0 || err != nil {
			t.Errorf("%v: %d, %v", params, n, err)
		}
	}
	multi := capability()
	multi.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	for what, n := range map[string]func() (int64, error){
		"for many nodes": func() (int64, error) { return capacity(nil, multi) },
		"no such pool":   func() (int64, error) { return capacity(map[string]string{"pool": "none"}) },
	} {
		if got, err := n(); got != 0 || err != nil {
			t.Errorf("%s: %d, %v", what, got, err)
		}
	}
	_, err := capacity(on("gamma"))
	c.wantCode("no such host", err, "InvalidArgument")
	_, err = capacity(map[string]string{"size": "1"})
	c.wantCode("no such key", err, "InvalidArgument")
	c.beta.silent.Store(true)
	_, err = capacity(nil)
	c.wantCode("one host silent", err, "Unavailable")
	_, err = capacity(on("beta"))
	c.wantCode("that host silent", err, "Unavailable")
	if n, err := capacity(on("alpha")); n <= 0 || err != nil {
		t.Errorf("the other host: %d, %v", n, err)
	}
}

func TestValidateVolumeCapabilities(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	v := c.create("pvc", on("alpha"))
	multi := capability()
	multi.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	validate := func(id string, caps ...*csi.VolumeCapability) (*csi.ValidateVolumeCapabilitiesResponse, error) {
		return c.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{VolumeId: id, VolumeCapabilities: caps})
	}
	if resp, err := validate(v.GetVolumeId(), capability()); err != nil || resp.GetConfirmed() == nil {
		t.Errorf("served: %v, %v", resp, err)
	}
	if resp, err := validate(v.GetVolumeId(), capability(), multi); err != nil || resp.GetConfirmed() != nil || !strings.Contains(resp.GetMessage(), "MULTI_NODE_READER_ONLY") {
		t.Errorf("not served: %v, %v", resp, err)
	}
	_, err := validate("alpha:"+uuid.NewString(), capability())
	c.wantCode("not there", err, "NotFound")
	_, err = validate("vol-1", capability())
	c.wantCode("foreign", err, "NotFound")
	_, err = validate("", capability())
	c.wantCode("no ID", err, "InvalidArgument")
	_, err = validate(v.GetVolumeId())
	c.wantCode("no capability", err, "InvalidArgument")
}

// TestCapabilities pins what is advertised: sidecars act on it.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	resp, err := c.ControllerGetCapabilities(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range resp.GetCapabilities() {
		got = append(got, x.GetRpc().GetType().String())
	}
	slices.Sort(got)
	want := []string{"CREATE_DELETE_VOLUME", "GET_CAPACITY", "LIST_VOLUMES", "PUBLISH_UNPUBLISH_VOLUME", "SINGLE_NODE_MULTI_WRITER"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Options of mkfs are judged when the volume is made, for the file system that is
// asked for, and travel to the node.
func TestFormatOptions(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for name, x := range map[string]struct{ fsType, options, says string }{
		"ext4":            {"ext4", "-m 0 -i 65536", ""},
		"the default":     {"", "-m 0", ""},
		"xfs":             {"xfs", "-m reflink=1", ""},
		"another's":       {"xfs", "-m 0", "mkfsOptions"},
		"without journal": {"ext4", "-O ^has_journal", "has_journal"},
		"a device":        {"ext4", "/dev/sda", "/dev/sda"},
		"block":           {"block", "-m 0", ""},
	} {
		req := createRequest(name, map[string]string{"mkfsOptions": x.options, "host": "alpha"})
		if x.fsType == "block" {
			req.VolumeCapabilities[0].AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		} else {
			req.VolumeCapabilities[0].AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: x.fsType}}
		}
		resp, err := c.CreateVolume(t.Context(), req)
		if x.says != "" {
			c.wantCode(name, err, "InvalidArgument")
			if !strings.Contains(err.Error(), x.says) {
				t.Errorf("%s: %v does not say %q", name, err, x.says)
			}
			continue
		}
		if err != nil || resp.GetVolume().GetVolumeContext()["mkfsOptions"] != x.options {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
}
