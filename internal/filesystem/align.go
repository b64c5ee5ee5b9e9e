package filesystem

import "unsafe"

// alignedBuffer returns n bytes that begin at a multiple of 4096, as O_DIRECT
// asks (open(2)); Go gives no such promise for slices.
func alignedBuffer(n int) []byte {
	raw := make([]byte, n+probeAlign)
	skip := 0
	if rest := int(uintptr(unsafe.Pointer(&raw[0])) % probeAlign); rest != 0 {
		skip = probeAlign - rest
	}
	return raw[skip : skip+n : skip+n]
}
