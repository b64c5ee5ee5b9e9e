package driver

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Keys of the PublishContext. It is stored in the VolumeAttachment and may be
// out of date when it is read; nothing in it permits a format.
const (
	pubHost       = "host"
	pubNode       = "node"
	pubGeneration = "generation"
	pubNQN        = "nqn"
	pubPortals    = "portals"
	pubNSID       = "nsid"
	pubUUID       = "uuid"
	pubNGUID      = "nguid"
	pubSize       = "sizeBytes"
	pubBlockSize  = "blockSize"
	pubToken      = "token"
)

// toPublishContext carries a publication to the node.
func toPublishContext(host string, p volume.Publication) map[string]string {
	return map[string]string{
		pubHost:       host,
		pubNode:       p.Node,
		pubGeneration: strconv.FormatUint(p.Generation, 10),
		pubNQN:        p.SubsystemNQN,
		pubPortals:    strings.Join(p.Portals, ","),
		pubNSID:       strconv.FormatUint(uint64(p.NSID), 10),
		pubUUID:       p.Volume.String(),
		pubNGUID:      p.NGUID.String(),
		pubSize:       strconv.FormatInt(p.SizeBytes, 10),
		pubBlockSize:  strconv.Itoa(p.BlockSize),
		pubToken:      p.Token,
	}
}

// parsePublishContext reads it back; every field is checked, for it has been
// outside.
func parsePublishContext(m map[string]string) (host string, p volume.Publication, err error) {
	r := contextReader{m: m}
	host = r.text(pubHost)
	p = volume.Publication{
		Node:         r.text(pubNode),
		Generation:   r.number(pubGeneration, 1, 1<<63-1),
		SubsystemNQN: r.text(pubNQN),
		NSID:         uint32(r.number(pubNSID, 1, maxNSID)),
		SizeBytes:    int64(r.number(pubSize, 1, 1<<62)),
		BlockSize:    int(r.number(pubBlockSize, 512, 65536)),
		Portals:      strings.Split(r.text(pubPortals), ","),
		Token:        r.text(pubToken),
	}
	p.Volume = r.uuid(pubUUID)
	p.NGUID = r.uuid(pubNGUID)
	if r.err != nil {
		return "", volume.Publication{}, fmt.Errorf("publish context: %w", r.err)
	}
	return host, p, nil
}
