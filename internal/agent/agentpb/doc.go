// Package agentpb is the generated gRPC contract of the storage host's agent.
// It holds no logic; regenerate it with `make generate` after changing
// agent.proto.
package agentpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative agent.proto
