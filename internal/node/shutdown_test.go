package node

import "testing"

// TestFateOf: what lives is saved, what is unreachable fails, what has ended or
// never began is left.
func TestFateOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		rec  Record
		path pathState
		want fate
	}{
		{"live", Record{Phase: Staged, Table: "t"}, pathLive, saveIt},
		{"live, without a table", Record{Phase: Staged}, pathLive, saveIt},
		{"live, an unstage is under way", Record{Phase: Unstaging, Table: "t"}, pathLive, saveIt},
		{"live, everything is written", Record{Phase: Flushed, Table: "t"}, pathLive, leaveIt},
		{"live, being staged", Record{Phase: Staging, Table: "t"}, pathLive, leaveIt},
		{"away", Record{Phase: Staged, Table: "t"}, pathWaiting, failIt},
		{"away, an unmount may hang", Record{Phase: Flushed, Table: "t"}, pathWaiting, failIt},
		{"away, mkfs may hang", Record{Phase: Staging, Table: "t"}, pathWaiting, failIt},
		{"away, without a table", Record{Phase: Staged}, pathWaiting, limitIt},
		{"nothing there yet", Record{Phase: Staging}, pathGone, leaveIt},
		{"being connected", Record{Phase: Staging}, pathWaiting, leaveIt},
		{"gone", Record{Phase: Staged}, pathGone, leaveIt},
		{"ended before", Record{Phase: Staged, Table: "t", Ended: Expired}, pathGone, leaveIt},
		{"ended before, and the look is old", Record{Phase: Staged, Table: "t", Ended: Withdrawn}, pathWaiting, leaveIt},
	} {
		if got := fateOf(c.rec, c.path); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
