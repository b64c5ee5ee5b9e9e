package gatetest_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/gate/gatetest"
)

func TestFake(t *testing.T) {
	f := gatetest.NewFake()
	broken := errors.New("broken")
	f.SetOnOp(func(op string, port uint16) error {
		if op == "close" && port == 3 {
			return broken
		}
		return nil
	})
	if err := f.Close(2, 1); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(3); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := f.Open(2, 9); err != nil {
		t.Fatal(err)
	}
	got, err := f.Closed()
	if err != nil || !slices.Equal(got, []uint16{1}) || !f.IsClosed(1) || f.IsClosed(3) {
		t.Errorf("closed %v, %v", got, err)
	}
	want := []string{"close 2", "close 1", "open 2", "open 9"}
	if !slices.Equal(f.Events(), want) {
		t.Errorf("events %q", f.Events())
	}
	f.Reboot()
	if f.IsClosed(1) {
		t.Error("closed after a reboot")
	}
}
