package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/holdfast-csi/holdfast/internal/agent/agentpb"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// clientPing is the shortest interval at which clients may ping: below their own 10 s.
const clientPing = 5 * time.Second

// NewServer returns a gRPC server with the two services of the agent, over mutual TLS.
func NewServer(s *Service, config *tls.Config, log *slog.Logger) *grpc.Server {
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(config)),
		grpc.ChainUnaryInterceptor(Interceptor(log), Authorize),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPing, PermitWithoutStream: true}),
	)
	Register(server, s)
	return server
}

// Register puts the two services of the agent on a gRPC server.
func Register(r grpc.ServiceRegistrar, s *Service) {
	agentpb.RegisterControlServer(r, controlServer{s: s})
	agentpb.RegisterNodeServer(r, nodeServer{s: s})
}

// Interceptor maps errors to codes and logs each failed call, once.
func Interceptor(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		resp, err := next(ctx, req)
		if err != nil && !errors.Is(err, volume.ErrNotFound) {
			log.Warn("call failed", "method", path.Base(info.FullMethod), "code", rpcerr.Code(err).String(), "err", err)
		}
		return resp, rpcerr.ToStatus(err)
	}
}

// Authorize lets controllers call everything and nodes only the Node service.
// The role is in the caller's certificate, which TLS has verified.
func Authorize(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	role, err := callerRole(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", info.FullMethod, volume.ErrDenied, err)
	}
	_, forNodes := info.Server.(agentpb.NodeServer)
	if role == pki.RoleController || role == pki.RoleNode && forNodes {
		return next(ctx, req)
	}
	return nil, fmt.Errorf("%s: a certificate of role %q may not call it: %w", info.FullMethod, role, volume.ErrDenied)
}

func callerRole(ctx context.Context) (pki.Role, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", fmt.Errorf("no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return "", fmt.Errorf("no verified certificate")
	}
	return pki.RoleOf(info.State.VerifiedChains[0][0])
}

type controlServer struct {
	agentpb.UnimplementedControlServer
	s *Service
}

func (c controlServer) GetInfo(ctx context.Context, _ *agentpb.GetInfoRequest) (*agentpb.GetInfoResponse, error) {
	info, err := c.s.Info(ctx)
	if err != nil {
		return nil, err
	}
	out := &agentpb.GetInfoResponse{Installation: info.Installation, Version: info.Version}
	if !info.Retired.IsZero() {
		out.RetiredUnixNano = info.Retired.UnixNano()
	}
	for _, p := range info.Pools {
		out.Pools = append(out.Pools, &agentpb.Pool{
			Name: p.Name, Portals: p.Portals, TotalBytes: p.TotalBytes, AvailableBytes: p.AvailableBytes,
			BlockSize: int32(p.BlockSize), Problem: p.Problem, Warnings: p.Warnings,
		})
	}
	return out, nil
}

func (c controlServer) CreateVolume(ctx context.Context, r *agentpb.CreateVolumeRequest) (*agentpb.Volume, error) {
	v, err := c.s.Create(ctx, volume.CreateRequest{Name: r.GetName(), Pool: r.GetPool(), RequiredBytes: r.GetRequiredBytes(), LimitBytes: r.GetLimitBytes()})
	return volumeMessage(v), err
}

func (c controlServer) GetVolume(ctx context.Context, r *agentpb.GetVolumeRequest) (*agentpb.Volume, error) {
	if r.GetName() != "" {
		v, err := c.s.FindByName(ctx, r.GetName())
		return volumeMessage(v), err
	}
	id, err := volume.ParseUUID(r.GetUuid())
	if err != nil {
		return nil, err
	}
	v, err := c.s.Get(ctx, id)
	return volumeMessage(v), err
}

func (c controlServer) ListVolumes(ctx context.Context, r *agentpb.ListVolumesRequest) (*agentpb.ListVolumesResponse, error) {
	after := uuid.Nil
	if r.GetAfterUuid() != "" {
		var err error
		if after, err = volume.ParseUUID(r.GetAfterUuid()); err != nil {
			return nil, err
		}
	}
	vs, err := c.s.List(ctx, after, int(r.GetLimit()))
	out := &agentpb.ListVolumesResponse{}
	for _, v := range vs {
		out.Volumes = append(out.Volumes, volumeMessage(v))
	}
	return out, err
}

