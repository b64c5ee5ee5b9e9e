package store

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// keyPromised is in the meta bucket: the sizes of all volumes by pool, so that nobody
// has to read every record to know them.
const keyPromised = "promised"

// Promised returns the sum of the sizes of all volumes, in bytes, by pool.
func (t *Tx) Promised() (map[string]int64, error) {
	value := t.bucket(bucketMeta).Get([]byte(keyPromised))
	if value == nil { // nobody could count them when the database was opened
		return t.count()
	}
	sums := map[string]int64{}
	if err := json.Unmarshal(value, &sums); err != nil {
		return nil, fmt.Errorf("%s: record is not readable: %w: %w", keyPromised, err, volume.ErrDataLoss)
	}
	return sums, nil
}

func (t *Tx) count() (map[string]int64, error) {
	sums := map[string]int64{}
	all, err := t.Volumes(uuid.Nil, 0)
	for _, v := range all {
		sums[v.Pool] += v.SizeBytes
	}
	return sums, err
}

// promise adds to the sum of a pool; a negative number takes off.
func (t *Tx) promise(pool string, bytes int64) error {
	meta := t.bucket(bucketMeta)
	if bytes == 0 || meta.Get([]byte(keyPromised)) == nil {
		return nil
	}
	sums, err := t.Promised()
	if err != nil {
		return err
	}
	if sums[pool] += bytes; sums[pool] == 0 {
		delete(sums, pool)
	}
	return put(meta, []byte(keyPromised), sums, keyPromised)
}

// recount sums up anew, because an older build may have written since. A record that
// is not readable costs the sums and not the database: other volumes are served.
func recount(tx *bbolt.Tx) error {
	t := &Tx{tx}
	meta := t.bucket(bucketMeta)
	sums, err := t.count()
	if err != nil {
		return meta.Delete([]byte(keyPromised))
	}
	if have, err := t.Promised(); err == nil && meta.Get([]byte(keyPromised)) != nil && maps.Equal(have, sums) {
		return nil
	}
	return put(meta, []byte(keyPromised), sums, keyPromised)
}
