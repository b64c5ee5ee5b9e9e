package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const deviceBytes = 100

// contents are all kinds of what a probe can find, with what matters of each.
func contents() []filesystem.Content {
	out := []filesystem.Content{{Kind: filesystem.Blank, Detail: "zeros"}, {Kind: filesystem.Other, Detail: "something"}}
	for _, kind := range []filesystem.Kind{filesystem.Ext4, filesystem.XFS} {
		for _, check := range []bool{false, true} {
			for _, declared := range []int64{0, deviceBytes, deviceBytes + 1} {
				out = append(out, filesystem.Content{Kind: kind, Detail: "a " + string(kind), NeedsCheck: check, DeclaredBytes: declared})
			}
		}
	}
	return out
}

// everyFact returns every combination of what plan decides on.
func everyFact() []formatFacts {
	var out []formatFacts
	for bits := range 1 << 6 {
		on := func(i int) bool { return bits>>i&1 == 1 }
		for _, want := range []filesystem.Kind{filesystem.Ext4, filesystem.XFS} {
			for _, c := range contents() {
				f := formatFacts{
					want: want, size: deviceBytes, content: c, readOnly: on(0), managed: on(1), mayFormatZeroed: on(2),
					status: volume.PublicationStatus{Formatting: on(3), Blank: on(4), Ended: on(5)},
				}
				// Nobody says anything of a static volume.
				if f.managed || bits>>3 == 0 {
					out = append(out, f)
				}
			}
		}
	}
	return out
}

// TestPlan states the rules once more, one by one, over every combination.
func TestPlan(t *testing.T) {
	t.Parallel()
	formats := 0
	for _, f := range everyFact() {
		act, err := plan(f)
		if err == nil && (act == formatBlank || act == formatZeroed) {
			formats++
		}
		for rule, broken := range map[string]bool{
			"an ended publication is refused": f.status.Ended != errors.Is(err, volume.ErrEnded),
			"nothing is formatted read-only":  f.readOnly && err == nil && (act == formatBlank || act == formatZeroed),
			"a managed volume is formatted only with a format on record, or when both the pool and the device are blank": err == nil && act == formatBlank &&
				(!f.managed || !f.status.Formatting && (!f.status.Blank || f.content.Kind != filesystem.Blank)),
			"a static volume is formatted only when it looks blank and the attribute allows it": err == nil && act == formatZeroed &&
				(f.managed || !f.mayFormatZeroed || f.content.Kind != filesystem.Blank),
			"what holds something and has no format on record is never formatted": err == nil && (act == formatBlank || act == formatZeroed) &&
				f.content.Kind != filesystem.Blank && !f.status.Formatting,
			"a format on record is never mounted": f.status.Formatting && err == nil && (act == mountIt || act == checkIt),
			"only the wanted kind is mounted":     err == nil && (act == mountIt || act == checkIt) && f.content.Kind != f.want,
			"what is cut off is not mounted":      err == nil && (act == mountIt || act == checkIt) && f.content.DeclaredBytes > f.size,
			"errors are checked unless read-only": err == nil && (act == checkIt) != (act != formatBlank && act != formatZeroed && f.content.NeedsCheck && !f.readOnly),
			"a refusal is final":                  err != nil && !errors.Is(err, volume.ErrPrecondition) && !errors.Is(err, volume.ErrEnded),
		} {
			if broken {
				t.Errorf("%s: %+v: action %d, error %v", rule, f, act, err)
			}
		}
	}
	if formats == 0 {
		t.Error("nothing is ever formatted")
	}
}

// TestPlanAllows is the other direction: what must be possible.
func TestPlanAllows(t *testing.T) {
	t.Parallel()
	blank, ext4 := filesystem.Content{Kind: filesystem.Blank}, filesystem.Content{Kind: filesystem.Ext4, DeclaredBytes: deviceBytes}
	xfs, other := filesystem.Content{Kind: filesystem.XFS}, filesystem.Content{Kind: filesystem.Other}
	damaged := ext4
	damaged.NeedsCheck = true
	status := func(formatting, blank bool) volume.PublicationStatus {
		return volume.PublicationStatus{Formatting: formatting, Blank: blank}
	}
	for name, c := range map[string]struct {
		facts formatFacts
		want  action
	}{
		"new":                       {formatFacts{managed: true, status: status(false, true), content: blank}, formatBlank},
		"format begun, nothing yet": {formatFacts{managed: true, status: status(true, true), content: blank}, formatBlank},
		"format begun, half":        {formatFacts{managed: true, status: status(true, false), content: other}, formatBlank},
		"format begun, all but":     {formatFacts{managed: true, status: status(true, false), content: ext4}, formatBlank},
		"format begun, other kind":  {formatFacts{managed: true, status: status(true, false), content: xfs}, formatBlank},
		"used":                      {formatFacts{managed: true, content: ext4}, mountIt},
		"used, read-only":           {formatFacts{managed: true, readOnly: true, content: damaged}, mountIt},
		"damaged":                   {formatFacts{managed: true, content: damaged}, checkIt},
		"static":                    {formatFacts{content: ext4}, mountIt},
		"static, zero":              {formatFacts{mayFormatZeroed: true, content: blank}, formatZeroed},
	} {
		f := c.facts
		f.want, f.size = filesystem.Ext4, deviceBytes
		if got, err := plan(f); err != nil || got != c.want {
			t.Errorf("%s: %d, %v; want %d", name, got, err, c.want)
		}
	}
}

// TestPlanRefuses says what each refusal tells the user.
func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	blank := filesystem.Content{Kind: filesystem.Blank, Detail: "zeros at both ends"}
	for name, c := range map[string]struct {
		facts formatFacts
		says  []string
	}{
		"ended":                 {formatFacts{managed: true, status: volume.PublicationStatus{Ended: true}, content: blank}, []string{"withdrawn"}},
		"read-only":             {formatFacts{managed: true, readOnly: true, status: volume.PublicationStatus{Blank: true}, content: blank}, []string{"read-only"}},
		"static":                {formatFacts{content: blank}, []string{"static", "formatIfZero", `"true"`}},
		"data, ends are zero":   {formatFacts{managed: true, content: blank}, []string{"holds data", "nothing is written", "ext4"}},
		"foreign":               {formatFacts{managed: true, content: filesystem.Content{Kind: filesystem.Other, Detail: "a LUKS header"}}, []string{"a LUKS header", "ext4", "not formatted"}},
		"other kind":            {formatFacts{managed: true, content: filesystem.Content{Kind: filesystem.XFS, Detail: "an XFS file system"}}, []string{"an XFS file system", "ext4"}},
		"pool blank, disk not":  {formatFacts{managed: true, status: volume.PublicationStatus{Blank: true}, content: filesystem.Content{Kind: filesystem.Other, Detail: "bytes"}}, []string{"bytes"}},
		"cut off":               {formatFacts{managed: true, content: filesystem.Content{Kind: filesystem.Ext4, DeclaredBytes: 101}}, []string{"101", "100", "cut off"}},
		"formatting, read-only": {formatFacts{managed: true, readOnly: true, status: volume.PublicationStatus{Formatting: true}, content: filesystem.Content{Kind: filesystem.Ext4}}, []string{"read-only"}},
	} {
		f := c.facts
		f.want, f.size = filesystem.Ext4, deviceBytes
		_, err := plan(f)
		for _, text := range c.says {
			if !strings.Contains(fmt.Sprint(err), text) {
				t.Errorf("%s: error %v does not say %q", name, err, text)
			}
		}
	}
}
