package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
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
	Attachments(ctx context.Context, driver string) ([]kube.Attachment, error)
	Annotate(ctx context.Context, persistentVolume string, annotations kube.Patch) error
}

// retiree is the host itself, should it be there.
type retiree interface {
	volume.Retiree
	Info(ctx context.Context) (volume.HostInfo, error)
}

// registrar declares a storage host gone for good, and takes that back.
type registrar struct {
	host, address string // of its agent
	agent         retiree
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
	// markPause is how long nodes may take to see that an annotation is not there:
	// they look each ten seconds.
	markPause = 30 * time.Second
)

// reach says whether a machine answers at address: also one that refuses is there.
// Any error but errSilent means that it is not known.
func reach(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: reachTime}
	c, err := d.DialContext(ctx, "tcp", address)
	switch {
	case err == nil:
		return c.Close()
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET):
		return nil
	default:
		return judge(err)
	}
}

// judge is a pure function: silence is a time that passed, or the word of a router that
// the machine is not there. All else may be this machine's own trouble.
func judge(err error) error {
	var dns *net.DNSError
	var timed net.Error
	silence := errors.As(err, &timed) && timed.Timeout() || errors.Is(err, syscall.EHOSTUNREACH)
	if silence && !errors.As(err, &dns) {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	return fmt.Errorf("whether it answers is not known: %w: %w", volume.ErrUnavailable, err)
}

var errSilent = errors.New("no answer")

// holding is what Kubernetes has on the host.
type holding struct {
	volumes     []kube.PersistentVolume
	attachments []kube.Attachment
}

func (r registrar) holding(ctx context.Context) (holding, error) {
	volumes, err := r.cluster.PersistentVolumes(ctx, volume.DriverName)
	if err != nil {
		return holding{}, err
	}
	volumes = slices.DeleteFunc(volumes, func(v kube.PersistentVolume) bool {
		id, err := volume.ParseID(v.Handle)
		return err != nil || id.Host != r.host
	})
	attachments, err := r.cluster.Attachments(ctx, volume.DriverName)
	return holding{volumes, slices.DeleteFunc(attachments, func(a kube.Attachment) bool {
		return !slices.ContainsFunc(volumes, func(v kube.PersistentVolume) bool { return v.Name == a.PersistentVolume })
	})}, err
}

// addresses are all at which the host was known to answer: its agent's, and those of
// the pools that nodes are connected to.
func (r registrar) addresses(h holding) []string {
	all := []string{r.address}
	for _, a := range h.attachments {
		for portal := range strings.SplitSeq(a.Metadata["portals"], ",") {
			if portal != "" && !slices.Contains(all, portal) {
				all = append(all, portal)
			}
		}
	}
	return all
}

// silent returns an error unless the host says nothing for a while, at any address.
func (r registrar) silent(ctx context.Context, h holding, while time.Duration) error {
	addresses := r.addresses(h)
	fmt.Fprintf(r.out, "asking %s at %s whether it is there", r.host, strings.Join(addresses, ", "))
	if while > 0 {
		fmt.Fprintf(r.out, ", for %s", while)
	}
	fmt.Fprintln(r.out)
	for end := time.Now().Add(while); ; {
		for _, at := range addresses {
			switch err := r.reach(ctx, at); {
			case err == nil:
				return fmt.Errorf("%s answers at %s: a storage host that is there is not gone. Take its volumes out of use and delete them; or switch it off: %w", r.host, at, volume.ErrPrecondition)
			case !errors.Is(err, errSilent):
				return fmt.Errorf("storage host %s at %s: %w", r.host, at, err)
			}
		}
		if !time.Now().Before(end) {
			return nil
		}
		if !pause.For(ctx, askEvery) {
			return ctx.Err()
		}
	}
}

// show says what is going to be given up.
func (r registrar) show(h holding) {
	if len(h.volumes) == 0 {
		fmt.Fprintf(r.out, "no PersistentVolume of this cluster lives on %s\n", r.host)
		return
	}
	fmt.Fprintf(r.out, "%d PersistentVolumes live on %s:\n", len(h.volumes), r.host)
	t := tabwriter.NewWriter(r.out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  PERSISTENTVOLUME\tCLAIM\tSIZE\tATTACHED TO")
	for _, v := range h.volumes {
		node := "-"
		if at := slices.IndexFunc(h.attachments, func(a kube.Attachment) bool { return a.PersistentVolume == v.Name }); at >= 0 {
			node = h.attachments[at].Node
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", v.Name, v.Claim, v.Size, node)
	}
	_ = t.Flush()
	fmt.Fprintln(r.out, "THEIR PODS WILL GET I/O ERRORS INSTEAD OF WAITING. What was written and has not reached the host is lost.")
}

// retire declares the host gone. What was declared already keeps its time.
func (r registrar) retire(ctx context.Context, h holding) error {
	known, err := r.cluster.ConfigMap(ctx, r.configMap)
	if err != nil {
		return err
	}
	if _, err := retirement.Parse(r.host, known[r.host]); err != nil {
		at := retirement.Format(retirement.Next(r.host, known, time.Now()))
		if err := r.cluster.PatchConfigMap(ctx, r.configMap, kube.Patch{r.host: &at}); err != nil {
			return err
		}
	}
	if err := r.mark(ctx, h.volumes); err != nil {
		return fmt.Errorf("%s is declared gone, but not all of its volumes are marked; run it again: %w", r.host, err)
	}
	fmt.Fprintf(r.out, "%s is declared gone for good. Within a minute its volumes are given up on the nodes; then delete the pods and claims that used them.\n", r.host)
	return nil
}

// mark annotates volumes, so that the nodes give them up. A node heeds only what was
// put there during the outage that it sees: an old mark is taken away first.
func (r registrar) mark(ctx context.Context, volumes []kube.PersistentVolume) error {
	old := slices.DeleteFunc(slices.Clone(volumes), func(v kube.PersistentVolume) bool { return v.Annotations[giveup.Annotation] == "" })
	if err := r.unmark(ctx, old); err != nil {
		return err
	}
	if len(old) > 0 {
		fmt.Fprintf(r.out, "%d of them were marked before: the marks are made anew, which takes %s\n", len(old), markPause)
		if !pause.For(ctx, markPause) {
			return ctx.Err()
		}
	}
	var failed []error
	for _, v := range volumes {
		failed = append(failed, present(r.cluster.Annotate(ctx, v.Name, kube.Patch{giveup.Annotation: &v.Handle})))
	}
	return errors.Join(failed...)
}

func (r registrar) unmark(ctx context.Context, volumes []kube.PersistentVolume) error {
	var failed []error
	for _, v := range volumes {
		failed = append(failed, present(r.cluster.Annotate(ctx, v.Name, kube.Patch{giveup.Annotation: nil})))
	}
	return errors.Join(failed...)
}

// present makes nothing of what was deleted meanwhile.
func present(err error) error {
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	return err
}

// admit takes the host into service again. First the host itself: it has withdrawn
// everything before anybody believes in it again. Each step may be repeated.
func (r registrar) admit(ctx context.Context) error {
	known, err := r.cluster.ConfigMap(ctx, r.configMap)
	if err != nil {
		return err
	}
	info, err := r.agent.Info(ctx)
	if err != nil {
		return fmt.Errorf("%s has to be there to be admitted: %w", r.host, err)
	}
	at, text := info.Retired, known[r.host]
	if text != "" {
		declared, err := retirement.Parse(r.host, text)
		if err != nil {
			return err
		}
		if declared.After(at) {
			at = declared
		}
	}
	if at.IsZero() {
		fmt.Fprintf(r.out, "%s is not declared gone\n", r.host)
		return nil
	}
	if err := errors.Join(r.agent.Retire(ctx, at), r.agent.Admit(ctx, at)); err != nil {
		return fmt.Errorf("%s: %w", r.host, err)
	}
	h, err := r.holding(ctx)
	if err := errors.Join(err, r.unmark(ctx, h.volumes)); err != nil {
		return fmt.Errorf("%s is admitted, but annotations %s are left; run it again: %w", r.host, giveup.Annotation, err)
	}
	last := retirement.Format(at)
	if err := r.cluster.PatchConfigMap(ctx, r.configMap, kube.Patch{r.host: nil, retirement.AdmittedKey(r.host): &last}); err != nil {
		return err
	}
	fmt.Fprintf(r.out, "%s is in service again. What was deleted while it was away is still on its disks.\n", r.host)
	return nil
}
