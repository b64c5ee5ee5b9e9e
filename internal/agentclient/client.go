// Package agentclient speaks to the agent of a storage host over gRPC and turns
// its answers back into the words of internal/volume. A Client repeats nothing:
// who calls knows what may be repeated, and when. Patient does, for questions.
package agentclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"

	"github.com/holdfast-csi/holdfast/internal/agent/agentpb"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// callTime bounds a call whose context has no deadline of its own.
const callTime = 30 * time.Second

// connectSoon: a storage host that is back has to be asked soon, however long it
// was away; gRPC's own pause grows to two minutes, and an attempt that was begun
// while it was away would be waited for for twenty seconds.
var connectSoon = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
	MinConnectTimeout: 5 * time.Second,
}

// keepAlive finds a storage host that went away without a word within 15 s.
var keepAlive = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}

// Client is one storage host. It connects when it is first used and again
// whenever the connection is lost.
type Client struct {
	name    string
	conn    *grpc.ClientConn
	control agentpb.ControlClient
	node    agentpb.NodeClient
}

var (
	_ volume.Backend         = (*Client)(nil)
	_ volume.Lister          = (*Client)(nil)
	_ volume.FormatAuthority = (*Client)(nil)
	_ volume.Retiree         = (*Client)(nil)
)

// Dial prepares a connection to the agent at address, over mutual TLS. It does
// not connect yet. Name is the storage host's, for errors.
func Dial(name, address string, config *tls.Config) (*Client, error) {
	return dial(name, address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}

// InProcess connects to an agent in the same process, without a network.
func InProcess(name string, l *bufconn.Listener) (*Client, error) {
	return dial(name, "passthrough:///in-process",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
}

func dial(name, address string, options ...grpc.DialOption) (*Client, error) {
	conn, err := grpc.NewClient(address, append(options, grpc.WithKeepaliveParams(keepAlive), grpc.WithConnectParams(connectSoon), grpc.WithUnaryInterceptor(interceptor(name)))...)
	if err != nil {
		return nil, fmt.Errorf("storage host %s at %s: %w", name, address, err)
	}
	return &Client{name: name, conn: conn, control: agentpb.NewControlClient(conn), node: agentpb.NewNodeClient(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// interceptor gives every call a deadline and reads errors back.
func interceptor(name string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if _, ok := ctx.Deadline(); !ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, callTime)
			defer cancel()
		}
		err := rpcerr.FromStatus(invoke(ctx, method, req, reply, cc, opts...))
		if err != nil && (errors.Is(err, volume.ErrUnavailable) || errors.Is(err, volume.ErrPending)) {
			return fmt.Errorf("agent of storage host %s: %w", name, err)
		}
		return err
	}
}

// Info implements volume.Backend.
func (c *Client) Info(ctx context.Context) (volume.HostInfo, error) {
	r, err := c.control.GetInfo(ctx, &agentpb.GetInfoRequest{})
	if err != nil {
		return volume.HostInfo{}, err
	}
	info := volume.HostInfo{Installation: r.GetInstallation(), Version: r.GetVersion()}
	if at := r.GetRetiredUnixNano(); at != 0 {
		info.Retired = time.Unix(0, at).UTC()
	}
	for _, p := range r.GetPools() {
		info.Pools = append(info.Pools, volume.Pool{
			Name: p.GetName(), Portals: p.GetPortals(), TotalBytes: p.GetTotalBytes(), AvailableBytes: p.GetAvailableBytes(),
			BlockSize: int(p.GetBlockSize()), Problem: p.GetProblem(), Warnings: p.GetWarnings(),
		})
	}
	return info, nil
}

// Create implements volume.Backend.
func (c *Client) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	r, err := c.control.CreateVolume(ctx, &agentpb.CreateVolumeRequest{Name: req.Name, Pool: req.Pool, RequiredBytes: req.RequiredBytes, LimitBytes: req.LimitBytes})
	return toVolume(r, err)
}

// Get implements volume.Backend.
func (c *Client) Get(ctx context.Context, id uuid.UUID) (volume.Volume, error) {
	r, err := c.control.GetVolume(ctx, &agentpb.GetVolumeRequest{Uuid: id.String()})
	return toVolume(r, err)
}

// FindByName implements volume.Backend.
func (c *Client) FindByName(ctx context.Context, name string) (volume.Volume, error) {
	r, err := c.control.GetVolume(ctx, &agentpb.GetVolumeRequest{Name: name})
	return toVolume(r, err)
}

// Delete implements volume.Backend.
func (c *Client) Delete(ctx context.Context, id uuid.UUID) error {
	_, err := c.control.DeleteVolume(ctx, &agentpb.DeleteVolumeRequest{Uuid: id.String()})
	return err
}

// Publish implements volume.Backend.
func (c *Client) Publish(ctx context.Context, req volume.PublishRequest) (volume.Publication, error) {
	r, err := c.control.Publish(ctx, &agentpb.PublishRequest{VolumeUuid: req.Volume.String(), Node: req.Node, HostNqn: req.HostNQN, HostId: req.HostID, Profile: req.Profile})
	if err != nil {
		return volume.Publication{}, err
	}
	return toPublication(r)
}

// Unpublish implements volume.Backend.
func (c *Client) Unpublish(ctx context.Context, id uuid.UUID, node string) error {
	_, err := c.control.Unpublish(ctx, &agentpb.UnpublishRequest{VolumeUuid: id.String(), Node: node})
	return err
}

// List implements volume.Lister.
func (c *Client) List(ctx context.Context, after uuid.UUID, limit int) ([]volume.Volume, error) {
	req := &agentpb.ListVolumesRequest{Limit: int32(limit)}
	if after != uuid.Nil {
		req.AfterUuid = after.String()
	}
	r, err := c.control.ListVolumes(ctx, req)
	if err != nil {
		return nil, err
	}
	out := make([]volume.Volume, 0, len(r.GetVolumes()))
	for _, m := range r.GetVolumes() {
		v, err := toVolume(m, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// Publications implements volume.Lister.
func (c *Client) Publications(ctx context.Context) ([]volume.Publication, error) {
	r, err := c.control.ListPublications(ctx, &agentpb.ListPublicationsRequest{})
	if err != nil {
		return nil, err
	}
	out := make([]volume.Publication, 0, len(r.GetPublications()))
	for _, m := range r.GetPublications() {
		p, err := toPublication(m)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// Status implements volume.FormatAuthority.
func (c *Client) Status(ctx context.Context, ref volume.PublicationRef) (volume.PublicationStatus, error) {
	r, err := c.node.Status(ctx, refMessage(ref))
	if err != nil {
		return volume.PublicationStatus{}, err
	}
	return volume.PublicationStatus{Ended: r.GetEnded(), Formatting: r.GetFormatting(), Blank: r.GetBlank(), Portals: r.GetPortals()}, nil
}

// BeginFormat implements volume.FormatAuthority.
func (c *Client) BeginFormat(ctx context.Context, ref volume.PublicationRef) error {
	_, err := c.node.BeginFormat(ctx, refMessage(ref))
	return err
}

// EndFormat implements volume.FormatAuthority.
func (c *Client) EndFormat(ctx context.Context, ref volume.PublicationRef) error {
	_, err := c.node.EndFormat(ctx, refMessage(ref))
	return err
}

// Retire implements volume.Retiree.
func (c *Client) Retire(ctx context.Context, declared time.Time) error {
	_, err := c.control.Retire(ctx, &agentpb.RetireRequest{DeclaredUnixNano: declared.UnixNano()})
	return err
}

// Admit implements volume.Retiree.
func (c *Client) Admit(ctx context.Context, declared time.Time) error {
	_, err := c.control.Admit(ctx, &agentpb.AdmitRequest{DeclaredUnixNano: declared.UnixNano()})
	return err
}

func refMessage(ref volume.PublicationRef) *agentpb.PublicationRef {
	return &agentpb.PublicationRef{VolumeUuid: ref.Volume.String(), Node: ref.Node, Generation: ref.Generation, Token: ref.Token}
}

func toVolume(r *agentpb.Volume, err error) (volume.Volume, error) {
	if err != nil {
		return volume.Volume{}, err
	}
	id, err := volume.ParseUUID(r.GetUuid())
	if err != nil {
		return volume.Volume{}, fmt.Errorf("answer of the agent: %w: %v", volume.ErrUnavailable, err)
	}
	return volume.Volume{
		UUID: id, Name: r.GetName(), Pool: r.GetPool(), SizeBytes: r.GetSizeBytes(), BlockSize: int(r.GetBlockSize()),
		Created: time.Unix(0, r.GetCreatedUnixNano()).UTC(), Formatting: r.GetFormatting(),
	}, nil
}

func toPublication(r *agentpb.Publication) (volume.Publication, error) {
	id, err1 := volume.ParseUUID(r.GetVolumeUuid())
	nguid, err2 := volume.ParseUUID(r.GetNguid())
	if err := errors.Join(err1, err2); err != nil {
		return volume.Publication{}, fmt.Errorf("answer of the agent: %w: %v", volume.ErrUnavailable, err)
	}
	return volume.Publication{
		Volume: id, Node: r.GetNode(), Generation: r.GetGeneration(), SubsystemNQN: r.GetSubsystemNqn(), NSID: r.GetNsid(),
		NGUID: nguid, SizeBytes: r.GetSizeBytes(), BlockSize: int(r.GetBlockSize()), Portals: r.GetPortals(), Token: r.GetToken(),
	}, nil
}