func (c controlServer) DeleteVolume(ctx context.Context, r *agentpb.DeleteVolumeRequest) (*agentpb.DeleteVolumeResponse, error) {
	id, err := volume.ParseUUID(r.GetUuid())
	if err == nil {
		err = c.s.Delete(ctx, id)
	}
	return &agentpb.DeleteVolumeResponse{}, err
}

func (c controlServer) Publish(ctx context.Context, r *agentpb.PublishRequest) (*agentpb.Publication, error) {
	id, err := volume.ParseUUID(r.GetVolumeUuid())
	if err != nil {
		return nil, err
	}
	p, err := c.s.Publish(ctx, volume.PublishRequest{Volume: id, Node: r.GetNode(), HostNQN: r.GetHostNqn(), HostID: r.GetHostId(), Profile: r.GetProfile()})
	return publicationMessage(p), err
}

func (c controlServer) Unpublish(ctx context.Context, r *agentpb.UnpublishRequest) (*agentpb.UnpublishResponse, error) {
	id, err := volume.ParseUUID(r.GetVolumeUuid())
	if err == nil {
		err = c.s.Unpublish(ctx, id, r.GetNode())
	}
	return &agentpb.UnpublishResponse{}, err
}

func (c controlServer) ListPublications(ctx context.Context, _ *agentpb.ListPublicationsRequest) (*agentpb.ListPublicationsResponse, error) {
	ps, err := c.s.Publications(ctx)
	out := &agentpb.ListPublicationsResponse{}
	for _, p := range ps {
		out.Publications = append(out.Publications, publicationMessage(p))
	}
	return out, err
}

func (c controlServer) Retire(ctx context.Context, r *agentpb.RetireRequest) (*agentpb.RetireResponse, error) {
	return &agentpb.RetireResponse{}, c.s.Retire(ctx, timeOf(r.GetDeclaredUnixNano()))
}

func (c controlServer) Admit(ctx context.Context, r *agentpb.AdmitRequest) (*agentpb.AdmitResponse, error) {
	return &agentpb.AdmitResponse{}, c.s.Admit(ctx, timeOf(r.GetDeclaredUnixNano()))
}

// timeOf reads a time of which 0 is none.
func timeOf(unixNano int64) time.Time {
	if unixNano == 0 {
		return time.Time{}
	}
	return time.Unix(0, unixNano).UTC()
}

type nodeServer struct {
	agentpb.UnimplementedNodeServer
	s *Service
}

func (n nodeServer) Status(ctx context.Context, r *agentpb.PublicationRef) (*agentpb.PublicationStatus, error) {
	ref, err := refOf(r)
	if err != nil {
		return nil, err
	}
	st, err := n.s.Status(ctx, ref)
	return &agentpb.PublicationStatus{Ended: st.Ended, Formatting: st.Formatting, Blank: st.Blank, Portals: st.Portals}, err
}

func (n nodeServer) BeginFormat(ctx context.Context, r *agentpb.PublicationRef) (*agentpb.BeginFormatResponse, error) {
	ref, err := refOf(r)
	if err == nil {
		err = n.s.BeginFormat(ctx, ref)
	}
	return &agentpb.BeginFormatResponse{}, err
}

func (n nodeServer) EndFormat(ctx context.Context, r *agentpb.PublicationRef) (*agentpb.EndFormatResponse, error) {
	ref, err := refOf(r)
	if err == nil {
		err = n.s.EndFormat(ctx, ref)
	}
	return &agentpb.EndFormatResponse{}, err
}

func refOf(r *agentpb.PublicationRef) (volume.PublicationRef, error) {
	id, err := volume.ParseUUID(r.GetVolumeUuid())
	return volume.PublicationRef{Volume: id, Node: r.GetNode(), Generation: r.GetGeneration(), Token: r.GetToken()}, err
}

func volumeMessage(v volume.Volume) *agentpb.Volume {
	return &agentpb.Volume{
		Uuid: v.UUID.String(), Name: v.Name, Pool: v.Pool, SizeBytes: v.SizeBytes, BlockSize: int32(v.BlockSize),
		CreatedUnixNano: v.Created.UnixNano(), Formatting: v.Formatting,
	}
}

func publicationMessage(p volume.Publication) *agentpb.Publication {
	return &agentpb.Publication{
		VolumeUuid: p.Volume.String(), Node: p.Node, Generation: p.Generation, SubsystemNqn: p.SubsystemNQN, Nsid: p.NSID,
		Nguid: p.NGUID.String(), SizeBytes: p.SizeBytes, BlockSize: int32(p.BlockSize), Portals: p.Portals, Token: p.Token,
	}
}
