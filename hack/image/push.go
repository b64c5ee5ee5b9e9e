package main

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// push pushes the index and the images in it, and returns the reference by digest. The keychain is asked for the
// registry's credentials.
func push(ctx context.Context, to name.Tag, all v1.ImageIndex, keychain authn.Keychain) (name.Digest, error) {
	if err := remote.WriteIndex(to, all, remote.WithAuthFromKeychain(keychain), remote.WithContext(ctx)); err != nil {
		return name.Digest{}, fmt.Errorf("push %s: %w", to, err)
	}
	digest, err := all.Digest()
	if err != nil {
		return name.Digest{}, fmt.Errorf("digest of %s: %w", to, err)
	}
	return to.Digest(digest.String()), nil
}
