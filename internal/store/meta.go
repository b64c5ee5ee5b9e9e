package store

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"strconv"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// schemaVersion grows with every change that an older build would misread.
const schemaVersion = 1

// secretBytes is the length of the secret that signs publication tokens.
const secretBytes = 32

const (
	bucketMeta         = "meta"
	bucketVolumes      = "volumes"      // UUID → Volume
	bucketNames        = "volume-names" // name → UUID
	bucketPublications = "publications" // UUID/node → Publication
	bucketNamespaces   = "namespaces"   // NQN NUL NSID → key of the publication
	bucketSessions     = "sessions"     // NQN → Session
	bucketProfiles     = "profiles"     // node NUL pool NUL profile NUL NQN → NQN

	keySchema       = "schema"
	keyInstallation = "installation"
	keySecret       = "secret"
)

// Installation is the identity of one storage host's database.
type Installation struct {
	ID     string
	Secret Secret
}

// LogValue leaves the secret out.
func (i Installation) LogValue() slog.Value { return slog.StringValue(i.ID) }

// Secret is a key that must not reach a log: however it is printed, it does not
// show itself. Marshalling it to JSON does, because that is for keeping it.
type Secret []byte

const redacted = "[redacted]"

// String does not tell.
func (Secret) String() string { return redacted }

// LogValue does not tell.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Format does not tell, whatever the verb: %x and %v of a struct around the
// secret would go past String.
func (Secret) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

func isEmpty(tx *bbolt.Tx) (bool, error) {
	if tx.Bucket([]byte(bucketMeta)) != nil {
		return false, nil
	}
	if key, _ := tx.Cursor().First(); key != nil {
		return false, fmt.Errorf("has a bucket %q and no %q: not made by Holdfast: %w", key, bucketMeta, volume.ErrPrecondition)
	}
	return true, nil
}

// readMeta refuses what this build cannot read.
func readMeta(tx *bbolt.Tx) (Installation, error) {
	meta := tx.Bucket([]byte(bucketMeta))
	text := string(meta.Get([]byte(keySchema)))
	version, err := strconv.Atoi(text)
	if err != nil || version < 1 {
		return Installation{}, fmt.Errorf("schema version %q is not a number from 1 on: %w", text, volume.ErrDataLoss)
	}
	if version > schemaVersion {
		return Installation{}, fmt.Errorf("has schema version %d, this build reads up to %d; run the newer version: %w", version, schemaVersion, volume.ErrPrecondition)
	}
	for _, name := range buckets() {
		if tx.Bucket([]byte(name)) == nil {
			return Installation{}, fmt.Errorf("bucket %q is missing: %w", name, volume.ErrDataLoss)
		}
	}
	id, err := volume.ParseUUID(string(meta.Get([]byte(keyInstallation))))
	if err != nil {
		return Installation{}, fmt.Errorf("installation: %w: %w", err, volume.ErrDataLoss)
	}
	secret := append(Secret(nil), meta.Get([]byte(keySecret))...)
	if len(secret) != secretBytes {
		return Installation{}, fmt.Errorf("secret has %d bytes, want %d: %w", len(secret), secretBytes, volume.ErrDataLoss)
	}
	return Installation{ID: id.String(), Secret: secret}, nil
}

// initialize fills an empty database.
func initialize(tx *bbolt.Tx) (Installation, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return Installation{}, fmt.Errorf("make the installation ID: %w", err)
	}
	secret := make(Secret, secretBytes)
	if _, err := rand.Read(secret); err != nil {
		return Installation{}, fmt.Errorf("make the secret: %w", err)
	}
	for _, name := range buckets() {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return Installation{}, fmt.Errorf("make bucket %q: %w", name, err)
		}
	}
	meta := tx.Bucket([]byte(bucketMeta))
	for key, value := range map[string][]byte{
		keySchema:       []byte(strconv.Itoa(schemaVersion)),
		keyInstallation: []byte(id.String()),
		keySecret:       secret,
	} {
		if err := meta.Put([]byte(key), value); err != nil {
			return Installation{}, fmt.Errorf("write %q: %w", key, err)
		}
	}
	return Installation{ID: id.String(), Secret: secret}, nil
}

func buckets() []string {
	return []string{bucketMeta, bucketVolumes, bucketNames, bucketPublications, bucketNamespaces, bucketSessions, bucketProfiles}
}
