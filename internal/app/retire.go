package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/holdfast-csi/holdfast/internal/giveup"
	"github.com/holdfast-csi/holdfast/internal/kube"
	"github.com/holdfast-csi/holdfast/internal/pause"
	"github.com/holdfast-csi/holdfast/internal/retirement"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// declarations is what retiring and admitting need of the API server.
type declarations interface {
	ConfigMap(ctx context.Context, name string) (map[string]string, error)
	PatchConfigMap(ctx context.Context, name string, data kube.Patch) error
	PersistentVolumes(ctx context.Context, driver string) ([]kube.PersistentVolume, error)
	Annotate(ctx context.Context, persistentVolume string, annotations kube.Patch) error
}

// registrar declares a storage host gone for good, and takes that back.
type registrar struct {
	host, address string
	agent         volume.Retiree
	cluster       declarations
	configMap     string
	reach         func(ctx context.Context, address string) error // nil: something answers
	out           io.Writer
}

const (
	// askEvery is how often a host that should be gone is tried.
	askEvery = 3 * time.Second
	// reachTime bounds one try.
	reachTime = 3 * time.Second
)

// reach says whether a machine answers at address: also one that refuses is there.
// Any error but errSilent means that it is not known.
func reach(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: reachTime}
	c, err := d.DialContext(ctx, "tcp", address)
	var dns *net.DNSError
	switch {
	case err == nil:
		return c.Close()
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET):
		return nil
	case errors.As(err, &dns):
		return fmt.Errorf("whether it answers is not known: %w: %w", volume.ErrUnavailable, err)
	default:
		return fmt.Errorf("%w: %w", errSilent, err)
	}
}

var errSilent = errors.New("no answer")

// silent returns an error unless the host says nothing for a while.
func (r registrar) silent(ctx context.Context, while time.Duration) error {
	fmt.Fprintf(r.out, "asking %s at %s for %s whether it is there\n", r.host, r.address, while)
	for end := time.Now().Add(while); ; {
		switch err := r.reach(ctx, r.address); {
		case err == nil:
			return fmt.Errorf("%s answers at %s: a storage host that is there is not gone. Take its volumes out of use and delete them; or switch it off: %w", r.host, r.address, volume.ErrPrecondition)
		case !errors.Is(err, errSilent):
			return fmt.Errorf("storage host %s: %w", r.host, err)
		}
		if !time.Now().Before(end) {
			return nil
		}
		if !pause.For(ctx, askEvery) {
			return ctx.Err()
		}
	}
}

// volumes are the PersistentVolumes that live on the host.
func (r registrar) volumes(ctx context.Context) ([]kube.PersistentVolume, error) {
	all, err := r.cluster.PersistentVolumes(ctx, volume.DriverName)
	return slices.DeleteFunc(all, func(v kube.PersistentVolume) bool {
		id, err := volume.ParseID(v.Handle)
		return err != nil || id.Host != r.host
	}), err
}

// show says what is going to be given up.
func (r registrar) show(list []kube.PersistentVolume) {
	if len(list) == 0 {
		fmt.Fprintf(r.out, "no PersistentVolume of this cluster lives on %s\n", r.host)
		return
	}
	fmt.Fprintf(r.out, "%d PersistentVolumes live on %s:\n", len(list), r.host)
	t := tabwriter.NewWriter(r.out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  PERSISTENTVOLUME\tCLAIM\tSIZE\tPHASE")
	for _, v := range list {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", v.Name, v.Claim, v.Size, v.Phase)
	}
	_ = t.Flush()
	fmt.Fprintln(r.out, "THEIR PODS WILL GET I/O ERRORS INSTEAD OF WAITING. What was written and has not reached the host is lost.")
}

// retire declares the host gone. What was declared already keeps its time.
func (r registrar) retire(ctx context.Context, list []kube.PersistentVolume) error {
	known, err := r.cluster.ConfigMap(ctx, r.configMap)
	if err != nil {
		return err
	}
	if _, err := retirement.Parse(r.host, known[r.host]); err != nil {
		at := retirement.Format(time.Now())
		if err := r.cluster.PatchConfigMap(ctx, r.configMap, kube.Patch{r.host: &at}); err != nil {
			return err
		}
	}
	var failed []error
	for _, v := range list {
		failed = append(failed, r.cluster.Annotate(ctx, v.Name, kube.Patch{giveup.Annotation: &v.Handle}))
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("%s is declared gone, but not all of its volumes are marked; run it again: %w", r.host, err)
	}
	fmt.Fprintf(r.out, "%s is declared gone for good. Within a minute its volumes are given up on the nodes; then delete the pods and claims that used them.\n", r.host)
	return nil
}

// admit takes the host into service again. First the host itself is told that it was
// declared gone, so that it has withdrawn everything when it begins anew.
func (r registrar) admit(ctx context.Context) error {
	known, err := r.cluster.ConfigMap(ctx, r.configMap)
	if err != nil {
		return err
	}
	text, there := known[r.host]
	if !there {
		fmt.Fprintf(r.out, "%s is not declared gone\n", r.host)
		return nil
	}
	at, err := retirement.Parse(r.host, text)
	if err != nil {
		return err
	}
	if err := r.agent.Retire(ctx, at); err != nil {
		return fmt.Errorf("%s has to be there to be admitted: %w", r.host, err)
	}
	if err := r.cluster.PatchConfigMap(ctx, r.configMap, kube.Patch{r.host: nil}); err != nil {
		return err
	}
	if err := r.agent.Admit(ctx, at); err != nil {
		again := r.cluster.PatchConfigMap(ctx, r.configMap, kube.Patch{r.host: &text}) // or nobody would know any more what to admit
		return errors.Join(fmt.Errorf("%s: %w", r.host, err), again)
	}
	list, err := r.volumes(ctx)
	var failed []error
	for _, v := range list {
		failed = append(failed, r.cluster.Annotate(ctx, v.Name, kube.Patch{giveup.Annotation: nil}))
	}
	if err := errors.Join(append(failed, err)...); err != nil {
		return fmt.Errorf("%s is in service again, but annotations %s are left: %w", r.host, giveup.Annotation, err)
	}
	fmt.Fprintf(r.out, "%s is in service again. What was deleted while it was away is still on its disks.\n", r.host)
	return nil
}
