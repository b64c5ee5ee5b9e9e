package store

import (
	"maps"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"
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
	return decode[map[string]int64](value, keyPromised)
}

func (t *Tx) count() (map[string]int64, error) {
	sums := map[string]int64{}
	all, err := t.Volumes(uuid.Nil, 0)
	for _, v := range all {
		sums[v.Pool] += v.SizeBytes
	}
	dropZeros(sums)
	return sums, err
}

// dropZeros gives equal sums one form.
func dropZeros(sums map[string]int64) {
	maps.DeleteFunc(sums, func(_ string, bytes int64) bool { return bytes == 0 })
}

// promise counts next in the place of old; a volume without a size is none. Most
// changes of a record are none of its size, and cost nothing here.
func (t *Tx) promise(old, next Volume) error {
	meta := t.bucket(bucketMeta)
	if old.Pool == next.Pool && old.SizeBytes == next.SizeBytes || meta.Get([]byte(keyPromised)) == nil {
		return nil
	}
	sums, err := t.Promised()
	if err != nil {
		return err
	}
	sums[old.Pool] -= old.SizeBytes
	sums[next.Pool] += next.SizeBytes
	dropZeros(sums)
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
