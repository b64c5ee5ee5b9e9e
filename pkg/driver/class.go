package driver

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/backend"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Class keys beside those of the connection (params.go).
const (
	paramHost  = "host"  // storage host, by its name in the hosts file
	paramPool  = "pool"  // pool on the storage host
	paramGuard = "guard" // what holds I/O when the device goes: auto, kernel or dm
	paramMkfs  = "mkfsOptions"
)

// sidecarPrefix marks what the sidecars add (PVC name and so on): not ours to judge.
const sidecarPrefix = "csi.storage.k8s.io/"

// What csi-provisioner adds with --extra-create-metadata, and what travels with the
// volume so that metrics and people on the node can name it by its claim.
const (
	pvcNamespace = sidecarPrefix + "pvc/namespace"
	pvcName      = sidecarPrefix + "pvc/name"
	pvName       = sidecarPrefix + "pv/name"
)

// maxManagedKeepAlive bounds keepAliveTmo for volumes of our own pools, in
// seconds: withdrawing a namespace may have to wait for it, and a fence must
// not wait longer than a pod's patience.
const maxManagedKeepAlive = 30

// Class is a StorageClass as the controller understands it.
type Class struct {
	Where      backend.Placement
	Connection NVMEConnectionParams
	Guard      string
	// FormatOptions are for mkfs, as they were given: which they may be depends on the
	// file system, which is not a class's to say.
	FormatOptions string
	// Namespace and Claim are those of the PersistentVolumeClaim, if they were told;
	// PersistentVolume is what is made for it.
	Namespace, Claim, PersistentVolume string
}

// ParseClass reads the parameters of a StorageClass. A key that is not known
// is refused: misspelt, it would be a setting that silently does nothing.
func ParseClass(params map[string]string) (Class, error) {
	known := append(ConnectionKeys(), paramHost, paramPool, paramGuard, paramMkfs)
	for k, v := range params {
		if !slices.Contains(known, k) && !strings.HasPrefix(k, sidecarPrefix) {
			slices.Sort(known)
			return Class{}, fmt.Errorf("parameter %q (value %q) is not known; known are %s: %w", k, v, strings.Join(known, ", "), volume.ErrInvalid)
		}
	}
	conn, err := ParseNVMEConnectionParams(params)
	if err != nil {
		return Class{}, err
	}
	if conn.KeepAliveTmo > maxManagedKeepAlive {
		return Class{}, fmt.Errorf("parameter %s: value %d: at most %d, because withdrawing a volume from a node may have to wait that long: %w", paramKeepAliveTmo, conn.KeepAliveTmo, maxManagedKeepAlive, volume.ErrInvalid)
	}
	c := Class{Where: backend.Placement{Host: params[paramHost], Pool: params[paramPool]}, Connection: conn, Guard: params[paramGuard], FormatOptions: params[paramMkfs], Namespace: params[pvcNamespace], Claim: params[pvcName], PersistentVolume: params[pvName]}
	for what, name := range map[string]string{paramHost: c.Where.Host, paramPool: c.Where.Pool} {
		if name == "" {
			continue
		}
		if err := volume.ValidateName("parameter "+what, name, volume.MaxHostName); err != nil {
			return Class{}, err
		}
	}
	return c, c.checkGuard()
}

func (c *Class) checkGuard() error {
	g, err := node.ParseGuard(c.Guard)
	if err != nil {
		return fmt.Errorf("parameter %w", err)
	}
	c.Guard = string(g)
	return nil
}

// volumeContext is what travels with the volume to the node.
func (c Class) volumeContext() map[string]string {
	ctx := ToVolumeContext(c.Connection)
	ctx[paramGuard] = c.Guard
	if c.FormatOptions != "" {
		ctx[paramMkfs] = c.FormatOptions
	}
	if c.Namespace != "" && c.Claim != "" {
		ctx[pvcNamespace], ctx[pvcName] = c.Namespace, c.Claim
	}
	if c.PersistentVolume != "" {
		ctx[pvName] = c.PersistentVolume
	}
	return ctx
}

// claimOf is NAMESPACE/NAME of the claim that a volume was made for; "" if that was
// not told, as with a volume of somebody else's target.
func claimOf(volumeContext map[string]string) string {
	if volumeContext[pvcNamespace] == "" || volumeContext[pvcName] == "" {
		return ""
	}
	return volumeContext[pvcNamespace] + "/" + volumeContext[pvcName]
}
