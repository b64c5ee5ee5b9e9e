package watch

import (
	"testing"
	"time"
)

// The kernel is made to hurry from the first controller that is away to the last
// that is back, and not again in between.
func TestHurry(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, func(r run) {
		r.pass(time.Minute)
		r.expectCalls("hurry", 0)
		r.do(func() { r.setState(0, "connecting") })
		r.pass(time.Second)
		r.expectCalls("hurry", 1)
		r.do(func() { r.setState(1, "deleting") })
		r.pass(time.Second)
		r.do(func() { r.setState(0, "live") })
		r.pass(time.Minute)
		r.expectCalls("hurry", 1)
		r.expectCalls("relax", 0)
		r.do(func() { r.setState(1, "live") })
		r.pass(scanTime - time.Second)
		r.expectCalls("relax", 0)
		r.pass(2 * time.Second)
		r.expectCalls("relax", 1)
		r.pass(time.Minute)
		r.do(func() { r.setState(0, "connecting") })
		r.pass(time.Second)
		r.expectCalls("hurry", 2)
	})
}

// Nor does it stay in a hurry for a volume that is staged no more.
func TestHurryEnds(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		r.do(func() { r.setState(0, "connecting") })
		r.pass(time.Second)
		r.expectCalls("hurry", 1)
		r.do(func() { r.volumes = nil; delete(r.tables, tableOf(0)) })
		r.pass(scanTime + time.Second)
		r.expectCalls("relax", 1)
	})
}
