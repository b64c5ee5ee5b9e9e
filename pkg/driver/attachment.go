package driver

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Keys of the volumeAttributes of a static PersistentVolume: a volume of a
// target that others run.
const (
	attrNQN          = "nqn"
	attrAddresses    = "addresses" // IP[:PORT], separated by commas
	attrNSID         = "nsid"
	attrUUID         = "uuid"
	attrNGUID        = "nguid"
	attrFormatIfZero = "formatIfZero"
)

// defaultPort is the NVMe/TCP I/O port registered with IANA. The kernel's own
// default is the discovery port, so it is always passed.
const defaultPort = 4420

// NodeIdentity is who this node is towards storage hosts.
type NodeIdentity struct{ NodeID, HostNQN, HostID string }

// isStatic tells a volume of somebody else's target by its attributes.
func isStatic(volumeContext map[string]string) bool {
	_, ok := volumeContext[attrNQN]
	return ok
}

// attachment builds what the node workflows need from the two contexts of CSI.
func (id NodeIdentity) attachment(volumeContext, publishContext map[string]string) (node.Attachment, error) {
	conn, err := ParseNVMEConnectionParams(volumeContext)
	if err != nil {
		return node.Attachment{}, fmt.Errorf("volume context: %w", err)
	}
	var at node.Attachment
	if isStatic(volumeContext) {
		at, err = staticAttachment(volumeContext)
	} else {
		at, err = id.managedAttachment(publishContext)
	}
	if err != nil {
		return node.Attachment{}, err
	}
	at.Session.HostNQN, at.Session.HostID = id.HostNQN, id.HostID
	at.Session.Config = conn.Config()
	at.Eager = conn.EagerReconnect
	if at.Guard, err = node.ParseGuard(volumeContext[paramGuard]); err != nil {
		return node.Attachment{}, fmt.Errorf("volume context: key %w", err)
	}
	if err := validateSession(at.Session); err != nil {
		return node.Attachment{}, err
	}
	return at, nil
}

func (id NodeIdentity) managedAttachment(publishContext map[string]string) (node.Attachment, error) {
	host, p, err := parsePublishContext(publishContext)
	if err != nil {
		return node.Attachment{}, err
	}
	if p.Node != id.NodeID {
		return node.Attachment{}, fmt.Errorf("publish context: key %s: value %q: this node is %s: %w", pubNode, p.Node, id.NodeID, volume.ErrInvalid)
	}
	portals, err := parsePortals(pubPortals, strings.Join(p.Portals, ","))
	if err != nil {
		return node.Attachment{}, fmt.Errorf("publish context: %w", err)
	}
	return node.Attachment{
		Session:  initiator.Session{NQN: p.SubsystemNQN, Portals: portals},
		Identity: initiator.Identity{NQN: p.SubsystemNQN, NSID: p.NSID, UUID: p.Volume, NGUID: p.NGUID, SizeBytes: p.SizeBytes, BlockSize: p.BlockSize},
		Managed: &node.Managed{Host: host, Ref: volume.PublicationRef{
			Volume: p.Volume, Node: p.Node, Generation: p.Generation, Token: p.Token,
		}},
	}, nil
}

func staticAttachment(attrs map[string]string) (node.Attachment, error) {
	r := contextReader{m: attrs}
	nqn := r.text(attrNQN)
	addresses := r.text(attrAddresses)
	identity := initiator.Identity{
		NQN: nqn, NSID: uint32(r.optionalNumber(attrNSID, 1, maxNSID)),
		UUID: r.optionalUUID(attrUUID), NGUID: r.optionalUUID(attrNGUID),
	}
	zero := r.flag(attrFormatIfZero)
	if r.err != nil {
		return node.Attachment{}, fmt.Errorf("volume attributes: %w", r.err)
	}
	if identity.NSID == 0 && identity == (initiator.Identity{NQN: nqn}) {
		return node.Attachment{}, fmt.Errorf("volume attributes: one of %s, %s and %s must say which namespace of %s it is: %w", attrNSID, attrUUID, attrNGUID, nqn, volume.ErrInvalid)
	}
	portals, err := parsePortals(attrAddresses, addresses)
	if err != nil {
		return node.Attachment{}, fmt.Errorf("volume attributes: %w", err)
	}
	return node.Attachment{Session: initiator.Session{NQN: nqn, Portals: portals}, Identity: identity, FormatZeroed: zero}, nil
}

// parsePortals reads IP[:PORT] pairs. Names are refused: the kernel resolves
// none, and an address that changes under a name would be another target.
func parsePortals(key, text string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for s := range strings.SplitSeq(text, ",") {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			addr, aerr := netip.ParseAddr(unbracket(s))
			if aerr != nil {
				return nil, fmt.Errorf("key %s: value %q: want numeric IP[:PORT], separated by commas: %w", key, s, volume.ErrInvalid)
			}
			ap = netip.AddrPortFrom(addr, defaultPort)
		}
		if ap.Port() == 0 || !ap.Addr().IsValid() || ap.Addr().IsUnspecified() || ap.Addr().IsMulticast() {
			return nil, fmt.Errorf("key %s: value %q: not an address that can be connected to: %w", key, s, volume.ErrInvalid)
		}
		out = append(out, ap)
	}
	return out, nil
}

// unbracket takes the brackets off an IPv6 address without a port.
func unbracket(s string) string {
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.Contains(s, ":") {
		if inner, ok := strings.CutSuffix(inner, "]"); ok {
			return inner
		}
	}
	return s
}

func validateSession(s initiator.Session) error {
	for _, t := range s.Targets() {
		if err := t.Validate(); err != nil {
			return fmt.Errorf("%w: %w", volume.ErrInvalid, err) // names key, value and rule
		}
	}
	return nil
}

// checkHandle refuses contexts that are those of another volume: a static
// volume must not have the handle of a provisioned one, and a provisioned one
// is the volume of its publication and of no other.
func checkHandle(handle string, volumeContext map[string]string, at node.Attachment) error {
	if isStatic(volumeContext) {
		return checkStaticHandle(handle)
	}
	if want := (volume.ID{Host: at.Managed.Host, UUID: at.Managed.Ref.Volume}).String(); handle != want {
		return fmt.Errorf("publish context: keys %s and %s: they name volume %s: %w", pubHost, pubUUID, want, volume.ErrInvalid)
	}
	return nil
}

func checkStaticHandle(handle string) error {
	if _, err := volume.ParseID(handle); err == nil {
		return fmt.Errorf("volume ID %q: it has the form HOST:UUID of a provisioned volume and its attributes name a static target (%s): give the static volume another handle: %w", handle, attrNQN, volume.ErrInvalid)
	}
	return nil
}
