// Command csicall makes CSI calls from inside a machine and prints how long
// they took, so that no network between the caller and the plugin is measured.
// Standard input is one JSON array of chains; a chain's calls are made one
// after another, and chains run one after another or, with -together, at once.
// For each chain it prints the seconds it took, then for all of them.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Call is one of a chain.
type Call struct {
	Method  string          `json:"method"`
	Request json.RawMessage `json:"request"`
}

var requests = map[string]func() (proto.Message, proto.Message){
	"NodeStageVolume": func() (proto.Message, proto.Message) {
		return &csi.NodeStageVolumeRequest{}, &csi.NodeStageVolumeResponse{}
	},
	"NodePublishVolume": func() (proto.Message, proto.Message) {
		return &csi.NodePublishVolumeRequest{}, &csi.NodePublishVolumeResponse{}
	},
	"NodeUnpublishVolume": func() (proto.Message, proto.Message) {
		return &csi.NodeUnpublishVolumeRequest{}, &csi.NodeUnpublishVolumeResponse{}
	},
	"NodeUnstageVolume": func() (proto.Message, proto.Message) {
		return &csi.NodeUnstageVolumeRequest{}, &csi.NodeUnstageVolumeResponse{}
	},
}

const callTime = 2 * time.Minute

func main() {
	socket := flag.String("socket", "/csi/csi.sock", "socket of the node plugin")
	together := flag.Bool("together", false, "run all chains at once")
	flag.Parse()
	if err := run(*socket, *together); err != nil {
		fmt.Fprintln(os.Stderr, "csicall:", err)
		os.Exit(1)
	}
}

func run(socket string, together bool) error {
	var chains [][]Call
	if err := json.NewDecoder(os.Stdin).Decode(&chains); err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	// The connection stands before the clock runs.
	if _, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true)); err != nil {
		return err
	}
	took, errs := make([]time.Duration, len(chains)), make([]error, len(chains))
	began := time.Now()
	var wg sync.WaitGroup
	for i, chain := range chains {
		do := func() { took[i], errs[i] = timeChain(ctx, conn, chain) }
		if together {
			wg.Go(do)
		} else {
			do()
		}
	}
	wg.Wait()
	all := time.Since(began)
	for i, d := range took {
		if errs[i] != nil {
			return errs[i]
		}
		fmt.Printf("%.6f\n", d.Seconds())
	}
	fmt.Printf("%.6f\n", all.Seconds())
	return nil
}

func timeChain(ctx context.Context, conn *grpc.ClientConn, chain []Call) (time.Duration, error) {
	began := time.Now()
	for _, c := range chain {
		make, ok := requests[c.Method]
		if !ok {
			return 0, fmt.Errorf("method %q is not known", c.Method)
		}
		req, resp := make()
		if err := protojson.Unmarshal(c.Request, req); err != nil {
			return 0, err
		}
		if err := conn.Invoke(ctx, "/csi.v1.Node/"+c.Method, req, resp); err != nil {
			return 0, fmt.Errorf("%s: %w", c.Method, err)
		}
	}
	return time.Since(began), nil
}
