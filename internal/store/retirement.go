package store

import "time"

// Retirement is what was declared of the storage host. A declaration is known by the
// time at which it was made.
type Retirement struct {
	// Declared is the declaration that stands; zero: the host is in service.
	Declared time.Time
	// Admitted is the latest declaration that was taken back: it and older ones,
	// should they come again, say nothing.
	Admitted time.Time
}

// keyRetirement is in the meta bucket since there are retirements; before, a host was
// in service.
const keyRetirement = "retirement"

// Retirement returns the zero value if nothing was ever declared.
func (t *Tx) Retirement() (r Retirement, err error) {
	value := t.bucket(bucketMeta).Get([]byte(keyRetirement))
	if value == nil {
		return r, nil
	}
	return decode[Retirement](value, keyRetirement)
}

// PutRetirement replaces it.
func (t *Tx) PutRetirement(r Retirement) error {
	return put(t.bucket(bucketMeta), []byte(keyRetirement), r, keyRetirement)
}
