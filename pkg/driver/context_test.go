package driver

import (
	"errors"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

func publication() volume.Publication {
	id := uuid.New()
	return volume.Publication{
		Volume: id, Node: "node1-00000001", Generation: 1<<63 - 1, SubsystemNQN: volume.NQNPrefix + ":box1:fast:0123", NSID: maxNSID,
		NGUID: volume.NGUID(id, 7), SizeBytes: 1 << 40, BlockSize: 4096, Portals: []string{"10.0.0.2:4420", "[fd00::2]:4420"}, Token: "00ff",
	}
}

func TestPublishContextRoundTrip(t *testing.T) {
	t.Parallel()
	want := publication()
	host, got, err := parsePublishContext(toPublishContext("box1", want))
	if err != nil || host != "box1" || cmp.Diff(want, got) != "" {
		t.Errorf("%q, %v, %s", host, err, cmp.Diff(want, got))
	}
}

// TestPublishContextHostile: each key alone is missing, empty or garbage. The
// context has been outside, and nothing half-read may come of it.
func TestPublishContextHostile(t *testing.T) {
	t.Parallel()
	garbage := map[string][]string{
		pubHost:       {},
		pubNode:       {},
		pubGeneration: {"0", "-1", "+1", "1.0", "0x1", " 1", "9223372036854775808", "x"},
		pubNQN:        {},
		pubPortals:    {},
		pubNSID:       {"0", "-1", "2147483648", "4294967295", "4294967297", "1 ", "one"},
		pubUUID:       {uuid.Nil.String(), "x", strings.ToUpper(uuid.NewString()), "{" + uuid.NewString() + "}", uuid.NewString() + "\n"},
		pubNGUID:      {uuid.Nil.String(), "x", strings.ReplaceAll(uuid.NewString(), "-", "")},
		pubSize:       {"0", "-4096", "1e9", "9223372036854775807"},
		pubBlockSize:  {"0", "511", "65537", "-512", "4k"},
		pubToken:      {},
	}
	good := toPublishContext("box1", publication())
	if len(garbage) != len(good) {
		t.Errorf("%d keys are examined, the context has %d", len(garbage), len(good))
	}
	for key, values := range garbage {
		for _, v := range append(values, "", "missing") {
			m := maps.Clone(good)
			m[key] = v
			if v == "missing" {
				delete(m, key)
				v = ""
			}
			host, p, err := parsePublishContext(m)
			if !errors.Is(err, volume.ErrInvalid) || host != "" || cmp.Diff(volume.Publication{}, p) != "" {
				t.Errorf("%s=%q: %q %+v, %v", key, v, host, p, err)
				continue
			}
			if !strings.Contains(err.Error(), "publish context: key "+key+":") {
				t.Errorf("%s=%q: %v does not name the key", key, v, err)
			}
		}
	}
	if _, _, err := parsePublishContext(nil); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("no context: %v", err)
	}
}

func thisNode() NodeIdentity {
	nqn, id := volume.HostIdentity("cluster", "node1-00000001")
	return NodeIdentity{NodeID: "node1-00000001", HostNQN: nqn, HostID: id}
}

