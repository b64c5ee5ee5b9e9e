package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func open(t *testing.T, path string) *DB {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func wantErr(t *testing.T, err, want error, texts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not name %q", err, text)
		}
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	d := open(t, path)
	first := d.Installation()
	if _, err := volume.ParseUUID(first.ID); err != nil || len(first.Secret) != 32 {
		t.Fatalf("installation %q with %d bytes of secret: %v", first.ID, len(first.Secret), err)
	}
	v := Volume{UUID: uuid.New(), Name: "pvc-1", Pool: "fast", SizeBytes: 1 << 30, BlockSize: 4096,
		Created: time.Now().UTC().Round(0), State: VolumeReady, Formatting: true, LastGeneration: 7}
	p := Publication{Volume: v.UUID, Node: "n-00000001", Generation: 7, SubsystemNQN: "nqn", NSID: 3, NGUID: uuid.New(), State: PublicationPublished}
	s := Session{NQN: "nqn", Node: "n-00000001", HostNQN: "h", HostID: "i", Pool: "fast", Profile: "", Serial: "s", NextNSID: 4}
	err := d.Update(func(tx *Tx) error {
		return errors.Join(tx.PutVolume(v), tx.PutPublication(p), tx.PutSession(s))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	d = open(t, path)
	if diff := cmp.Diff(first.ID, d.Installation().ID); diff != "" || !bytes.Equal(first.Secret, d.Installation().Secret) {
		t.Errorf("another installation after reopening: %s", diff)
	}
	err = d.View(func(tx *Tx) error {
		gotV, err1 := tx.VolumeByName("pvc-1")
		gotP, err2 := tx.PublicationsIn("nqn")
		gotS, err3 := tx.SessionsOf("n-00000001", "fast", "")
		if diff := cmp.Diff(v, gotV) + cmp.Diff([]Publication{p}, gotP) + cmp.Diff([]Session{s}, gotS); diff != "" {
			t.Error(diff)
		}
		return errors.Join(err1, err2, err3)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestFileMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", fi.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err = Open(path)
	wantErr(t, err, volume.ErrPrecondition, path, "0640", "0600")
}

func TestLockIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open(t, path)
	start := time.Now()
	_, err := Open(path)
	wantErr(t, err, volume.ErrPrecondition, "another holdfast target is running", path)
	if d := time.Since(start); d < time.Second || d > 10*time.Second {
		t.Errorf("refused after %s, want about %s", d, lockTimeout)
	}
}

// setMeta writes to the file without this package's help.
func setMeta(t *testing.T, path, bucket, key, value string) {
	t.Helper()
	b, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = b.Update(func(tx *bbolt.Tx) error {
		bk, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return bk.Put([]byte(key), []byte(value))
	})
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestOtherSchemasAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	setMeta(t, path, bucketMeta, keySchema, "42")
	before, _ := os.ReadFile(path)
	_, err := Open(path)
	wantErr(t, err, volume.ErrPrecondition, path, "42", fmt.Sprint(schemaVersion))
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("a newer database was written to")
	}
	for _, bad := range []string{"", "0", "x"} {
		setMeta(t, path, bucketMeta, keySchema, bad)
		_, err = Open(path)
		wantErr(t, err, volume.ErrDataLoss, path)
	}
	setMeta(t, path, bucketMeta, keySchema, "1")
	setMeta(t, path, bucketMeta, keySecret, "short")
	_, err = Open(path)
	wantErr(t, err, volume.ErrDataLoss, "secret")
}

func TestForeignFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	setMeta(t, other, "something", "a", "b")
	_, err := Open(other)
	wantErr(t, err, volume.ErrPrecondition, other, "something")

	junk := filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, bytes.Repeat([]byte("junk"), 1<<14), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(junk)
	wantErr(t, err, volume.ErrDataLoss, junk)

	_, err = Open(dir)
	wantErr(t, err, volume.ErrPrecondition, dir)
	if _, err = Open(filepath.Join(dir, "no", "db")); err == nil {
		t.Error("opened in a directory that does not exist")
	}
}

func TestEmptyFileBecomesADatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if open(t, path).Installation().ID == "" {
		t.Error("no installation")
	}
}

func TestSecretDoesNotShow(t *testing.T) {
	inst := open(t, filepath.Join(t.TempDir(), "db")).Installation()
	copy(inst.Secret, "visible!")
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "inst", inst, "secret", inst.Secret)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "inst", inst, "secret", inst.Secret)
	fmt.Fprintf(&out, "%v %+v %#v %s %x %d %q ", inst, inst, inst, inst.Secret, inst.Secret, inst.Secret, inst.Secret)
	fmt.Fprint(&out, inst.Secret, &inst)
	text := strings.ToLower(out.String())
	for _, leak := range []string{"visible", "76697369", "118 105", "118, 105", "0x76", "dmlzawjs"} {
		if strings.Contains(text, leak) {
			t.Errorf("%q shows in %s", leak, text)
		}
	}
	if b, err := json.Marshal(inst.Secret); err != nil || !bytes.Contains(b, []byte("dmlzaWJs")) {
		t.Errorf("JSON is for keeping the secret, got %s, %v", b, err)
	}
}

func TestInstallationIsACopy(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	clear(d.Installation().Secret)
	if bytes.Equal(d.Installation().Secret, make([]byte, 32)) {
		t.Error("a caller changed the secret of the database")
	}
}
