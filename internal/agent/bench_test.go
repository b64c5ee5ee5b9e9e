package agent_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// What a new volume costs a host that has none, and one that has many.
func BenchmarkCreate(b *testing.B) {
	for _, have := range []int{0, 500, 5000} {
		b.Run(fmt.Sprint(have), func(b *testing.B) {
			e := agenttest.New(b, "fast")
			db := e.OpenDB(b)
			err := db.Update(func(tx *store.Tx) error {
				for i := range have {
					v := store.Volume{UUID: uuid.New(), Name: fmt.Sprint("old", i), Pool: "fast", SizeBytes: 1, BlockSize: 4096, State: store.VolumeReady}
					if err := tx.PutVolume(v); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
			a := e.StartServing(b)
			for i := 0; b.Loop(); i++ {
				if _, err := a.Create(b.Context(), volume.CreateRequest{Name: fmt.Sprint("new", i), RequiredBytes: 1 << 20}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