func TestManagedAttachment(t *testing.T) {
	t.Parallel()
	p, id := publication(), thisNode()
	got, err := id.attachment(map[string]string{paramReconnectDelay: "7", paramEager: "false", paramGuard: "auto"}, toPublishContext("box1", p))
	if err != nil {
		t.Fatal(err)
	}
	portals := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:4420"), netip.MustParseAddrPort("[fd00::2]:4420")}
	want := node.Attachment{
		Guard: node.GuardAuto,
		Session: initiator.Session{
			NQN: p.SubsystemNQN, HostNQN: id.HostNQN, HostID: id.HostID, Portals: portals,
			Config: with(func(c *NVMEConnectionParams) { c.ReconnectDelay = 7 }).Config(),
		},
		Identity: initiator.Identity{NQN: p.SubsystemNQN, NSID: p.NSID, UUID: p.Volume, NGUID: p.NGUID, SizeBytes: p.SizeBytes, BlockSize: p.BlockSize},
		Managed:  &node.Managed{Host: "box1", Ref: volume.PublicationRef{Volume: p.Volume, Node: p.Node, Generation: p.Generation, Token: p.Token}},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestManagedAttachmentRefuses: values that are well formed and wrong here.
func TestManagedAttachmentRefuses(t *testing.T) {
	t.Parallel()
	good := toPublishContext("box1", publication())
	for name, c := range map[string]struct {
		key, value string
		says       string
	}{
		"another node":              {pubNode, "node2-00000002", "this node is node1-00000001"},
		"NQN of nothing":            {pubNQN, "box1", `"box1"`},
		"NQN with an option":        {pubNQN, volume.NQNPrefix + ":x,duplicate_connect", "duplicate_connect"},
		"NQN with newline":          {pubNQN, volume.NQNPrefix + ":x\ny", `\n`},
		"portal with a name":        {pubPortals, "storage.example:4420", `"storage.example:4420"`},
		"portal with an option":     {pubPortals, "10.0.0.2:4420,hdr_digest", `"hdr_digest"`},
		"portal with port 0":        {pubPortals, "10.0.0.2:0", `"10.0.0.2:0"`},
		"portal with a huge port":   {pubPortals, "10.0.0.2:65536", `"10.0.0.2:65536"`},
		"portal that is everywhere": {pubPortals, "0.0.0.0:4420", `"0.0.0.0:4420"`},
		"portal for many":           {pubPortals, "[ff02::1]:4420", `"[ff02::1]:4420"`},
		"no portal between commas":  {pubPortals, "10.0.0.2:4420,,10.0.0.3:4420", `""`},
		"zone with an option":       {pubPortals, "[fe80::1%eth0,nqn=x]:4420", "eth0"},
	} {
		m := maps.Clone(good)
		m[c.key] = c.value
		at, err := thisNode().attachment(nil, m)
		if !errors.Is(err, volume.ErrInvalid) || at.Session.NQN != "" {
			t.Errorf("%s: %+v, %v", name, at, err)
			continue
		}
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q does not say %q", name, err, c.says)
		}
	}
	if _, err := thisNode().attachment(map[string]string{paramTOS: "256"}, good); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "volume context: parameter tos") {
		t.Errorf("volume context: %v", err)
	}
}

const staticNQN = "nqn.2020-01.org.example:disks"

