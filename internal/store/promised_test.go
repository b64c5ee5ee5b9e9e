package store

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"
)

// The sums are those of the records whatever is done to them, also after the database
// was opened again, and after a build that did not know of them has written.
func TestPromised(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d := open(t, path)
	compare := func(when string) {
		t.Helper()
		err := d.View(func(tx *Tx) error {
			want, err := tx.count()
			if err != nil {
				return err
			}
			got, err := tx.Promised()
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", when, diff)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	pools := []string{"fast", "slow"}
	for range 300 {
		err := d.Update(func(tx *Tx) error {
			v := vol(byte(1+rand.IntN(20)), "")
			v.Name, v.Pool, v.SizeBytes = v.UUID.String(), pools[rand.IntN(2)], rand.Int64N(3)<<20
			if _, err := tx.Volume(v.UUID); err == nil && rand.IntN(2) == 0 {
				return tx.DeleteVolume(v.UUID)
			}
			return tx.PutVolume(v)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	compare("after changes")
	raw := func(change func(*bbolt.Tx) error) {
		t.Helper()
		if err := d.bolt.Update(change); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d = open(t, path)
	}
	raw(func(tx *bbolt.Tx) error {
		return put(tx.Bucket([]byte(bucketVolumes)), volumeKey(uuid.UUID{15: 99}), Volume{UUID: uuid.UUID{15: 99}, Pool: "fast", SizeBytes: 7}, "x")
	})
	compare("after an older build has written")
	// A record that nobody can read: the sums are not known, and the rest is.
	raw(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketVolumes)).Put(volumeKey(uuid.UUID{15: 98}), []byte("{"))
	})
	if err := d.View(func(tx *Tx) error { _, err := tx.Promised(); return err }); err == nil {
		t.Error("a sum over a record that is not readable")
	}
	v := vol(97, "new")
	v.Pool, v.SizeBytes = "fast", 5
	if err := d.Update(func(tx *Tx) error { return tx.PutVolume(v) }); err != nil {
		t.Error(err)
	}
	raw(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucketVolumes)).Delete(volumeKey(uuid.UUID{15: 98})) })
	compare("after it was mended")
}