func TestStaticAttachment(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	for name, c := range map[string]struct {
		attrs    map[string]string
		identity initiator.Identity
		portals  []string
		zeroed   bool
	}{
		"NSID":               {map[string]string{attrAddresses: "10.0.0.2", attrNSID: "1"}, initiator.Identity{NQN: staticNQN, NSID: 1}, []string{"10.0.0.2:4420"}, false},
		"highest NSID":       {map[string]string{attrAddresses: "10.0.0.2:4421", attrNSID: "2147483647"}, initiator.Identity{NQN: staticNQN, NSID: 1<<31 - 1}, []string{"10.0.0.2:4421"}, false},
		"UUID":               {map[string]string{attrAddresses: "fd00::2", attrUUID: id.String()}, initiator.Identity{NQN: staticNQN, UUID: id}, []string{"[fd00::2]:4420"}, false},
		"NGUID":              {map[string]string{attrAddresses: "[fd00::2]", attrNGUID: id.String()}, initiator.Identity{NQN: staticNQN, NGUID: id}, []string{"[fd00::2]:4420"}, false},
		"IPv6 with port":     {map[string]string{attrAddresses: "[fd00::2]:4421", attrNSID: "1"}, initiator.Identity{NQN: staticNQN, NSID: 1}, []string{"[fd00::2]:4421"}, false},
		"two, with all":      {map[string]string{attrAddresses: "10.0.0.2,10.0.1.2", attrNSID: "9", attrUUID: id.String(), attrNGUID: id.String()}, initiator.Identity{NQN: staticNQN, NSID: 9, UUID: id, NGUID: id}, []string{"10.0.0.2:4420", "10.0.1.2:4420"}, false},
		"formatted if zero":  {map[string]string{attrAddresses: "10.0.0.2", attrNSID: "1", attrFormatIfZero: "true"}, initiator.Identity{NQN: staticNQN, NSID: 1}, []string{"10.0.0.2:4420"}, true},
		"formatted explicit": {map[string]string{attrAddresses: "10.0.0.2", attrNSID: "1", attrFormatIfZero: "false"}, initiator.Identity{NQN: staticNQN, NSID: 1}, []string{"10.0.0.2:4420"}, false},
	} {
		c.attrs[attrNQN] = staticNQN
		at, err := thisNode().attachment(c.attrs, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var portals []string
		for _, p := range at.Session.Portals {
			portals = append(portals, p.String())
		}
		if at.Identity != c.identity || cmp.Diff(c.portals, portals) != "" || at.FormatZeroed != c.zeroed || at.Managed != nil || at.Session.NQN != staticNQN || at.Session.HostNQN != thisNode().HostNQN {
			t.Errorf("%s: %+v", name, at)
		}
	}
}

func TestStaticAttachmentRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change map[string]string // "-" deletes
		says   []string
	}{
		"empty NQN":             {map[string]string{attrNQN: ""}, []string{"key nqn", "empty"}},
		"no NQN":                {map[string]string{attrNQN: "disks"}, []string{"NQN", `"disks"`}},
		"NQN of discovery form": {map[string]string{attrNQN: "nqn.2014-08.org.nvmexpress:uuid:x"}, []string{"UUID"}},
		"no addresses":          {map[string]string{attrAddresses: "-"}, []string{"key addresses"}},
		"a name":                {map[string]string{attrAddresses: "storage.example"}, []string{"key addresses", `"storage.example"`, "numeric"}},
		"a list with blanks":    {map[string]string{attrAddresses: "10.0.0.2, 10.0.0.3"}, []string{`" 10.0.0.3"`}},
		"half a bracket":        {map[string]string{attrAddresses: "[10.0.0.2"}, []string{`"[10.0.0.2"`}},
		"brackets inside out":   {map[string]string{attrAddresses: "]fd00::2["}, []string{`"]fd00::2["`}},
		"IPv4 in brackets":      {map[string]string{attrAddresses: "[10.0.0.2]"}, []string{`"[10.0.0.2]"`}},
		"many brackets":         {map[string]string{attrAddresses: "[[fd00::2]]"}, []string{`"[[fd00::2]]"`}},
		"unspecified":           {map[string]string{attrAddresses: "::"}, []string{`"::"`}},
		"no identity":           {map[string]string{attrNSID: "-"}, []string{"nsid, uuid and nguid", staticNQN}},
		"NSID 0":                {map[string]string{attrNSID: "0"}, []string{"key nsid", `"0"`}},
		"NSID too high":         {map[string]string{attrNSID: "2147483648"}, []string{"key nsid", "2147483647"}},
		"broadcast NSID":        {map[string]string{attrNSID: "4294967295"}, []string{"key nsid"}},
		"empty NSID":            {map[string]string{attrNSID: ""}, []string{"key nsid"}},
		"nil UUID":              {map[string]string{attrUUID: uuid.Nil.String()}, []string{"key uuid", "36"}},
		"upper-case NGUID":      {map[string]string{attrNGUID: strings.ToUpper(uuid.NewString())}, []string{"key nguid"}},
		"format":                {map[string]string{attrFormatIfZero: "yes"}, []string{"key formatIfZero", `"yes"`, `"true"`}},
		"connection":            {map[string]string{paramQueueSize: "3"}, []string{"volume context", paramQueueSize}},
	} {
		m := map[string]string{attrNQN: staticNQN, attrAddresses: "10.0.0.2", attrNSID: "1"}
		for k, v := range c.change {
			if m[k] = v; v == "-" {
				delete(m, k)
			}
		}
		at, err := thisNode().attachment(m, nil)
		if !errors.Is(err, volume.ErrInvalid) || at.Session.NQN != "" {
			t.Errorf("%s: %+v, %v", name, at, err)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q does not say %q", name, err, text)
			}
		}
	}
}
